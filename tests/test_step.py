"""The training step: low-resolution logits go to the loss where all its terms can read them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtrain.config import Model
from segtrain.losses import build_loss
from segtrain.losses.nll import PATHS_TAKEN
from segtrain.model import build_model
from segtrain.step import TrainingModule, describe_path

CPU = torch.device("cpu")


def batch(height: int, width: int) -> tuple:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 3, (2, height, width), generator=generator)
    target[0, :9] = 255
    return images, target


def interpolated_loss(model, expression, images, target):
    """What the user thinks happens: the network of the library, its own upsampling, the loss."""
    height, width = images.shape[-2:]
    padded = F.pad((images.float() - model.mean) / model.std, (0, -width % 32, 0, -height % 32))
    upsampled = nn.UpsamplingBilinear2d(scale_factor=model.upsampling)(model.network(padded))
    return build_loss(expression, 3)(upsampled[..., :height, :width], target)


@pytest.mark.parametrize("arch, factor", [("deeplabv3plus", 4), ("deeplabv3", 8), ("fpn", 4)])
@pytest.mark.parametrize("expression", ["ohem+0.5*dice", "ghm", "ohem+0.1*lovasz"])
@pytest.mark.parametrize("size", [(32, 64), (45, 37)])
def test_loss_and_gradients_are_those_of_upsampled_logits(arch, factor, expression, size):
    torch.manual_seed(0)
    model = build_model(Model(arch=arch, encoder="resnet18"), 3).eval()  # batch norm stands still
    images, target = batch(*size)
    module = TrainingModule(model, build_loss(expression, 3))
    PATHS_TAKEN.clear()
    value = module(images, target)
    value.backward()
    fused = "lovasz" not in expression
    assert dict(PATHS_TAKEN) == {("tiles", factor if fused else 1): 1}
    weight = model.network.segmentation_head[0].weight
    gradient, weight.grad = weight.grad, None
    expected = interpolated_loss(model, expression, images, target)
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-6)


def test_the_model_upsamples_where_nobody_else_does():
    torch.manual_seed(0)
    model = build_model(Model(arch="fpn", encoder="resnet18"), 3).eval()
    images, _ = batch(45, 37)
    low = model.low_resolution(images)
    assert low.shape[-2:] == (64 // 4, 64 // 4)
    expected = nn.UpsamplingBilinear2d(scale_factor=4)(low)[..., :45, :37]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    "arch, expression, line",
    [
        ("deeplabv3plus", "ohem+0.5*dice",
         "tiles path (logits are on the CPU), 4x upsampling of logits fused"),
        ("unet", "ohem", "tiles path (logits are on the CPU)"),
        ("fpn", "ce+lovasz",
         "tiles path (logits are on the CPU), 4x upsampling of logits not fused: "
         "lovasz reads full-resolution logits"),
    ],
)  # fmt: skip
def test_the_path_is_said_with_its_reason(arch, expression, line):
    model = build_model(Model(arch=arch, encoder="resnet18"), 3)
    assert describe_path(model, build_loss(expression, 3), CPU) == line


def test_kernels_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    model = build_model(Model(arch="fpn", encoder="resnet18"), 3)
    module = TrainingModule(model, build_loss("ohem", 3))
    PATHS_TAKEN.clear()
    module(*batch(32, 32))
    assert dict(PATHS_TAKEN) == {("plain", 4): 1}
    assert "plain path (SEGTRAIN_KERNELS=0)" in describe_path(model, module.loss, CPU)
