"""Colours of masks without data.palette: which of them are classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.findings import Finding, apply_fixes
from segtrain.data.inspection.survey import inspect_data_set, survey_data_set

COLOURS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)


def find_colour_error(root: Path, slips: list[int], alike: bool = False) -> Finding:
    """Write coloured masks of 40 x 40 px, with one-pixel slips in each; return the finding."""
    for i in range(6):
        generator = np.random.default_rng(i)
        mask = COLOURS[np.repeat([0, 1, 2], [20, 10, 10])][:, None].repeat(40, 1)
        for k in range(slips[i]):
            mask[3 * k, 3 * k] = [100 + i * (not alike), 7 * k, 50]
        for name, pixels in (("images", generator.integers(0, 255, (40, 40, 3))), ("masks", mask)):
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    inspection = inspect_data_set(DataConfig(path=str(root)))
    (finding,) = [found for found in inspection.findings if found.error]
    return finding


@pytest.mark.parametrize("slips, every", [([0, 0, 1, 0, 0, 0], 4), ([3] * 6, 21), ([13] * 6, None)])
def test_stray_pixels_are_no_classes_unless_chosen(tmp_path: Path, slips: list[int], every):
    finding = find_colour_error(tmp_path, slips)
    assert not finding.fix
    counts = []
    for choice in finding.choices:
        config = apply_fixes(
            DataConfig(path=str(tmp_path)), [Finding("colour", True, "", fix=choice.fix)]
        )
        data = survey_data_set(config).data_set
        counts.append(len(data.classes))
        ids = data.masks(data.splits["train"][0].mask)
        assert data.classes[ids[-1, 0]] == "colour 0 200 0"
    assert counts == [3, every][: 1 if every is None else 2]


def test_a_small_class_in_many_masks_is_a_class(tmp_path: Path):
    finding = find_colour_error(tmp_path, [1] * 6, alike=True)
    assert len(finding.fix["palette"]) == 4 and not finding.choices
