"""Inference of classes from mask values: nothing is guessed silently."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.findings import Finding, apply_fixes, list_choices
from segtrain.data.inspection.infer_classes import ClassesUnclear, find_num_classes
from segtrain.data.inspection.named_values import read_soft
from segtrain.data.inspection.scan import ImageFacts, PairFacts, mask_facts
from segtrain.data.masks import UNKNOWN, MaskReader
from segtrain.data.sample import Sample


def unclear(values, label_map: dict = {}, lb_ignore: int = 255) -> Finding:
    with pytest.raises(ClassesUnclear) as raised:
        find_num_classes(dict.fromkeys(values, 10), label_map, lb_ignore)
    return raised.value.finding


def readings(finding: Finding, **given) -> list[MaskReader]:
    """Return the mask reader of each way that a finding offers, as its config makes it."""
    given = DataConfig(**given)
    if not finding.choices:
        configs = [apply_fixes(given, [finding])] if finding.fix else []
    else:
        (choices,) = list_choices(given, [finding])
        configs = [DataConfig(**given.model_dump() | fields) for _, fields in choices]
    return [
        MaskReader(len(config.classes), config.label_map, config.lb_ignore) for config in configs
    ]


def labels(reader: MaskReader, values) -> dict:
    """Return the class of each value, None where it is ignored."""
    ids = reader.ids(np.array(sorted(values))).tolist()
    assert UNKNOWN not in ids
    return {
        value: None if i == reader.lb_ignore else i
        for value, i in zip(sorted(values), ids, strict=True)
    }


@pytest.mark.parametrize(
    "values, label_map, lb_ignore, count",
    [
        ({0, 1}, {}, 255, 2),
        ({0, 1, 2, 3}, {}, 255, 4),
        ({0, 1, 255}, {}, 255, 2),
        ({0, 1, 11}, {}, 11, 2),
        ({0, 1, 2}, {2: "ignore"}, 255, 2),
        ({0, 255}, {255: 1}, 255, 2),
        ({0, 128, 255}, {128: 1, 255: 2}, 255, 3),
        (set(range(255)) | {255}, {}, 255, 255),
        (set(range(300)), {}, -1, 300),
        (set(range(66)), {}, 255, 66),
        (set(range(150)) | {255}, {}, 255, 150),
    ],
)  # fmt: skip
def test_number_of_classes(values, label_map, lb_ignore, count):
    assert find_num_classes(dict.fromkeys(values, 1), label_map, lb_ignore) == count


@pytest.mark.parametrize(
    "values, lb_ignore, ways",
    [
        # black and white: 255 is the object
        ({0, 255}, 255, [{0: 0, 255: 1}]),
        ({0, 255}, -1, [{0: 0, 255: 1}]),
        # levels of grey: 255 may be one of them or void
        ({0, 128, 255}, 255, [{0: 0, 128: 1, 255: 2}, {0: 0, 128: 1, 255: None}]),
        ({0, 85, 170, 255}, 255,
         [{0: 0, 85: 1, 170: 2, 255: 3}, {0: 0, 85: 1, 170: 2, 255: None}]),
        ({0, 50, 100, 255}, 255,
         [{0: 0, 50: 1, 100: 2, 255: 3}, {0: 0, 50: 1, 100: 2, 255: None}]),
        ({0, 128, 255}, -1, [{0: 0, 128: 1, 255: 2}]),
        ({0, 100, 200}, 255, [{0: 0, 100: 1, 200: 2}]),
        # ids with a gap: consecutive, or as they are
        ({0, 1, 3}, 255, [{0: 0, 1: 1, 3: 2}, {0: 0, 1: 1, 3: 3}]),
        ({0, 2, 5}, 255, [{0: 0, 2: 1, 5: 2}, {0: 0, 2: 2, 5: 5}]),
        ({1, 2}, 255, [{1: 0, 2: 1}, {1: 1, 2: 2}]),
        ({1, 2, 255}, 255, [{1: 0, 2: 1, 255: None}, {1: 1, 2: 2, 255: None},
                            {1: 0, 2: 1, 255: 2}]),
        ({0, 2, 255}, 255, [{0: 0, 2: 1, 255: None}, {0: 0, 2: 2, 255: None},
                            {0: 0, 2: 1, 255: 2}]),
        ({0, 1, 2}, 0, [{0: None, 1: 0, 2: 1}, {0: 0, 1: 1, 2: 2}]),
        # one value can't be trained
        ({0}, 255, []), ({255}, 255, []), ({7}, 255, []), (set(), 255, []),
    ],
)  # fmt: skip
def test_values_that_are_no_ids_are_not_guessed(values, lb_ignore, ways):
    finding = unclear(values, {}, lb_ignore)
    found = [labels(reader, values) for reader in readings(finding, lb_ignore=lb_ignore)]
    assert sorted(map(str, found)) == sorted(map(str, ways))
    assert finding.error and bool(finding.fix) == (len(ways) == 1)


@pytest.mark.parametrize("values", [{0, 1, 254}, {0, 1, 2, 3, 99}, {0, 1, 2, 99, 255}])
def test_a_value_far_from_the_ids_may_be_ignored(values):
    odd = max(values - {255})
    found = [labels(reader, values) for reader in readings(unclear(values))]
    assert any(way[odd] is None and all(way[v] == v for v in values if v < odd) for way in found)


def test_ids_of_many_classes_with_gaps_keep_every_class():
    values = set(range(150)) - {7, 80}
    for reader in readings(unclear(values)):
        assert len({*labels(reader, values).values()} - {None}) == len(values)
    assert all("smooth" not in str(f) and "JPEG" not in str(f) for f in [unclear(values)])


def test_more_values_than_classes_are_not_mapped():
    finding = unclear(range(100, 2000, 3))
    assert not finding.fix and not finding.choices and finding.advice


def test_the_users_own_entries_stay():
    finding = unclear({0, 90, 128, 200}, {128: 0, 200: 1})
    given = {"label_map": {128: 0, 200: 1}}
    for reader in readings(finding, **given):
        meaning = labels(reader, {0, 90, 128, 200})
        assert [meaning[value] for value in (128, 200, 0, 90)] == [0, 1, 2, 3]


@settings(deadline=None)
@given(st.sets(st.integers(0, 255), min_size=1, max_size=40), st.sampled_from([255, -1, 0, 7]))
def test_no_reading_loses_a_class(values: set[int], lb_ignore: int):
    """Each value is a class of its own; only lb_ignore and one far from ids may be ignored."""
    highest = max(values - {lb_ignore}, default=0)
    below = values - {lb_ignore, highest}
    far = below == set(range(len(below))) and highest >= 4 * len(below)
    try:
        count = find_num_classes(dict.fromkeys(values, 9), {}, lb_ignore)
        found = [MaskReader(count, {}, lb_ignore)]
    except ClassesUnclear as error:
        found = readings(error.finding, lb_ignore=lb_ignore)
        assert found or len(values) == 1 or values - {lb_ignore} == set() or len(values) == 2
    for reader in found:
        meaning = labels(reader, values)
        ignored = {value for value in values if meaning[value] is None}
        assert ignored <= ({lb_ignore, highest} if far else {lb_ignore})
        assert len({*meaning.values()} - {None}) == len(values) - len(ignored) >= 2


# smooth and lossy masks

BLACK_WHITE, THREE, FOUR = [0, 255], [0, 128, 255], [0, 85, 170, 255]
SOFTEN = {
    "linear": (".png", lambda m: cv2.resize(m[::2, ::2], m.shape[::-1], interpolation=1), {}),
    "cubic": (".png", lambda m: cv2.resize(m, None, fx=1.7, fy=1.7, interpolation=2), {}),
    "blurred": (".png", lambda m: cv2.GaussianBlur(m, (0, 0), 1.5), {}),
    "area": (".png", lambda m: cv2.resize(m, None, fx=0.6, fy=0.6, interpolation=3), {}),
    "JPEG": (".jpg", lambda m: m, {"quality": 90}),
    "poor JPEG": (".jpg", lambda m: m, {"quality": 50}),
    "colour JPEG": (".jpg", lambda m: np.repeat(m[..., None], 3, 2), {"quality": 75}),
    "JPEG as PNG": (".png", lambda m: through_jpeg(m, 90), {}),
    "poor JPEG as PNG": (".png", lambda m: through_jpeg(m, 60), {}),
}


def through_jpeg(mask: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)


def regions(index: int, classes: int, size: int = 24, side: int = 128) -> np.ndarray:
    """Return ids (side,side): a square of each class on background, at random places."""
    ids, rng = np.zeros((side, side), np.uint8), np.random.default_rng(index)
    for class_id in range(1, classes):
        y, x = rng.integers(0, side - size, 2)
        ids[y : y + size, x : x + size] = class_id
    return ids


def infer(folder: Path, masks: list, suffix: str = ".png", **options) -> Finding | int:
    """Write the masks and infer their classes; return the number or the finding."""
    facts = []
    for index, mask in enumerate(masks):
        path = folder / f"{index}{suffix}"
        Image.fromarray(mask).save(path, **options)
        facts.append(mask_facts(path, None))
    values: dict = {}
    for fact in facts:
        values |= fact.values
    try:
        return find_num_classes(values, {}, 255, facts)
    except ClassesUnclear as error:
        return error.finding


@pytest.mark.parametrize("levels", [BLACK_WHITE, THREE, FOUR, [0, 60, 120, 180, 240]])
@pytest.mark.parametrize("how", SOFTEN)
def test_soft_masks_are_settled_by_their_levels(tmp_path: Path, how: str, levels: list[int]):
    suffix, soften, options = SOFTEN[how]
    masks = [soften(np.array(levels, np.uint8)[regions(i, len(levels))]) for i in range(4)]
    finding = infer(tmp_path, masks, suffix, **options)
    assert isinstance(finding, Finding) and finding.kind == "lossy" if options else "smooth"
    fixes = [choice.fix for choice in finding.choices] or [finding.fix]
    assert len(fixes) == 1 + (255 in levels and len(levels) > 2)
    assert len(fixes[0]["classes"]) == len(levels) and fixes[0]["allow_lossy_masks"] is True
    mapped = sorted(fixes[0]["label_map"])
    assert all(abs(a - b) <= 2 for a, b in zip(mapped, levels[1:], strict=True)), mapped
    assert (mapped[-1] == 255) == (255 in levels)


def test_a_rare_class_is_a_level(tmp_path: Path):
    """A third of a percent of the pixels, less than those of the edges of the other."""
    masks = []
    for index in range(4):
        mask = np.zeros((256, 256), np.uint8)
        for x in range(8, 240, 16):
            mask[20:220, x : x + 6] = 255
        mask[238:252, 20 + index : 34 + index] = 128
        masks.append(cv2.resize(mask, None, fx=1.3, fy=1.3, interpolation=1))
    finding = infer(tmp_path, masks)
    assert isinstance(finding, Finding)
    assert finding.choices[0].fix["label_map"] == {128: 1, 255: 2}


@pytest.mark.parametrize("count", [2, 6, 21])
@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_ids_in_jpeg_masks_are_refused(tmp_path: Path, count: int, void: bool, quality: int):
    levels = np.array([*range(count), *[255] * void], np.uint8)
    masks = [levels[regions(i, len(levels))] for i in range(6)]
    finding = infer(tmp_path, masks, ".jpg", quality=quality)
    if quality == 50 and count == 2 and void:  # JPEG leaves nothing of a difference of 1
        return
    assert isinstance(finding, Finding) and finding.kind == "lossy"
    assert not finding.fix and not finding.choices and "PNG" in finding.advice


def test_hard_masks_tell_the_levels_of_smooth_ones(tmp_path: Path):
    hard = [regions(i, 2) * 255 for i in range(5)]
    soft = cv2.GaussianBlur(hard[0], (0, 0), 2)
    finding = infer(tmp_path, [*hard, soft])
    assert isinstance(finding, Finding) and finding.kind == "smooth"
    assert finding.fix["label_map"] == {255: 1} and finding.fix["allow_lossy_masks"] is True


@pytest.mark.parametrize("count", [5, 66, 150])
def test_ids_with_hard_edges_are_no_edges(tmp_path: Path, count: int):
    rng = np.random.default_rng(0)
    masks = []
    for index in range(8):
        mask = np.full((96, 96), index % 3, np.uint8)
        for class_id in rng.permutation(count):
            y, x = rng.integers(0, 92, 2)
            mask[y : y + 4, x : x + 4] = class_id
        masks.append(mask)
    assert infer(tmp_path, masks) == count


def test_a_thin_border_is_a_class_or_an_edge(tmp_path: Path):
    """A line of 128 between black and white may be drawn, or the edge of a resized mask."""
    masks = []
    for index in range(4):
        mask = regions(index, 2) * 255
        outline = cv2.dilate(mask, np.ones((3, 3), np.uint8)) != mask
        masks.append(np.where(outline, np.uint8(128), mask))
    finding = infer(tmp_path, masks)
    assert isinstance(finding, Finding)
    maps = [choice.fix["label_map"] for choice in finding.choices]
    assert {255: 1} in maps and {128: 1, 255: 2} in maps
    small = np.searchsorted([0, 128, 255], np.array(masks)).astype(np.uint8)
    assert infer(tmp_path, list(small)) == 3


def test_a_slip_among_few_values_is_no_smooth_edge(tmp_path: Path):
    """Noise has no flat areas, but four values are no photograph."""
    masks = [np.random.default_rng(i).integers(0, 3, (12, 12), np.uint8) for i in range(4)]
    masks[0][0, 0] = 180
    finding = infer(tmp_path, masks)
    assert isinstance(finding, Finding) and finding.kind == "classes" and "180" in finding.text
    facts = [PairFacts(Sample(tmp_path, tmp_path), ImageFacts((12, 12)), f)
             for f in (mask_facts(tmp_path / f"{i}.png", None) for i in range(4))]  # fmt: skip
    assert read_soft(facts, ["a", "b", "c"], MaskReader(3, {}, 255)) is None


def test_masks_that_gather_nowhere_are_named(tmp_path: Path):
    rng = np.random.default_rng(0)
    blobs = [cv2.resize(rng.integers(0, 256, (5, 5), np.uint8), (96, 96)) for _ in range(4)]
    finding = infer(tmp_path, blobs)
    assert isinstance(finding, Finding) and not finding.fix and not finding.choices
    assert "probability" in finding.text
