"""Predictions and validation: the same for any batch size and number of processes, to the bit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import scene
from lightning_fabric import Fabric
from PIL import Image

from segtrain.config import Eval, Model
from segtrain.data.dataset import Pairs
from segtrain.data.images import ImageReader
from segtrain.data.masks import MaskReader
from segtrain.data.pairing import Sample
from segtrain.devices import predictor
from segtrain.losses import build_mining
from segtrain.metrics.calibration import Calibration
from segtrain.metrics.confusion import Confusion, score
from segtrain.model import build_model
from segtrain.predictions import Predicted, predict_split, read_bands, validate
from segtrain.tally import Tally

NAMES = ["red", "green", "blue"]


class ByColour(torch.nn.Module):
    """Logits from each pixel alone, by elementwise arithmetic: no rounding depends on the batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() - 110.0) / 25.0


def pairs_at(root: Path, count: int, sizes: list[tuple[int, int]]) -> Pairs:
    """Scenes of these sizes in turn; some pixels are ignored, a tenth has another class."""
    samples = []
    for index in range(count):
        image, mask = scene(index, *sizes[index % len(sizes)])
        rng = np.random.default_rng(index)
        mask = np.where(rng.random(mask.shape) < 0.1, (mask + 1) % 3, mask)
        mask[rng.random(mask.shape) < 0.1] = 255
        sample = Sample(root / f"{index}.png", root / f"{index}_mask.png")
        Image.fromarray(image).save(sample.image)
        Image.fromarray(mask.astype(np.uint8)).save(sample.mask)
        samples.append(sample)
    return Pairs(samples, ImageReader(), MaskReader(3))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return pairs_at(tmp_path_factory.mktemp("pairs"), 34, [(48, 40)] * 16 + [(40, 33)] * 17)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def tallied(pairs: Pairs, fabric: Fabric, indices: range, **settings) -> Tally:
    tally, mining = Tally(3, 255, "cpu", calibrated=True), build_mining("ohem", 3)
    found = predict_split(
        ByColour(), pairs, indices, fabric, 0, Eval(**settings), mining, tally.calibration
    )
    for _ in tally.add_all(found):
        pass
    return tally


def sums(tally: Tally) -> list:
    """All that is summed over images, as numbers that can be compared."""
    return [
        tally.confusion.matrix.tolist(),
        tally.calibration.matrix.tolist(),
        tally.boundary.tolist(),
        tally.regions.tolist(),
        tally.sizes,
        {index: counts.tolist() for index, counts in sorted(tally.of_image.items())},
    ]


def test_a_tally_is_the_same_for_any_batch_size(pairs: Pairs, fabric: Fabric):
    everything = range(len(pairs))
    one = tallied(pairs, fabric, everything, batch_size=1)
    assert sorted(one.of_image) == list(everything)
    for batch_size in (7, 32):
        assert sums(tallied(pairs, fabric, everything, batch_size=batch_size)) == sums(one)


def test_a_networks_miou_is_nearly_the_same_for_any_batch_size(pairs: Pairs, fabric: Fabric):
    """Convolution rounds by batch, so a pixel at a tie may go either way."""
    torch.manual_seed(0)
    config = Model(encoder="tu-test_byobnet", options={"encoder_depth": 3,
                                                       "decoder_channels": [8, 8, 4]})  # fmt: skip
    predict, found = predictor(build_model(config, 3).eval(), fabric), []
    for batch_size in (1, 7, 32):
        confusion = Confusion(3, 255)
        settings = Eval(batch_size=batch_size)
        for one in predict_split(predict, pairs, range(len(pairs)), fabric, 0, settings):
            confusion.update(one.prediction, one.target)
        found.append(score(confusion.matrix, NAMES).miou)
    assert 0 < found[0] < 1 and found == pytest.approx([found[0]] * 3, abs=1e-4)


def test_only_3_c_integers_are_kept_of_an_image():
    """Python's memory for 400 more images, besides the 456 bytes each that 19 classes need."""
    tally, grown = Tally(19, 255, "cpu", calibrated=False), []
    generator = torch.Generator().manual_seed(0)

    def images():
        for index in range(600):
            if index in (200, 599):
                grown.append(tracemalloc.get_traced_memory()[0])
            drawn = torch.randint(0, 19, (2, 40, 40), generator=generator).to(torch.uint8)
            yield Predicted(index, *drawn)

    tracemalloc.start()
    try:
        for _ in tally.add_all(images()):
            pass
    finally:
        tracemalloc.stop()
    assert {counts.nbytes for counts in tally.of_image.values()} == {3 * 19 * 8}
    assert len(tally.of_image) == 600 and (grown[1] - grown[0]) / 400 < 1500


def test_a_tally_in_three_parts_adds_up_to_the_whole(pairs: Pairs, fabric: Fabric):
    whole = tallied(pairs, fabric, range(len(pairs)))
    parts = [tallied(pairs, fabric, range(rank, len(pairs), 3)) for rank in range(3)]
    matrices = [part.confusion.matrix for part in parts]
    assert torch.equal(sum(matrices), whole.confusion.matrix) and whole.confusion.matrix.sum() > 0
    assert torch.equal(sum(p.calibration.matrix for p in parts), whole.calibration.matrix)
    assert np.array_equal(sum(part.boundary for part in parts), whole.boundary)
    assert np.array_equal(sum(part.regions for part in parts), whole.regions)


def rank_of(world: int, rank: int, seen: list) -> SimpleNamespace:
    """A fabric of one of several processes, whose share of the sum is put into `seen`."""
    one = Fabric(accelerator="cpu", devices=1)
    return SimpleNamespace(
        global_rank=rank, world_size=world, device=torch.device("cpu"), autocast=one.autocast,
        all_reduce=lambda matrix, reduce_op: seen.append(matrix) or matrix,
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_validation_counts_each_image_once_in_any_process(pairs: Pairs, batch_size: int):
    wish, watch = SimpleNamespace(signum=0), SimpleNamespace(check=lambda: None)
    totals = []
    for world in (1, 3):
        seen: list[torch.Tensor] = []
        for rank in range(world):
            fabric = rank_of(world, rank, seen)
            settings = Eval(batch_size=batch_size, tta=["hflip"])  # eval's own, not validation's
            validate(ByColour(), pairs, NAMES, fabric, 0, settings, wish, watch)
        totals.append(sum(seen))
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for sample in pairs.samples:
        image = np.asarray(Image.open(sample.image)).astype(int)
        for true, claimed in zip(np.asarray(Image.open(sample.mask)).ravel(),
                                 image.reshape(-1, 3).argmax(1)):  # fmt: skip
            if true != 255:
                expected[true, claimed] += 1
    assert torch.equal(totals[0], expected) and torch.equal(totals[1], expected)


def test_validation_ends_where_somebody_wishes_so(pairs: Pairs):
    wish, watch = SimpleNamespace(signum=15), SimpleNamespace(check=lambda: None)
    fabric = rank_of(1, 0, [])
    assert validate(ByColour(), pairs, NAMES, fabric, 0, Eval(), wish, watch) is None


def test_bands_come_together_as_the_whole():
    """Class ids, calibration and the map that a mining chooses on do not know of bands."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 40, 31, generator=generator)
    targets = torch.randint(0, 3, (2, 40, 31), generator=generator).to(torch.uint8)
    targets[:, 5:9, 3:20] = 255
    mining, found = build_mining("ohem(thresh=0.3)", 3), []
    for heights in ([40], [1, 20, 12, 7]):
        calibration = Calibration()
        tops = np.cumsum([0, *heights[:-1]]).tolist()
        bands = ((top, logits[:, :, top : top + h]) for top, h in zip(tops, heights))
        ids, nll = read_bands(bands, targets, 255, mining, calibration)
        kept = torch.cat([mining.kept(nll[i : i + 1], targets[i : i + 1]) for i in range(2)])
        found.append((ids.long(), nll, kept, calibration.matrix))
    assert torch.equal(found[0][0], logits.argmax(1))
    for whole, banded in zip(*found):
        assert torch.equal(whole, banded)
    ce = torch.nn.functional.cross_entropy(logits, targets.long(), ignore_index=255,
                                           reduction="none")  # fmt: skip
    torch.testing.assert_close(found[0][1], ce)


def test_most_confused_images_are_those_with_most_pixels(pairs: Pairs, fabric: Fabric):
    tally = tallied(pairs, fabric, range(len(pairs)))
    per_image = {}
    for index, sample in enumerate(pairs.samples):
        image = np.asarray(Image.open(sample.image)).astype(int)
        mask, ids = np.asarray(Image.open(sample.mask)), image.argmax(2)
        per_image[index] = {
            (t, p): int(((mask == t) & (ids == p)).sum()) for t in range(3) for p in range(3)
        }
    found = dict(tally.confused())
    assert found and all(true != predicted for true, predicted in found)
    for cell, images in found.items():
        pixels = [n for _, n in images]
        assert pixels == sorted((per_image[i][cell] for i in per_image), reverse=True)[:5]
        assert all(per_image[i][cell] == n for i, n in images)


def test_the_ignored_share(tmp_path: Path, fabric: Fabric):
    pairs = pairs_at(tmp_path, 2, [(16, 8), (8, 8)])
    tally = tallied(pairs, fabric, range(2))
    ignored = sum(int((np.asarray(Image.open(s.mask)) == 255).sum()) for s in pairs.samples)
    assert tally.ignored == pytest.approx(ignored / (16 * 8 + 8 * 8)) and ignored
