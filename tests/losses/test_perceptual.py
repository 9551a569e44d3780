"""VGG's perceptual loss against a twin in double precision, its weights and its refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from scenes import some_ignored, value_and_gradient

from segtrain.errors import SegtrainError, UsageError
from segtrain.losses import VGG, build_loss

PALETTE = [(0, 0, 0), (200, 30, 90), (10, 250, 128)]
SHALLOW = "vgg(layers=[3, 8], weights='none')"


def build(expression=SHALLOW, **kwargs):
    torch.manual_seed(0)
    return build_loss(expression, 3, palette=PALETTE, **kwargs)


def batch(**kwargs) -> tuple:
    return some_ignored(seed=3, shape=(2, 33, 35), **kwargs)


def vgg_twin(loss, layers, logits, target, ignore=255) -> tuple:
    """Value and gradient in double precision, with the weights that the loss drew."""
    logits = logits.double().requires_grad_()
    valid = (target != ignore).unsqueeze(1)
    probs = logits.where(valid, 0).softmax(1)
    views = torch.zeros(2, len(target), 3, *target.shape[1:], dtype=torch.float64)
    for c, colour in enumerate(PALETTE):
        for channel, shade in enumerate(colour):
            views[0, :, channel] += probs[:, c] * shade / 255
            views[1, :, channel] += (target == c) * shade / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()
    views = (views.where(valid, 0) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    drawn = iter(module for module in loss.modules() if isinstance(module, torch.nn.Conv2d))
    seen = []  # after each of VGG-19's layers
    for item in torchvision.models.vgg.cfgs["E"]:
        if len(seen) > max(layers):
            break
        if item == "M":
            views = torch.stack([F.max_pool2d(view, 2) for view in views])
            seen.append(views)
        else:
            layer = next(drawn)
            weight, bias = layer.weight.double(), layer.bias.double()
            views = torch.stack([F.conv2d(view, weight, bias, padding=1) for view in views])
            seen.append(views)
            views = views.clamp(min=0)
            seen.append(views)
    value = sum((seen[i][0] - seen[i][1]).square().mean() for i in layers) / len(layers)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize(
    "expression, layers",
    [(SHALLOW, [3, 8]), ("vgg(weights=none)", [3, 8, 13, 22, 31]),
     ("vgg(layers=[0, 1, 2, 4], weights=none)", [0, 1, 2, 4])],
)  # fmt: skip
def test_equals_twin(expression, layers):
    loss = build(expression)
    logits, target = batch()
    value, gradient = value_and_gradient(loss, logits.double(), target)
    expected, slopes = vgg_twin(loss, layers, logits, target)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-6 * slopes.abs().max().item())
    single, gradient = value_and_gradient(loss, logits, target)
    torch.testing.assert_close(single, value.float(), rtol=1e-5, atol=0)
    assert (gradient - slopes).norm() < 1e-3 * slopes.norm()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_ignored_pixels_change_nothing(bad):
    loss = build()
    logits, target = batch()
    ignored = target == 255
    value, gradient = value_and_gradient(loss, logits, target)
    spoilt = logits.where(~ignored.unsqueeze(1), bad)
    bad_value, bad_gradient = value_and_gradient(loss, spoilt, target)
    assert torch.equal(bad_value, value) and torch.equal(bad_gradient, gradient)
    assert gradient.movedim(1, -1)[ignored].eq(0).all() and gradient.ne(0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_and_no_valid_pixel(dtype):
    loss = build("vgg(layers=[1], weights=none)")
    logits, target = batch()
    logits = logits.to(dtype)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(leaf, target)
    value.backward()
    wide = logits if dtype == torch.float64 else logits.float()
    expected, slopes = value_and_gradient(loss, wide, target)
    assert value.dtype == wide.dtype and torch.equal(value, expected)
    assert torch.equal(leaf.grad, slopes.to(dtype))
    nothing = torch.full_like(target, 255)
    value, gradient = value_and_gradient(loss, torch.full_like(logits, 6e4), nothing)
    assert value == 0 and gradient.eq(0).all()


def test_the_right_prediction_costs_nothing():
    _, target = some_ignored(shape=(1, 32, 32))
    target = target.where(target != 255, 0)
    logits = 1000.0 * F.one_hot(target, 3).movedim(-1, 1)
    value, gradient = value_and_gradient(build(), logits, target)
    assert value.item() == pytest.approx(0, abs=1e-9) and gradient.isfinite().all()


def test_the_network_stays_as_it_is():
    loss = build().train()
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss(batch()[0].requires_grad_(), batch()[1]).backward()
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())
    assert not any(p.requires_grad for p in loss.parameters())


def test_weights_come_from_a_file(tmp_path):
    torch.manual_seed(1)
    layers = torchvision.models.vgg.make_layers([64, 64])
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    torch.save(state, tmp_path / "vgg19.pth")
    loss = build(f"vgg(layers=[3], weights={str(tmp_path / 'vgg19.pth')!r})")
    drawn = next(module for module in loss.modules() if isinstance(module, torch.nn.Conv2d))
    assert torch.equal(drawn.weight, layers[0].weight)
    assert loss(*batch()).isfinite()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(SegtrainError, match="other.pth"):
        build(f"vgg(layers=[3], weights={str(tmp_path / 'other.pth')!r})")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(SegtrainError, match="text.pth"):
        build(f"vgg(layers=[3], weights={str(tmp_path / 'text.pth')!r})")


def test_it_is_a_class():
    torch.manual_seed(0)
    loss = VGG(palette=PALETTE, layers=[3, 8], weights="none", lb_ignore=255)
    assert torch.equal(loss(*batch()), build()(*batch()))


@pytest.mark.parametrize(
    "expression, named",
    [
        ("vgg(layers=[], weights=none)", ["layers"]),
        ("vgg(layers=[37], weights=none)", ["layers", "36", "37"]),
        ("vgg(layers=[-1], weights=none)", ["layers", "-1"]),
        ("vgg(layers=3, weights=none)", ["layers", "3"]),
        ("vgg(layers=['a'], weights=none)", ["layers", "'a'"]),
        ("vgg(weights='/nowhere/vgg.pth')", ["weights", "imagenet", "none", "/nowhere/vgg.pth"]),
        ("vgg(weights=3)", ["weights", "imagenet", "none", "3"]),
        ("vgg(weights=[1])", ["weights", "imagenet", "none"]),
        ("vgg(palette=[1], weights=none)", ["no argument 'palette'"]),
        ("ohem(vgg)", ["vgg", "ce, focal, ghm"]),
    ],
)
def test_refusals_say_what_is_allowed(expression, named):
    with pytest.raises(UsageError) as refusal:
        build(expression)
    assert all(part in str(refusal.value) for part in named), str(refusal.value)


def test_small_pictures_are_refused():
    with pytest.raises(UsageError, match="32"):
        build()(torch.zeros(1, 3, 31, 40), torch.zeros(1, 31, 40, dtype=torch.int64))


def test_the_palette_may_be_left_out_but_not_too_short():
    assert build_loss("vgg(layers=[1], weights=none)", 3)(*batch()) > 0
    with pytest.raises(UsageError, match="palette|colour"):
        build_loss("vgg(layers=[1], weights=none)", 4, palette=PALETTE)
