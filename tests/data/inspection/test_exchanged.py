"""Photos in the place of masks: named as what they are, and exchanged by the written config."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import QUICK
from PIL import Image

SET = Path("set")


def photo(index: int, grey: bool = False) -> np.ndarray:
    rng = np.random.default_rng(index)
    pixels = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48)).astype(int)
    pixels = (pixels + rng.integers(-9, 9, pixels.shape)).clip(0, 255).astype(np.uint8)
    return pixels[..., 0] if grey else pixels


def ids(index: int) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 5 + index : 25 + index], mask[30:40, 40:60] = 1, 2
    return mask


def write_set(images, masks, mask_suffix: str = ".png", split: str = "") -> None:
    for index in range(6):
        for folder, pixels, suffix in (
            ("images", images(index), ".png"),
            ("masks", masks(index), mask_suffix),
        ):
            where = SET / folder / split
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(where / f"{index}{suffix}")


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_exchanged_folders_are_named_and_exchanged(cli, grey: bool, suffix: str):
    write_set(ids, lambda index: photo(index, grey), suffix)
    page = cli("check", SET, "--write-config", "c.yaml")
    assert page.code == 1 and "exchanged" in page.stdout
    assert "1 error" in page.stdout and "smooth" not in page.stdout
    refused = cli("fit", "--data", SET, "--dry-run", *QUICK)
    assert refused.code == 1 and "exchanged" in refused.error
    assert cli("check", "--config", "c.yaml").code == 0
    assert cli("fit", "--config", "c.yaml", "--dry-run", *QUICK).code == 0


def test_splits_are_exchanged_each(cli):
    for split in ("train", "val"):
        write_set(ids, photo, split=split)
    assert cli("check", SET, "--write-config", "c.yaml").code == 1
    text = Path("c.yaml").read_text()
    assert "images: masks/train" in text and "masks: images/val" in text


def test_only_the_split_that_is_exchanged_is_exchanged(cli):
    write_set(photo, ids, split="train")
    write_set(lambda i: ids(i + 6), lambda i: photo(i + 6), split="val")
    assert cli("check", SET, "--write-config", "c.yaml").code == 1
    assert cli("check", "--config", "c.yaml").code == 0


def test_an_exchanged_pair_is_named(cli):
    write_set(lambda i: ids(i) if i == 2 else photo(i), lambda i: photo(i) if i == 2 else ids(i))
    page = cli("check", SET)
    assert page.code == 1 and "exchanged" in page.stdout and "masks/2.png" in page.stdout
    assert "smooth" not in page.stdout and "data.splits: {" not in page.stdout


@pytest.mark.parametrize("grey", [True, False])
def test_overlays_and_probability_maps_are_named(cli, grey: bool):
    write_set(photo, lambda index: photo(index + 50, grey))
    page = cli("check", SET)
    assert page.code == 1 and "overlays" in page.stdout and "1 error" in page.stdout


def test_right_sets_of_many_values_are_no_photos(cli):
    write_set(photo, ids)
    assert cli("check", SET).code == 0
    write_set(photo, lambda index: cv2.GaussianBlur(ids(index) * 120, (0, 0), 1.5))
    page = cli("check", SET)
    assert "photo" not in page.stdout and "edges" in page.stdout
