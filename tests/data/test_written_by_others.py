"""Folders as other tools write them, through check: their labels, their names, their splits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from written.published import SETS
from written.scenes import COUNT, IGNORED, NAMES, TRAIN, Written, photo
from written.tools_masks import MASK_TOOLS
from written.tools_polygons import POLYGON_TOOLS

from segtrain.config import DataConfig
from segtrain.config.loading import revise_section
from segtrain.data.findings import Finding, apply_fixes, raise_errors
from segtrain.data.inspection.survey import Inspection, Survey, inspect_data_set
from segtrain.errors import SegtrainError

WRITERS = {writer.__name__: writer for writer in (*MASK_TOOLS, *POLYGON_TOOLS)} | SETS
Writer = Callable[[Path], Written]


def read(root: Path, meaning: Written) -> Inspection:
    """Inspect a folder as a user does who takes the fixes that are printed."""
    config = choose_splits(DataConfig(path=str(root)), meaning)
    for _ in range(4):  # one fault may hide another
        found = inspect_data_set(config, full=True)
        errors = [finding for finding in found.findings if finding.error]
        if not errors:
            return found
        fixed = apply_fixes(found.config, errors)
        for finding in errors:
            fixed = revise_section(fixed, choose(finding, meaning), "data")
        if fixed == config:
            break
        config = fixed
    raise_errors(errors)


def choose_splits(config: DataConfig, meaning: Written) -> DataConfig:
    """Take the data.splits that a refusal prints, where the author's folder is among them."""
    try:
        inspect_data_set(config)
    except SegtrainError as error:
        offered = re.findall(r"data\.splits: (\{(?:[^{}]|\{[^{}]*\})*\})", str(error))
        fitting = [way for way in offered if meaning.answer and meaning.answer in way]
        if fitting:
            return revise_section(config, {"splits": yaml.safe_load(fitting[0])}, "data")
    return config


def choose(finding: Finding, meaning: Written) -> dict:
    """The reading that the data set's author means, among those offered."""
    if not finding.choices:
        return {}
    assert meaning.answer, f"asks needlessly: {finding}"
    fitting = [c for c in finding.choices if meaning.answer in str(c)]
    assert fitting, f"does not offer {meaning.answer}: {finding}"
    return fitting[0].fix


def labels_by_name(data: Survey, meaning: Written, mask: np.ndarray) -> np.ndarray:
    """(H,W) ids in the order of the tool's names."""
    names = list(meaning.names)
    if not names:
        return mask
    assert sorted(data.data_set.classes) == sorted(names), data.data_set.classes
    ids = np.full(256, IGNORED)
    ids[: len(names)] = [names.index(name) for name in data.data_set.classes]
    return ids[mask]


def differs(mask: np.ndarray, right: np.ndarray, loose: bool) -> np.ndarray:
    """Return the pixels of wrong labels, without those beside a border if `loose`."""
    wrong = mask != right
    if loose:
        for axis in (0, 1):
            for step in (-1, 1):
                wrong &= mask != np.roll(right, step, axis)
    return wrong


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_folders_of_other_tools_read_as_they_are_meant(writer: Writer, tmp_path: Path):
    meaning = writer(tmp_path)
    try:
        found = read(tmp_path, meaning)
    except SegtrainError as error:
        assert meaning.refused and re.search(meaning.refused, str(error)), str(error)
        return
    assert isinstance(found, Survey), found.source.layout
    seen, confusion = set(), set()
    for split, samples in found.data_set.splits.items():
        for sample in samples:
            index = int(re.search(r"x(\d)", str(sample.image.relative_to(tmp_path)))[1])
            mask = labels_by_name(found, meaning, found.data_set.masks(sample.mask))
            right = meaning.truth(index)
            confusion |= set(zip(mask.ravel().tolist(), right.ravel().tolist(), strict=True))
            if not meaning.any_order:
                assert not differs(mask, right, meaning.loose).any(), f"{sample.mask}:\n{mask}"
            image = found.data_set.images(sample.image)
            assert np.abs(image.astype(int) - photo(index)).mean() < 12, sample.image
            assert not meaning.splits or (index in TRAIN) == (split == "train"), sample.image
            seen.add(index)
    assert len(seen) == COUNT
    assert not meaning.any_order or len(confusion) == len(NAMES), "no numbering of the classes"
