"""Polygons of masks: drawn again by pycocotools they give back the mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as rle

from segtrain.errors import UsageError
from segtrain.prediction.vector_files import COCO_FILE, CocoFile, annotate, save_geojson
from segtrain.prediction.vectors import Polygon, trace_polygons

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2))
)


def trace(mask: np.ndarray, simplify: float = 0) -> list[Polygon]:
    confidence = (np.arange(mask.size) % 256).reshape(mask.shape)
    return list(trace_polygons(mask, confidence, 3, simplify))


def draw(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what a ring of horizontal and vertical lines encloses, by the lines to the left."""
    flips = np.zeros((shape[0], shape[1] + 1), bool)
    for (x, y), (next_x, next_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if x == next_x:
            flips[min(y, next_y) : max(y, next_y), x] ^= True
    return np.logical_xor.accumulate(flips, axis=1)[:, :-1]


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_polygons_are_the_mask(mask: np.ndarray):
    drawn, sums = np.full(mask.shape, -1), 0.0
    for polygon in trace(mask):
        for ring in [polygon.outline, *polygon.holes]:
            assert len({tuple(corner) for corner in ring}) == len(ring)  # it doesn't meet itself
            across = np.diff(ring, axis=0, append=ring[:1]) != 0
            assert (across.sum(1) == 1).all()  # along the pixels
            assert (across != np.roll(across, 1, axis=0)).all()  # no corner is needless
        inside = draw(polygon.outline, mask.shape)
        for hole in polygon.holes:
            assert inside[draw(hole, mask.shape)].all()
            inside &= ~draw(hole, mask.shape)
        assert inside.sum() == polygon.pixels and (drawn[inside] == -1).all()
        drawn[inside] = polygon.class_id
        sums += polygon.confidence * polygon.pixels * 255
    assert np.array_equal(drawn, mask)
    assert sums == pytest.approx((np.arange(mask.size) % 256).sum())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_annotations_of_coco_are_the_mask(mask: np.ndarray):
    drawn = np.full(mask.shape, -1)
    for polygon in trace(mask):
        found = annotate(polygon, mask.shape, polygon.class_id)
        shape = found["segmentation"]
        if isinstance(shape, list):
            shape = rle.frPyObjects(shape, *mask.shape)[0]
        inside = rle.decode(shape) > 0
        assert inside.sum() == found["area"] == int(rle.area(shape))
        assert rle.toBbox(shape).tolist() == found["bbox"]
        drawn[inside] = found["category_id"]
    assert np.array_equal(drawn, mask)


@settings(max_examples=50, deadline=None)
@given(MASKS)
def test_other_values_are_in_no_polygon(mask: np.ndarray):
    """As if they were a class whose polygons are left out."""
    nodata = np.where(mask == 2, 255, mask).astype(np.uint8)
    found, expected = (
        [(p.class_id, p.pixels, p.outline.tolist()) for p in trace(each) if p.class_id < 2]
        for each in (nodata, mask)
    )
    assert found == expected


def test_regions_touch_by_sides():
    """Pixels that touch by a corner alone are two regions; such holes are two rings."""
    cross = np.array([[1, 0], [0, 1]], np.uint8)
    assert [(p.class_id, p.pixels) for p in trace(cross)] == [(0, 1), (0, 1), (1, 1), (1, 1)]
    around = [p for p in trace(np.pad(cross, 1)) if p.holes]
    assert [(p.pixels, len(p.holes)) for p in around] == [(14, 2)]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_simplified_outlines_move_by_no_more_than_asked():
    """Stairs become a line, and a hole of one pixel goes."""
    mask = np.tri(40, dtype=np.uint8)
    mask[30, 5] = 0
    (triangle,) = [p for p in trace(mask, 1.5) if p.class_id == 1]
    assert len(triangle.outline) <= 5 and not triangle.holes
    assert triangle.pixels == mask.sum()
    flat = triangle.outline.astype(float).ravel().tolist()
    drawn = rle.decode(rle.frPyObjects([flat], *mask.shape)[0]) > 0
    assert (drawn & (mask == 1)).sum() / (drawn | (mask == 1)).sum() > 0.9


def test_many_regions_are_written_one_by_one(tmp_path: Path):
    mask = (np.indices((100, 100)).sum(0) % 2).astype(np.uint8)
    save_geojson(tmp_path / "a.geojson", trace(mask), ["a", "ü", "c"])
    features = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]
    assert len(features) == mask.size
    assert features[-1]["properties"]["class"] == "ü"
    ring = features[0]["geometry"]["coordinates"][0]
    assert ring == [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    "classes, ids",
    [(["background", "a"], [1]), (["a", "b"], [1, 2]), (["a", "background"], [1, 2])],
)
def test_categories_are_numbered_from_one(tmp_path: Path, classes: list[str], ids: list[int]):
    assert [c["id"] for c in CocoFile(tmp_path, classes).categories] == ids


def test_files_of_others_are_left_alone(tmp_path: Path):
    (tmp_path / COCO_FILE).write_text('{"info": {"description": "mine"}, "images": []}')
    with pytest.raises(UsageError, match="take another --out"):
        CocoFile(tmp_path, ["a", "b"])
    assert "mine" in (tmp_path / COCO_FILE).read_text()
