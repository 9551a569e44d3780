"""What the scan before training finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data, write_pairs
from PIL import Image

from segtrain.config import Data
from segtrain.data.formats import Sample, find_pairs
from segtrain.data.masks import MaskReader
from segtrain.data.scan import check_values, median_size, scan_pairs, values_found
from segtrain.errors import SegtrainError

CAMVID_TRAIN = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877,
                405385, 184967, 2503995]  # fmt: skip


def pair(root: Path, name: str, mask: np.ndarray, size: tuple[int, int] | None = None) -> Sample:
    image = np.zeros((*(size or mask.shape), 3), np.uint8)
    Image.fromarray(image).save(root / f"{name}.png")
    Image.fromarray(mask).save(root / f"{name}_mask.png")
    return Sample(root / f"{name}.png", root / f"{name}_mask.png")


def test_facts_of_pairs(tmp_path: Path):
    samples = [
        pair(tmp_path, "a", np.array([[0, 0, 1], [255, 1, 0]], np.uint8)),
        pair(tmp_path, "b", np.array([[2, 2], [300, 2], [2, 2], [2, 2]], np.uint16)),
        pair(tmp_path, "c", np.zeros((9, 7), np.uint8)),
    ]
    facts = scan_pairs(samples, None)
    assert [fact.sample for fact in facts] == samples
    assert [fact.size for fact in facts] == [(2, 3), (4, 2), (9, 7)]
    assert [fact.values for fact in facts] == [{0: 3, 1: 2, 255: 1}, {2: 7, 300: 1}, {0: 63}]
    assert values_found(facts) == {0, 1, 2, 255, 300}
    assert median_size(facts) == (4, 3)
    pixels, where_present = check_values(facts, MaskReader(3, {300: 1}))
    assert pixels.tolist() == [66, 3, 7]
    assert where_present.tolist() == [5 + 63, 5 + 8, 8]  # of the masks that have the class


def test_every_bad_pair_is_counted_and_the_first_named(tmp_path: Path):
    samples = [pair(tmp_path, str(i), np.zeros((4, 4), np.uint8), (4, 5)) for i in range(5)]
    with pytest.raises(SegtrainError) as raised:
        scan_pairs(samples, None)
    text = str(raised.value)
    assert text.startswith("5 pairs cannot be used: ") and "(+2 more)" in text
    assert "0.png is 5x4" in text and "0_mask.png is 4x4" in text and "4.png" not in text


def test_unknown_values_are_told_by_file(tmp_path: Path):
    masks = [np.full((2, 3), value, np.uint8) for value in (0, 9, 1, 8)]
    facts = scan_pairs([pair(tmp_path, str(i), mask) for i, mask in enumerate(masks)], None)
    with pytest.raises(SegtrainError) as raised:
        check_values(facts, MaskReader(2))
    text = str(raised.value)
    assert "1_mask.png has value 9 (6 px)" in text and "3_mask.png has value 8 (6 px)" in text
    assert "0_mask.png" not in text and "2_mask.png" not in text


def test_a_turned_photo_is_compared_upright(tmp_path: Path):
    sample = pair(tmp_path, "a", np.zeros((6, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(sample.image, exif=exif)
    assert scan_pairs([sample], None)[0].size == (6, 4)


def test_counts_of_tiny_pairs_add_up(tmp_path: Path):
    found = find_pairs(Data(), write_pairs(tmp_path / "set"))
    facts = scan_pairs(found.splits["train"] + found.splits["val"], None)
    assert sum(check_values(facts, MaskReader(3))[0]) == 6 * 48 * 40


def test_camvids_training_pixels_by_value():
    found = find_pairs(Data(), shared_data("camvid"))
    facts = scan_pairs(found.splits["train"], None)
    assert len(facts) == 367
    totals = [sum(fact.values.get(value, 0) for fact in facts) for value in range(256)]
    assert totals == CAMVID_TRAIN + [0] * 244
    assert median_size(facts) == (360, 480)


def test_membranes_hold_0_and_255():
    found = find_pairs(Data(), shared_data("membrane"))
    facts = scan_pairs(found.splits["train"] + found.splits["val"], None)
    assert len(facts) == 30
    assert values_found(facts) == {0, 255}
