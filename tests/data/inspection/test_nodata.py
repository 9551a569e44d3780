"""Nodata that may be a class: the end of a scale, the background, a tag of some files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.survey import Survey, inspect_data_set

SIZE = 12
COUNT = 6


def ids(i: int, classes: int = 4) -> np.ndarray:
    """Stripes of all classes, in another order in each image."""
    rows = np.random.default_rng(i).permutation(SIZE) % classes
    return np.repeat(rows[:, None], SIZE, 1)


def write(root: Path, mask: Callable[[int], np.ndarray], tag: Callable[[int], str | None]) -> str:
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(COUNT):
        noise = np.random.default_rng(i).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(noise).save(root / f"images/{i}.png")
        tags = [(42113, "s", 0, tag(i), True)] if tag(i) else []
        tifffile.imwrite(root / f"masks/{i}.tif", mask(i), extratags=tags)
    return str(root)


def errors(path: str, fields: dict[str, Any]) -> list[Finding]:
    config = DataConfig.model_validate({"path": path, **fields})
    return [finding for finding in inspect_data_set(config, full=True).findings if finding.error]


def read(path: str, fields: dict[str, Any]) -> dict[int, np.ndarray]:
    found = inspect_data_set(DataConfig.model_validate({"path": path, **fields}), full=True)
    assert isinstance(found, Survey) and not any(f.error for f in found.findings), found.findings
    samples = [sample for split in found.data_set.splits.values() for sample in split]
    return {int(sample.name): found.data_set.masks(sample.mask) for sample in samples}


def choice_with(finding: Finding, word: str) -> Choice:
    return next(choice for choice in finding.choices if word in choice.meaning)


def no_tag(i: int) -> None:
    return None


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("levels", "dtype"),
    [
        ([0, 21845, 43690, 65535], np.uint16),
        ([0, 32768, 65535], np.uint16),
        ([0, 16000, 32767], np.int16),
        ([100, 255, 65535], np.uint16),
    ],
)
def test_the_end_of_a_scale_is_a_class_or_ignored(tmp_path: Path, levels, dtype, named: bool):
    count = len(levels)
    path = write(tmp_path, lambda i: np.array(levels, dtype)[ids(i, count)], no_tag)
    fields: dict[str, Any] = {"classes": [*"abcd"[:count]]} if named else {}
    (finding,) = errors(path, fields)
    assert not finding.fix
    every = choice_with(finding, "one for each").fix
    for i, mask in read(path, fields | every).items():
        np.testing.assert_array_equal(mask, ids(i, count))
    if not named:
        for i, mask in read(path, choice_with(finding, "ignored").fix).items():
            truth = ids(i, count)
            np.testing.assert_array_equal(mask, np.where(truth == count - 1, 255, truth))


def test_levels_of_8_and_of_16_bits_may_be_the_same(tmp_path: Path):
    levels = np.array([0, 128, 255])

    def mask(i: int) -> np.ndarray:
        low = levels[ids(i, 3)]
        return low.astype(np.uint8) if i % 2 else (low * 257).astype(np.uint16)

    path = write(tmp_path, mask, no_tag)
    (finding,) = errors(path, {})
    for i, read_ids in read(path, choice_with(finding, "257").fix).items():
        np.testing.assert_array_equal(read_ids, ids(i, 3))


@pytest.mark.parametrize("classes", [2, 4])
def test_65535_beside_ids_is_nodata(tmp_path: Path, classes: int):
    values = np.array([*range(classes), 65535], np.uint16)
    path = write(tmp_path, lambda i: values[ids(i, classes + 1)], no_tag)
    for i, mask in read(path, {}).items():
        truth = ids(i, classes + 1)
        np.testing.assert_array_equal(mask, np.where(truth == classes, 255, truth))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("background", "one", "dtype", "tag"),
    [
        (np.nan, 1, np.float32, None),
        (-9999, 1, np.int16, "-9999"),
        (-1, 1, np.int8, None),
        (65535, 1, np.uint16, None),
        (0, 255, np.uint8, "255"),
        (255, 1, np.uint8, "255"),
        (-9999, 255, np.float32, "-9999"),
    ],
)
def test_nodata_beside_one_class_may_be_the_other(
    tmp_path: Path, background, one, dtype, tag, named: bool
):
    values = np.array([background, one], dtype)
    path = write(tmp_path, lambda i: values[ids(i, 2)], lambda i: tag)
    fields: dict[str, Any] = {"classes": ["a", "b"]} if named else {}
    (finding,) = errors(path, fields)
    for i, mask in read(path, fields | finding.choices[0].fix).items():
        np.testing.assert_array_equal(mask, ids(i, 2))


@pytest.mark.parametrize("background", [np.nan, -1])
def test_nodata_beside_ids_from_1_may_be_the_background(tmp_path: Path, background: float):
    values = np.array([background, 1, 2, 3], np.float32)
    path = write(tmp_path, lambda i: values[ids(i)], no_tag)
    (finding,) = errors(path, {})
    for i, mask in read(path, choice_with(finding, "background").fix).items():
        np.testing.assert_array_equal(mask, ids(i))
    for choice in finding.choices:
        assert all(len(np.unique(mask)) == 4 for mask in read(path, choice.fix).values())


@pytest.mark.parametrize("named", [False, True])
def test_a_tag_of_some_masks_holds_for_the_same_value_of_others(tmp_path: Path, named: bool):
    values = np.array([0, 1, 2, 99], np.uint8)
    path = write(tmp_path, lambda i: values[ids(i)], lambda i: "99" if i % 2 else None)
    fields: dict[str, Any] = {"classes": ["a", "b", "c"]} if named else {}
    (finding,) = [f for f in errors(path, fields) if f.kind == "nodata"]
    assert finding.fix == {"nodata": [99]} and not finding.choices
    for i, mask in read(path, fields | finding.fix).items():
        np.testing.assert_array_equal(mask, np.where(ids(i) == 3, 255, ids(i)))


def test_a_tag_of_some_masks_that_may_name_a_class_is_a_question(tmp_path: Path):
    path = write(tmp_path, lambda i: ids(i).astype(np.uint8), lambda i: "3" if i % 2 else None)
    (finding,) = errors(path, {})
    ignored, kept = (read(path, choice.fix) for choice in finding.choices)
    for i in ignored:
        np.testing.assert_array_equal(ignored[i], np.where(ids(i) == 3, 255, ids(i)))
        np.testing.assert_array_equal(kept[i], ids(i))


def test_values_that_stand_for_nan_and_the_like_are_named_as_they_are(tmp_path: Path):
    lowest = -(2**31)
    path = write(tmp_path, lambda i: np.where(ids(i) == 3, lowest, ids(i)).astype(np.int32), no_tag)
    notes = inspect_data_set(DataConfig(path=path)).notes
    assert any(str(lowest) in note.text for note in notes)
