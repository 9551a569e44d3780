"""NLL map of the pixel pass: values, gradients, ignored pixels and refused shapes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scenes import pixel_nll
from twins import valid_pixels

from segtrain.errors import UsageError
from segtrain.losses import build_loss, pixel_pass


def nll_twin(logits: np.ndarray, target: np.ndarray, ignore: int) -> np.ndarray:
    nll = np.zeros(target.shape)
    for pixel in valid_pixels(logits, target, ignore):
        nll[pixel.place] = pixel.nll
    return nll


def batch(classes: int = 4, ignore: int = 255, dtype=torch.float32) -> tuple:
    """Logits (2,C,5,3) and a target (2,5,3) of which a fifth is ignored."""
    generator = torch.Generator().manual_seed(classes)
    logits = 4 * torch.randn(2, classes, 5, 3, generator=generator)
    target = torch.randint(0, classes, (2, 5, 3), generator=generator)
    target.view(-1)[::5] = ignore
    return logits.to(dtype), target


@pytest.fixture(params=["kernels", "plain"])
def path(request, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0" if request.param == "plain" else "1")


@pytest.mark.parametrize("classes", [2, 4, 19, 300])
@pytest.mark.parametrize("ignore", [255, -1])
def test_equals_the_formula_and_torch(classes, ignore):
    logits, target = batch(classes, ignore)
    nll = pixel_nll(logits, target, ignore)
    np.testing.assert_allclose(nll, nll_twin(logits.numpy(), target.numpy(), ignore), 1e-5, 1e-6)
    expected = F.cross_entropy(logits, target, ignore_index=ignore, reduction="none")
    torch.testing.assert_close(nll, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_ignored_pixel_is_zero_whatever_its_logits(bad):
    logits, target = batch()
    ignored = target == 255
    spoilt = torch.where(ignored.unsqueeze(1), bad, logits).requires_grad_()
    nll = pixel_nll(spoilt, target)
    nll.sum().backward()
    assert nll[ignored].eq(0).all() and nll.isfinite().all()
    per_pixel = spoilt.grad.movedim(1, -1)
    assert per_pixel[ignored].eq(0).all() and per_pixel.isfinite().all()
    assert per_pixel[~ignored].ne(0).all()


@pytest.mark.parametrize(
    "given, computed",
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
     (torch.float32, torch.float32), (torch.float64, torch.float64)],
)  # fmt: skip
def test_computes_in_single_precision_at_least(given, computed):
    logits, target = batch(dtype=given)
    nll = pixel_nll(logits, target)
    assert nll.dtype == computed
    twin = nll_twin(logits.double().numpy(), target.numpy(), 255)
    np.testing.assert_allclose(nll, twin, rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_finite_differences():
    logits, target = batch(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(pixel_nll, (logits.requires_grad_(), target))


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]]).view(2, 2, 1, 1).requires_grad_()
    nll = pixel_nll(logits, torch.zeros(2, 1, 1, dtype=torch.int64))
    nll.sum().backward()
    assert nll.flatten().tolist() == [0, 2e4]
    assert logits.grad.flatten().tolist() == [0, 0, -1, 1]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.usefixtures("path")
def test_a_class_at_minus_infinity_is_absent_and_as_the_truth_nan(classes):
    logits, target = batch(classes)
    logits[:, 1, 2], target[:, 2] = -math.inf, 0
    logits[:, 0, 3], target[:, 3] = -math.inf, 0
    nll = pixel_nll(logits, target)
    expected = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
    expected[:, 3] = math.nan  # infinite there, and the other paths would pay to tell them apart
    torch.testing.assert_close(nll, expected, equal_nan=True)


@pytest.mark.parametrize("upsample", [1, 2])
def test_one_channel_is_the_logit_of_class_1_against_0(upsample):
    z = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.randint(0, 2, (2, 3 * upsample, 4 * upsample))
    pair = torch.cat([torch.zeros_like(z), z], 1)
    one, two = (pixel_nll(logits, target, upsample=upsample) for logits in (z, pair))
    torch.testing.assert_close(one, two)
    gradients = [torch.autograd.grad(nll.sum(), z)[0] for nll in (one, two)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "logits, target, upsample, named",
    [
        ((2, 3, 4, 5), (2, 4, 6), 1, "upsample times the logits"),
        ((2, 3, 4, 5), (1, 4, 5), 1, "upsample times the logits"),
        ((2, 3, 4, 5), (2, 8, 9), 2, "(2, 8, 9), upsample 2"),
        ((3, 4, 5), (1, 4, 5), 1, "expected logits (N,C,h,w)"),
        ((2, 3, 4, 5), (2, 2, 4, 5), 1, "target (N,H,W) or (N,1,H,W), got"),
        ((2, 3, 4, 5), (2, 1, 4, 6), 1, "upsample times the logits"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(logits, target, upsample, named):
    with pytest.raises(UsageError) as refusal:
        pixel_nll(torch.zeros(logits), torch.zeros(target, dtype=torch.int64), upsample=upsample)
    assert named in str(refusal.value)


# ---- targets


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.usefixtures("path")
def test_a_target_of_any_integer_type_and_with_a_channel_is_taken(dtype, classes):
    logits, target = batch(classes)
    loss = build_loss("ohem+0.5*dice+focal", classes)
    expected = loss(logits, target)
    for given in (target.to(dtype), target.to(dtype).unsqueeze(1)):
        assert torch.equal(loss(logits, given), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_a_target_of_another_type_is_refused(dtype):
    with pytest.raises(UsageError, match=f"uint8, int16, int32 or int64, got {dtype}"):
        pixel_nll(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=dtype))


@pytest.mark.parametrize("ignore", [-1, 256])
def test_a_target_that_cannot_hold_lb_ignore_is_refused(ignore):
    target = torch.zeros(1, 3, 3, dtype=torch.uint8)
    with pytest.raises(UsageError, match=rf"lb_ignore is {ignore}, which a torch.uint8 target"):
        pixel_nll(torch.zeros(1, 2, 3, 3), target, ignore)


@pytest.mark.parametrize("label", [-1, 3, 255, 1 << 32])
@pytest.mark.parametrize("channels, classes", [(1, 2), (2, 2), (3, 3)])
@pytest.mark.parametrize("upsample", [1, 2])
@pytest.mark.usefixtures("path")
def test_a_label_out_of_range_names_itself(label, channels, classes, upsample):
    target = torch.ones(2, 4, 6, dtype=torch.int64)
    target[1, 2, 3:5], target[0, 0] = label, 100
    logits = torch.zeros(2, channels, 4 // upsample, 6 // upsample)
    with pytest.raises(UsageError) as refusal:
        pixel_nll(logits, target, 100, upsample=upsample)
    assert f"label {label} (pixels: 2), which is neither" in str(refusal.value)
    assert f"{classes} classes, 0 to {classes - 1}, nor lb_ignore, 100" in str(refusal.value)


@pytest.mark.parametrize(
    "expression",
    ["ce(weight=[1, 2, 3, 4])", "dice", "ohem+lovasz", "lovasz", "cldice(background=True)"],
)
def test_where_nobody_may_look_a_label_out_of_range_gives_nan(expression, monkeypatch):
    """On a GPU an index out of range would end the process's CUDA context."""
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    monkeypatch.setattr(pixel_pass, "reads_freely", lambda values: False)
    logits, target = batch()
    loss = build_loss(expression, 4)
    assert loss(logits, target).isfinite()
    target[0, 1, 1] = 4
    assert loss(logits, target).isnan()


# ---- second derivatives


@pytest.mark.parametrize("expression", ["ce", "dice", "ohem+0.5*dice"])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("upsample", [1, 2])
def test_a_gradient_of_the_gradient_is_refused_and_plain_has_it(
    expression, classes, upsample, monkeypatch
):
    logits, target = (part[:1, ..., :2, :2] for part in batch(classes, dtype=torch.float64))
    target = target.repeat_interleave(upsample, 1).repeat_interleave(upsample, 2)
    loss, logits = build_loss(expression, classes), logits.requires_grad_()
    with pytest.raises(UsageError, match="create_graph=True.* set SEGTRAIN_KERNELS=0"):
        torch.autograd.grad(loss(logits, target, upsample), logits, create_graph=True)
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    loss = build_loss(expression, classes)  # a loss chooses its path once
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target, upsample), (logits,))
