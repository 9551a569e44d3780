"""Tiles: the same numbers as plain torch on whole maps, with and without upsampling."""

import math

import pytest
import torch
import torch.nn.functional as F
from scenes import pixel_nll

from segtrain.losses import build_loss
from segtrain.losses.kernels import tiled
from segtrain.losses.kernels.bilinear import upsampling_between
from segtrain.losses.kernels.paths import PATHS_TAKEN

FUSED = [
    "ce", "ohem", "topk(keep=7)", "focal", "ghm", "dice", "dice(squared=True)",
    "tversky(per_image=True)", "jaccard(classes=present)", "ohem(focal)+0.5*dice",
    "ce+dice(squared=True)+jaccard",
]  # fmt: skip
SIZES = [(2, 5, 6, 7), (1, 2, 1, 9), (1, 19, 5, 1)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Make tiles of a few rows and columns: every map has several, and an incomplete last one."""
    monkeypatch.setattr(tiled, "TILE", 600)
    monkeypatch.setattr(tiled, "BLOCK", 5)


def batch(shape: tuple, upsample: int, dtype: torch.dtype, ignored: float = 0.3) -> tuple:
    random = torch.Generator().manual_seed(shape[1] + upsample)
    logits = 3 * torch.randn(shape, generator=random, dtype=torch.float64)
    size = (shape[0], shape[2] * upsample, shape[3] * upsample)
    target = torch.randint(0, shape[1], size, generator=random)
    target[torch.rand(size, generator=random) < ignored] = 255
    return logits.to(dtype), target


def value_and_gradient(function, logits: torch.Tensor) -> tuple:
    logits = logits.clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(logits)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("expression", FUSED)
@pytest.mark.parametrize("upsample, align_corners", [(2, False), (3, True), (4, False), (8, True)])
@pytest.mark.parametrize("shape", SIZES)
def test_fused_upsampling_equals_interpolating_first(expression, upsample, align_corners, shape):
    logits, target = batch(shape, upsample, torch.float64)

    def interpolated(low):
        full = F.interpolate(
            low, scale_factor=upsample, mode="bilinear", align_corners=align_corners
        )
        return build_loss(expression, shape[1])(full, target)

    def fused(low):
        return build_loss(expression, shape[1])(low, target, upsample, align_corners)

    PATHS_TAKEN.clear()
    value, gradient = value_and_gradient(fused, logits)
    path = "two-class" if shape[1] == 2 else "tiles"
    assert dict(PATHS_TAKEN) == {(path, upsample): 1}
    expected, slopes = value_and_gradient(interpolated, logits)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_weights_kept_from_inference_serve_a_training(classes):
    logits, target = batch((2, classes, 6, 7), 4, torch.float32)
    loss = build_loss("ohem", classes)
    upsampling_between.cache_clear()
    with torch.inference_mode():
        expected = loss(logits, target, 4)
    value, gradient = value_and_gradient(lambda low: loss(low, target, 4), logits)
    assert upsampling_between.cache_info().hits and value == expected and gradient.any()


@pytest.mark.parametrize("expression", FUSED)
@pytest.mark.parametrize("upsample", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("classes", [2, 5])
def test_tiles_equal_the_plain_path(expression, upsample, dtype, layout, classes, monkeypatch):
    logits, target = batch((2, classes, 6, 7), upsample, dtype)
    logits = logits.to(memory_format=layout)

    def loss(logits):
        return build_loss(expression, classes)(logits, target, upsample)

    value, gradient = value_and_gradient(loss, logits)
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    expected, slopes = value_and_gradient(loss, logits)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    rtol = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradient, slopes, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("expression", ["ohem+0.5*dice", "dice(squared=True)", "ohem+lovasz"])
def test_cells_that_no_valid_pixel_reads_may_hold_anything(bad, kernels, expression, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_KERNELS", kernels)
    logits, target = batch((1, 3, 4, 6), 4, torch.float32, ignored=0.1)
    target[:, :, 16:] = 255
    loss = build_loss(expression, 3)
    clean = value_and_gradient(lambda low: loss(low, target, 4), logits)
    logits[..., 5:] = bad  # column 4 is read by pixels left of 16
    value, gradient = value_and_gradient(lambda low: loss(low, target, 4), logits)
    torch.testing.assert_close((value, gradient[..., :5]), (clean[0], clean[1][..., :5]))
    assert gradient[..., 5:].eq(0).all()


def test_rows_that_nothing_kept_lies_in_cost_no_gradient():
    """Tiles without a kept pixel are skipped; their gradient is 0, as in the formula."""
    logits = torch.zeros(1, 3, 24, 8)
    logits[:, 0] = 20.0
    logits[:, 0, 10] = -1.0
    target = torch.zeros(1, 24, 8, dtype=torch.int64)
    loss = build_loss("ohem(n_min_factor=1000)", 3)
    _, gradient = value_and_gradient(lambda z: loss(z, target), logits)
    touched = gradient.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert touched == [10]


def test_gradient_is_that_of_finite_differences():
    logits, target = batch((1, 3, 3, 2), 2, torch.float64)
    for expression in ("ce", "dice+jaccard", "dice(squared=True)"):
        loss = build_loss(expression, 3)
        assert torch.autograd.gradcheck(
            lambda low, loss=loss: loss(low, target, 2, True), (logits.requires_grad_(),)
        )


@pytest.mark.parametrize("classes", [2, 3])
def test_easy_pixels_keep_their_digits(classes):
    margins = torch.linspace(1, 14, 50)
    logits = torch.stack([10 + margins, torch.full((50,), 10.0), torch.full((50,), 9.0)])
    logits = logits[:classes]
    nll = pixel_nll(logits.view(1, classes, 5, 10), torch.zeros(1, 5, 10, dtype=torch.int64))
    exact = torch.log1p((logits[1:].double() - logits[0].double()).exp().sum(0))
    assert exact.min() < 2e-6
    torch.testing.assert_close(nll.flatten().double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("top", [1e4, 90.0])
def test_margins_too_large_for_exp_take_the_stable_way(top):
    logits = torch.zeros(1, 3, 6, 5)
    logits[0, 1, 2] = top  # the truth is 0: a sure mistake in one row
    target = torch.zeros(1, 6, 5, dtype=torch.int64)
    nll = pixel_nll(logits, target)
    expected = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(nll, expected)
    value, gradient = value_and_gradient(lambda z: build_loss("ce+dice", 3)(z, target), logits)
    assert value.isfinite() and gradient.isfinite().all()
