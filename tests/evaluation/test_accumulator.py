"""Sums over a split: the same in any order and in parts, and small."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
from colours import ByColour, pairs_at
from lightning_fabric import Fabric
from PIL import Image

from segtrain.config import EvalConfig
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation import accumulator as module
from segtrain.evaluation.accumulator import Accumulator, sum_ids
from segtrain.evaluation.prediction import Prediction, SplitPredictor
from segtrain.losses.build import build_mining
from segtrain.losses.spec import parse_loss


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return pairs_at(tmp_path_factory.mktemp("pairs"), 34, [(48, 40)] * 16 + [(40, 33)] * 17)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def accumulate(pairs: Pairs, fabric: Fabric, indices: range, **settings) -> Accumulator:
    predictor = SplitPredictor(
        ByColour(), fabric, 0, EvalConfig(**settings), build_mining(parse_loss("ohem"), 3)
    )
    with Accumulator(3, 255, "cpu", calibrated=True) as accumulator:
        for prediction in predictor.predict(pairs, indices, accumulator.calibration):
            accumulator.add(prediction)
    return accumulator


def sums(accumulator: Accumulator) -> list:
    """All sums, as numbers that can be compared."""
    return [
        accumulator.confusion.matrix.tolist(),
        accumulator.calibration.matrix.tolist(),
        accumulator.boundary.tolist(),
        accumulator.regions.tolist(),
        accumulator.sizes,
        {index: counts.tolist() for index, counts in sorted(accumulator.image_counts.items())},
    ]


def test_sums_are_the_same_for_any_batch_size(pairs: Pairs, fabric: Fabric):
    everything = range(len(pairs))
    one = accumulate(pairs, fabric, everything, batch_size=1)
    assert sorted(one.image_counts) == list(everything)
    for batch_size in (7, 32):
        assert sums(accumulate(pairs, fabric, everything, batch_size=batch_size)) == sums(one)


def test_sums_of_three_parts_add_up_to_the_whole(pairs: Pairs, fabric: Fabric):
    whole = accumulate(pairs, fabric, range(len(pairs)))
    parts = [accumulate(pairs, fabric, range(rank, len(pairs), 3)) for rank in range(3)]
    matrices = [part.confusion.matrix for part in parts]
    assert torch.equal(sum(matrices), whole.confusion.matrix) and whole.confusion.matrix.sum() > 0
    assert torch.equal(sum(p.calibration.matrix for p in parts), whole.calibration.matrix)
    assert np.array_equal(sum(part.boundary for part in parts), whole.boundary)
    assert np.array_equal(sum(part.regions for part in parts), whole.regions)


def test_only_3_c_integers_are_kept_of_an_image():
    """Python's memory for 400 more images, besides the 456 bytes each that 19 classes need."""
    grown = []
    generator = torch.Generator().manual_seed(0)

    def images():
        for index in range(600):
            if index in (200, 599):
                grown.append(tracemalloc.get_traced_memory()[0])
            drawn = torch.randint(0, 19, (2, 40, 40), generator=generator).to(torch.uint8)
            yield Prediction(index, *drawn)

    tracemalloc.start()
    try:
        with Accumulator(19, 255, "cpu", calibrated=False) as accumulator:
            for prediction in images():
                accumulator.add(prediction)
    finally:
        tracemalloc.stop()
    assert {counts.nbytes for counts in accumulator.image_counts.values()} == {3 * 19 * 8}
    assert len(accumulator.image_counts) == 600 and (grown[1] - grown[0]) / 400 < 1500


def test_most_confused_images_are_those_with_most_pixels(pairs: Pairs, fabric: Fabric):
    accumulator = accumulate(pairs, fabric, range(len(pairs)))
    per_image = {}
    for index, sample in enumerate(pairs.samples):
        image = np.asarray(Image.open(sample.image)).astype(int)
        mask, ids = np.asarray(Image.open(sample.mask)), image.argmax(2)
        per_image[index] = {
            (t, p): int(((mask == t) & (ids == p)).sum()) for t in range(3) for p in range(3)
        }
    found = dict(accumulator.most_confused())
    assert found and all(true != predicted for true, predicted in found)
    for cell, images in found.items():
        pixels = [n for _, n in images]
        assert pixels == sorted((per_image[i][cell] for i in per_image), reverse=True)[:5]
        assert all(per_image[i][cell] == n for i, n in images)


def test_the_ignored_share(tmp_path: Path, fabric: Fabric):
    pairs = pairs_at(tmp_path, 2, [(16, 8), (8, 8)])
    accumulator = accumulate(pairs, fabric, range(2))
    ignored = sum(int((np.asarray(Image.open(s.mask)) == 255).sum()) for s in pairs.samples)
    assert accumulator.ignored_share == pytest.approx(ignored / (16 * 8 + 8 * 8)) and ignored


@pytest.mark.parametrize("images, pixels, behind", [(2, 10**6, 2), (99, 3 * 64, 3)])
def test_few_images_wait_to_be_counted(monkeypatch, images: int, pixels: int, behind: int):
    """Their tensors would fill the memory where the host is slower than the device."""
    monkeypatch.setattr(module, "MAX_WAITING_IMAGES", images)
    monkeypatch.setattr(module, "MAX_WAITING_PIXELS", pixels)
    counted = module.count_regions
    monkeypatch.setattr(module, "count_regions", lambda *args: sleep(0.02) or counted(*args))
    ids = torch.zeros(8, 8, dtype=torch.uint8)
    with Accumulator(2, 255, "cpu", calibrated=False) as accumulator:
        for index in range(8):
            accumulator.add(Prediction(index, ids, ids))
            assert len(accumulator.image_counts) >= index + 1 - behind
        assert len(accumulator.image_counts) < 8
    assert sorted(accumulator.image_counts) == list(range(8))


def test_an_error_of_a_thread_or_of_the_loop_is_raised(monkeypatch):
    def fail(*args: object) -> None:
        raise MemoryError("host")

    monkeypatch.setattr(module, "count_regions", fail)
    ids = torch.zeros(8, 8, dtype=torch.uint8)
    with pytest.raises(MemoryError, match="host"):
        with Accumulator(2, 255, "cpu", calibrated=False) as accumulator:
            accumulator.add(Prediction(0, ids, ids))
    with pytest.raises(KeyError, match="loop"):
        with Accumulator(2, 255, "cpu", calibrated=False) as accumulator:
            accumulator.add(Prediction(0, ids, ids))
            raise KeyError("loop")


def test_checksums_of_masks_depend_on_class_ids_alone():
    """Not on the type of the files, nor on the value of ignored pixels; but on their shape."""
    ids = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    wide = ids.astype(np.int16)
    assert sum_ids(ids, 255) == sum_ids(wide, 255) == sum_ids(np.where(ids == 255, -9, wide), -9)
    assert sum_ids(ids, 255) == sum_ids(np.asfortranarray(wide).astype(">i2"), 255)
    others = ids.reshape(3, 2), ids[::-1], np.where(ids == 255, 0, ids)
    assert len({sum_ids(each, 255) for each in (ids, *others)}) == 4
