"""Drawing: polygons against a test of each pixel's centre, and anything malformed."""

from __future__ import annotations

import resource
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data.coco import _pack_shape
from segtrain.data.regions import RegionMask, draw_regions, pack_polygons
from segtrain.errors import SegtrainError, translate_errors

numbers = st.floats(-3, 27, width=16)
points = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8)


def inside(corners: list[tuple[float, float]], height: int, width: int) -> np.ndarray:
    """Even-odd rule at the centres of pixels: a ray to the right crosses an odd number of edges."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    crossed = np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if ay != by:
            between = (ay > y) != (by > y)
            crossed ^= between & (x < ax + (y - ay) / (by - ay) * (bx - ax))
    return crossed


def near_an_edge(corners: list[tuple[float, float]], height: int, width: int) -> np.ndarray:
    """Return which pixels' centres are within a pixel of the outline."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    near = np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length if length else 0 * x
        along = np.clip(along, 0, 1)
        near |= np.hypot(ax + along * (bx - ax) - x, ay + along * (by - ay) - y) <= 1
    return near


@settings(max_examples=200, deadline=None)
@given(points)
def test_polygons_are_drawn_within_a_pixel_of_their_outline(corners):
    shape = pack_polygons([[number for point in corners for number in point]])
    drawn = draw_regions([(7, shape)], (24, 20), 0)
    clear = ~near_an_edge(corners, 24, 20)
    assert (drawn == np.where(inside(corners, 24, 20), 7, 0))[clear].all()
    # paired numbers are the same, and so is the polygon alone, closed or not
    paired = [list(point) for point in corners]
    for other in ([paired], paired, [paired + paired[:1]]):
        assert (draw_regions([(7, pack_polygons(other))], (24, 20), 0) == drawn).all()


def test_values_beyond_a_byte_are_kept():
    square = (array("d", [0, 0, 2, 0, 2, 2, 0, 2]),)
    drawn = draw_regions([(65_534, square), (3, square)], (3, 4), 65_535)
    assert drawn.dtype == np.uint16
    assert drawn.tolist() == [[3, 3, 65535, 65535]] * 2 + [[65535] * 4]  # equal areas: the last


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 30)
    | st.sampled_from([2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), "1", "o", "", "é"])
    | st.floats(),
    lambda part: st.lists(part, max_size=7) | st.fixed_dictionaries({"counts": part, "size": part}),
    max_leaves=20,
)
runs = st.fixed_dictionaries({
    "counts": st.lists(st.integers(-2, 40), max_size=6) | st.text("0123456789:;<=o", max_size=9),
    "size": st.sampled_from([[6, 5], [6.0, 5], ["6", "5"], [5, 6], [6], None, [10**9, 10**9]]),
})  # fmt: skip
polygon = st.lists(st.lists(st.floats() | st.integers(-9, 9), max_size=12), max_size=3)


@settings(max_examples=400, deadline=None)
@given(anything | runs | polygon, st.sampled_from([(6, 5), None]))
def test_any_segmentation_is_drawn_or_refused_in_one_line(segmentation, size):
    try:
        with translate_errors(lambda error: f"wrong ({error!r})"):
            shape, size = _pack_shape(segmentation, size)
        mask = RegionMask(Path("a.json"), 1, size or (6, 5), 0, ((4, shape),) if shape else ())
        drawn = mask.values(1000)
    except SegtrainError as error:
        assert "\n" not in str(error).replace(repr(segmentation), "")
        return
    assert drawn.shape == (6, 5) and set(np.unique(drawn)) <= {0, 4}


@pytest.mark.parametrize("size", [(46_000, 46_000), (1, 2**40), (2**40, 1)])
def test_a_size_beyond_max_pixels_takes_no_memory(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    square = (array("d", [0, 0, 2, 0, 2, 2, 0, 2]),)
    with pytest.raises(SegtrainError, match=r"a.json \(image 1\): .* data.max_pixels"):
        RegionMask(Path("a.json"), 1, size, 0, ((4, square),)).values()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
