"""A tally of a split: the same in any order and in parts, and small."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import ByColour, pairs_at
from lightning_fabric import Fabric
from PIL import Image

from segtrain.config import EvalConfig
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.prediction import Predicted, predict_split
from segtrain.losses.build import build_mining


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return pairs_at(tmp_path_factory.mktemp("pairs"), 34, [(48, 40)] * 16 + [(40, 33)] * 17)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def tallied(pairs: Pairs, fabric: Fabric, indices: range, **settings) -> Accumulator:
    accumulator, mining = Accumulator(3, 255, "cpu", calibrated=True), build_mining("ohem", 3)
    found = predict_split(
        ByColour(),
        pairs,
        indices,
        fabric,
        0,
        EvalConfig(**settings),
        mining,
        accumulator.calibration,
    )
    for _ in accumulator.add_all(found):
        pass
    return accumulator


def sums(accumulator: Accumulator) -> list:
    """All that is summed over images, as numbers that can be compared."""
    return [
        accumulator.confusion.matrix.tolist(),
        accumulator.calibration.matrix.tolist(),
        accumulator.boundary.tolist(),
        accumulator.regions.tolist(),
        accumulator.sizes,
        {index: counts.tolist() for index, counts in sorted(accumulator.of_image.items())},
    ]


def test_a_tally_is_the_same_for_any_batch_size(pairs: Pairs, fabric: Fabric):
    everything = range(len(pairs))
    one = tallied(pairs, fabric, everything, batch_size=1)
    assert sorted(one.of_image) == list(everything)
    for batch_size in (7, 32):
        assert sums(tallied(pairs, fabric, everything, batch_size=batch_size)) == sums(one)


def test_a_tally_in_three_parts_adds_up_to_the_whole(pairs: Pairs, fabric: Fabric):
    whole = tallied(pairs, fabric, range(len(pairs)))
    parts = [tallied(pairs, fabric, range(rank, len(pairs), 3)) for rank in range(3)]
    matrices = [part.confusion.matrix for part in parts]
    assert torch.equal(sum(matrices), whole.confusion.matrix) and whole.confusion.matrix.sum() > 0
    assert torch.equal(sum(p.calibration.matrix for p in parts), whole.calibration.matrix)
    assert np.array_equal(sum(part.boundary for part in parts), whole.boundary)
    assert np.array_equal(sum(part.regions for part in parts), whole.regions)


def test_only_3_c_integers_are_kept_of_an_image():
    """Python's memory for 400 more images, besides the 456 bytes each that 19 classes need."""
    accumulator, grown = Accumulator(19, 255, "cpu", calibrated=False), []
    generator = torch.Generator().manual_seed(0)

    def images():
        for index in range(600):
            if index in (200, 599):
                grown.append(tracemalloc.get_traced_memory()[0])
            drawn = torch.randint(0, 19, (2, 40, 40), generator=generator).to(torch.uint8)
            yield Predicted(index, *drawn)

    tracemalloc.start()
    try:
        for _ in accumulator.add_all(images()):
            pass
    finally:
        tracemalloc.stop()
    assert {counts.nbytes for counts in accumulator.of_image.values()} == {3 * 19 * 8}
    assert len(accumulator.of_image) == 600 and (grown[1] - grown[0]) / 400 < 1500


def test_most_confused_images_are_those_with_most_pixels(pairs: Pairs, fabric: Fabric):
    accumulator = tallied(pairs, fabric, range(len(pairs)))
    per_image = {}
    for index, sample in enumerate(pairs.samples):
        image = np.asarray(Image.open(sample.image)).astype(int)
        mask, ids = np.asarray(Image.open(sample.mask)), image.argmax(2)
        per_image[index] = {
            (t, p): int(((mask == t) & (ids == p)).sum()) for t in range(3) for p in range(3)
        }
    found = dict(accumulator.confused())
    assert found and all(true != predicted for true, predicted in found)
    for cell, images in found.items():
        pixels = [n for _, n in images]
        assert pixels == sorted((per_image[i][cell] for i in per_image), reverse=True)[:5]
        assert all(per_image[i][cell] == n for i, n in images)


def test_the_ignored_share(tmp_path: Path, fabric: Fabric):
    pairs = pairs_at(tmp_path, 2, [(16, 8), (8, 8)])
    accumulator = tallied(pairs, fabric, range(2))
    ignored = sum(int((np.asarray(Image.open(s.mask)) == 255).sum()) for s in pairs.samples)
    assert accumulator.ignored == pytest.approx(ignored / (16 * 8 + 8 * 8)) and ignored
