"""Upsampling by rows: every bit of F.interpolate, and no tensor of full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import Tensor

from segtrain.config import EvalConfig, ModelConfig
from segtrain.distributed.devices import build_predictor
from segtrain.evaluation.prediction import join_bands
from segtrain.losses.build import build_mining
from segtrain.losses.spec import parse_loss
from segtrain.metrics.calibration import Calibration
from segtrain.models import inference
from segtrain.models.inference import CheckedPredictor, defer_upsampling, predict_bands
from segtrain.models.segmentation import SegmentationModel, build_model
from segtrain.models.upsampling import UpsampledLogits, upsample_later


def cells(channels: int, height: int, width: int, images: int = 1, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    low = 4 * torch.randn(images, channels, height, width, generator=generator)
    return low.to(dtype).contiguous(memory_format=torch.channels_last)


def interpolated(low: Tensor, factor: int, align_corners: bool, size: tuple[int, int]) -> Tensor:
    logits = F.interpolate(low, scale_factor=factor, mode="bilinear", align_corners=align_corners)
    return logits[..., : size[0], : size[1]].float()


def at_once(low: Tensor, factor: int, align_corners: bool):
    """A network without rows: F.interpolate of what low holds for the images' size."""
    return lambda images: interpolated(low, factor, align_corners, tuple(images.shape[2:]))


def by_rows(low: Tensor, factor: int, align_corners: bool):
    return lambda images: upsample_later(low, factor, align_corners, tuple(images.shape[2:]))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([4, 5, 8, 19, 33, 150]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(0, 31), st.integers(0, 31)),
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(1, 2),
    st.data(),
)
def test_rows_have_every_bit_of_interpolate(
    channels, grid, padding, factor, align_corners, dtype, images, data
):
    low = cells(channels, *grid, images, dtype)
    size = tuple(max(1, factor * n - cut) for n, cut in zip(grid, padding, strict=True))
    expected = interpolated(low, factor, align_corners, size)
    found = upsample_later(low, factor, align_corners, size)
    if factor == 3 and not align_corners:
        assert torch.equal(found, expected.to(dtype))
        return
    assert isinstance(found, UpsampledLogits) and found.shape == expected.shape
    top = data.draw(st.integers(0, size[0] - 1))
    bottom = data.draw(st.integers(top + 1, size[0]))
    assert torch.equal(found.read(top, bottom), expected[:, :, top:bottom])
    assert torch.equal(found.whole().float(), expected)


def test_rows_of_a_large_map_have_every_bit_of_interpolate():
    """Positions of hundreds of cells have few digits left for the weights."""
    for shape in ((4, 1025, 9), (9, 7, 777)):
        low = cells(*shape)
        size = 4 * shape[1], 4 * shape[2]
        for align_corners in (True, False):
            found = upsample_later(low, 4, align_corners, size)
            expected = interpolated(low, 4, align_corners, size)
            assert torch.equal(found.read(0, size[0]), expected)


@pytest.mark.parametrize("channels, layout", [(3, "channels_last"), (8, "contiguous_format")])
def test_what_another_kernel_upsamples_is_left_to_it(channels: int, layout: str):
    low = cells(channels, 40, 50).contiguous(memory_format=getattr(torch, layout))
    found = upsample_later(low, 4, True, (160, 200))
    assert torch.equal(found, interpolated(low, 4, True, (160, 200)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "eval",
    [
        EvalConfig(),
        EvalConfig(max_pixels=1, window=(32, 48)),
        EvalConfig(tta=["hflip", "vflip"]),
        EvalConfig(tta=["hflip", 0.5]),
    ],
)
def test_all_that_evaluation_reads_is_the_same_by_rows(monkeypatch, eval: EvalConfig, dtype):
    monkeypatch.setattr(inference, "BAND", 3000)
    images = torch.zeros(2, 3, 61, 90, dtype=torch.uint8)
    targets = torch.randint(0, 19, (2, 61, 90), generator=torch.Generator().manual_seed(0))
    targets[:, 5:9, 3:20] = 255
    mining, results = build_mining(parse_loss("ohem"), 19), []
    for network in (at_once, by_rows):

        def predict(view: Tensor, network=network) -> Tensor | UpsampledLogits:
            low = cells(19, *(-(-side // 8) * 2 for side in view.shape[2:]), 2, dtype)
            return network(low, 4, True)(view)  # fmt: skip

        checked, calibration = CheckedPredictor(predict), Calibration()
        logits = torch.cat([band for _, band in predict_bands(checked, images, eval)], 2)
        bands = predict_bands(checked, images, eval)
        ids, nll = join_bands(bands, targets, 255, mining, calibration)
        results.append((logits, ids, calibration.matrix, nll))
        assert torch.equal(ids, logits.argmax(1)) or dtype == torch.bfloat16  # has ties
    *expected, nll = results[0]
    for exact, found in zip(expected, results[1], strict=False):
        assert torch.equal(found, exact)
    # the loss may take another path for another size of its input
    torch.testing.assert_close(results[1][-1], nll, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_seen_unless_only_padding_reads_them(value: float):
    images, size = torch.zeros(3, 3, 50, 60, dtype=torch.uint8), (50, 60)
    for row, column in ((0, 0), (12, 3), (13, 0), (14, 0), (15, 15), (0, 15)):
        low = cells(19, 16, 16, 3)
        low[1, 18, row, column] = value
        expected = ~interpolated(low, 4, True, size).isfinite().flatten(1).all(1)
        checked = CheckedPredictor(by_rows(low, 4, True))
        checked(images)
        assert torch.equal(checked.broken, expected)
    assert not expected.all()  # the other images


@pytest.fixture(scope="module")
def deeplab() -> SegmentationModel:
    torch.manual_seed(0)
    config = ModelConfig(arch="deeplabv3plus", encoder="resnet18", weights="none")
    model = build_model(config, 32).eval()
    assert model.upsampling == 4
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_deeplab_predicts_what_its_forward_says(deeplab, monkeypatch, precision: str):
    monkeypatch.setattr(inference, "BAND", 50_000)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    images = torch.randint(0, 256, (1, 3, 75, 100), dtype=torch.uint8)
    expected = build_predictor(deeplab, fabric)(images).float()
    low = build_predictor(deeplab.low_resolution, fabric)(images)
    assert torch.equal(expected, interpolated(low, 4, True, (75, 100)))
    predict = build_predictor(defer_upsampling(deeplab), fabric)
    bands = list(predict_bands(predict, images, EvalConfig()))
    assert [top for top, _ in bands] == [0, 15, 30, 45, 60]
    assert torch.equal(torch.cat([band for _, band in bands], 2), expected)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_no_logits_of_full_size_are_stored():
    """They would take 168 MB, and what calibration makes of them as much again."""
    low, images = cells(80, 128, 256), torch.zeros(1, 3, 512, 1024, dtype=torch.uint8)
    targets, calibration = torch.zeros(1, 512, 1024, dtype=torch.uint8), Calibration()

    def evaluate() -> None:
        bands = predict_bands(by_rows(low, 4, True), images, EvalConfig())
        join_bands(bands, targets, 255, None, calibration)

    def memory(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1000

    evaluate()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory("VmRSS")
    evaluate()
    assert memory("VmHWM") - before < 60
