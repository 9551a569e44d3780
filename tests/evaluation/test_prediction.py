"""Predictions and validation: the same for any batch size and number of processes, to the bit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from colours import ByColour, pairs_at
from lightning_fabric import Fabric
from PIL import Image

from segtrain.config import EvalConfig, ModelConfig
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation.prediction import SplitPredictor, join_bands
from segtrain.evaluation.validation import validate
from segtrain.losses.build import build_mining
from segtrain.losses.spec import parse_loss
from segtrain.metrics.calibration import Calibration
from segtrain.metrics.confusion import Confusion, score_matrix
from segtrain.models.inference import NonFiniteError
from segtrain.models.segmentation import build_model

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    return pairs_at(tmp_path_factory.mktemp("pairs"), 34, [(48, 40)] * 16 + [(40, 33)] * 17)


def rank_of(world: int, rank: int, seen: list) -> SimpleNamespace:
    """A fabric of one of several processes, whose share of the sum is put into `seen`."""
    one = Fabric(accelerator="cpu", devices=1)
    return SimpleNamespace(
        global_rank=rank, world_size=world, device=torch.device("cpu"), autocast=one.autocast,
        all_reduce=lambda matrix, reduce_op: seen.append(matrix) or matrix,
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_validation_counts_each_image_once_in_any_process(pairs: Pairs, batch_size: int):
    totals = []
    for world in (1, 3):
        seen: list[torch.Tensor] = []
        for rank in range(world):
            fabric = rank_of(world, rank, seen)
            settings = EvalConfig(batch_size=batch_size, tta=["hflip"])  # validation has no TTA
            predictor = SplitPredictor(ByColour(), fabric, 0, settings)
            validate(predictor, pairs, NAMES, lambda: False)
        totals.append(sum(seen))
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for sample in pairs.samples:
        image = np.asarray(Image.open(sample.image)).astype(int)
        for true, claimed in zip(np.asarray(Image.open(sample.mask)).ravel(),
                                 image.reshape(-1, 3).argmax(1), strict=True):  # fmt: skip
            if true != 255:
                expected[true, claimed] += 1
    assert torch.equal(totals[0], expected) and torch.equal(totals[1], expected)


def test_validation_stops_where_it_is_asked_to(pairs: Pairs):
    answers = iter([False, False, True, True])
    predictor = SplitPredictor(ByColour(), rank_of(1, 0, []), 0, EvalConfig())
    assert validate(predictor, pairs, NAMES, lambda: next(answers)) is None
    assert next(answers, None) is None  # asked at the third image and after the loop, no more


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_image_without_finite_logits_is_named(pairs: Pairs, batch_size: int):
    sixth = torch.tensor(pairs.read(5)[0]).permute(2, 0, 1)

    class Overflowing(ByColour):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            broken = torch.tensor([torch.equal(image, sixth) for image in images])
            return super().forward(images) / (~broken).float().view(-1, 1, 1, 1)

    for precision, advice in (("32-true", "--lr"), ("bf16-mixed", "train.precision=32")):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        predictor = SplitPredictor(Overflowing(), fabric, 0, EvalConfig(batch_size=batch_size))
        assert len(list(predictor.predict(pairs, range(5)))) == 5
        with pytest.raises(NonFiniteError, match=rf"/5\.png: .* not finite .*{advice}"):
            validate(predictor, pairs, NAMES, lambda: False)


def test_bands_come_together_as_the_whole():
    """Class ids, calibration and the map that a mining chooses on do not know of bands."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 40, 31, generator=generator)
    targets = torch.randint(0, 3, (2, 40, 31), generator=generator).to(torch.uint8)
    targets[:, 5:9, 3:20] = 255
    mining, found = build_mining(parse_loss("ohem(thresh=0.3)"), 3), []
    for heights in ([40], [1, 20, 12, 7]):
        calibration = Calibration()
        tops = np.cumsum([0, *heights[:-1]]).tolist()
        bands = ((top, logits[:, :, top : top + h]) for top, h in zip(tops, heights, strict=True))
        ids, nll = join_bands(bands, targets, 255, mining, calibration)
        kept = torch.cat([mining.kept(nll[i : i + 1], targets[i : i + 1]) for i in range(2)])
        found.append((ids.long(), kept, calibration.matrix, nll))
    assert torch.equal(found[0][0], logits.argmax(1))
    for whole, banded in zip(*found, strict=True):
        torch.testing.assert_close(whole, banded, rtol=1e-5 if whole is found[0][3] else 0, atol=0)
    ce = torch.nn.functional.cross_entropy(logits, targets.long(), ignore_index=255,
                                           reduction="none")  # fmt: skip
    torch.testing.assert_close(found[0][3], ce)


def test_a_networks_miou_is_nearly_the_same_for_any_batch_size(pairs: Pairs):
    """Convolution rounds by batch, so a pixel at a tie may go either way."""
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(0)
    config = ModelConfig(encoder="tu-test_byobnet", options={"encoder_depth": 3,
                                                       "decoder_channels": [8, 8, 4]})  # fmt: skip
    model, found = build_model(config, 3), []
    for batch_size in (1, 7, 32):
        confusion = Confusion(3, 255)
        settings = EvalConfig(batch_size=batch_size)
        predictor = SplitPredictor(model, fabric, 0, settings)
        for one in predictor.predict(pairs, range(len(pairs))):
            confusion.update(one.class_ids, one.target)
        found.append(score_matrix(confusion.matrix, NAMES).miou)
    assert 0 < found[0] < 1 and found == pytest.approx([found[0]] * 3, abs=1e-4)
