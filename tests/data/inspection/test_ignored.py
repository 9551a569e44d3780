"""The share of ignored pixels: on check's page, in its JSON and in fit's summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, scene
from PIL import Image

SET = Path("set")


def write_set(void: float, value: int = 255, dtype: type = np.uint8) -> int:
    """Write six pairs of two classes of whose mask rows this share is void; return its pixels."""
    pixels = 0
    for index in range(6):
        image, ids = scene(index, classes=2)
        mask = ids.astype(dtype)
        rows = round(void * len(mask))
        mask[:rows] = value
        mask[rows:, ::2], mask[rows:, 1::2] = 0, 1
        pixels += rows * mask.shape[1]
        for folder, array in (("images", image), ("masks", mask)):
            (SET / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(SET / folder / f"{index}.png")
    return pixels


@pytest.mark.parametrize("void", [0.0, 0.25, 0.75])
def test_the_share_is_on_the_page(cli, void: float):
    pixels = write_set(void)
    page = cli("check", SET)
    assert page.code == 0
    assert ("ignored" in page.stdout) == (void > 0)
    assert f" {void:.2%} " in page.stdout or not void
    found = json.loads(cli("check", SET, "--json").stdout)
    assert sum(part["pixels"] for part in found["ignored"].values()) == pixels
    assert found["ignored"]["train"]["share"] == pytest.approx(void)
    assert found["ignored"]["train"]["images"] == (5 if void else 0)
    notes = [finding for finding in found["findings"] if finding["kind"] == "void"]
    assert len(notes) == (void > 0.5) and all(n["severity"] == "note" for n in notes)


def test_the_share_is_in_the_summary_of_a_training(cli):
    write_set(0.75)
    trained = cli("fit", "--data", SET, "--dry-run", *QUICK)
    assert trained.code == 0
    (line,) = [line for line in trained.stdout.splitlines() if line.startswith("training pixels")]
    assert "75.00%" in line and "ignored" in line
    assert "75.0% of train" in trained.stdout


def test_void_and_nodata_and_mapped_values_count_together(cli):
    pixels = write_set(0.25, 65535, np.uint16)
    for index in (0, 1):
        mask = np.array(Image.open(SET / f"masks/{index}.png"))
        mask[-1, :8], mask[-2, :6] = 255, 7
        pixels += 14
        Image.fromarray(mask).save(SET / f"masks/{index}.png")
    found = json.loads(cli("check", SET, "--json", "--set", "data.label_map={7: ignore}").stdout)
    assert found["errors"] == 0
    assert sum(part["pixels"] for part in found["ignored"].values()) == pixels
