"""Trial forward passes: padding to what a network takes, and parameters that nothing reaches."""

from __future__ import annotations

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from segtrain.config import ModelConfig
from segtrain.models.segmentation import SegmentationModel, build_model, shape_model
from segtrain.models.trial import Padding, copy_shapes, find_error, find_padding, find_unreached


class Picky(nn.Module):
    """A network that refuses some sides; its logits have the size of the images over `factor`."""

    def __init__(self, accepts, factor: int = 1):
        super().__init__()
        self.accepts, self.factor = accepts, factor
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        for side in images.shape[2:]:
            if not self.accepts(side):
                raise AssertionError(f"a side of {side} is refused")
        return self.weight * images[:, :2, :: self.factor, :: self.factor]


PADDINGS = {
    "any": (lambda side: True, 32, (32, 32)),
    "a stride of its own": (lambda side: side % 14 == 0, math.lcm(32, 14), (224, 224)),
    "from a least side on": (lambda side: side >= 100, 32, (128, 32)),
    "windows": (lambda side: side % 160 == 0, 32, (160, 160)),
    "a single one": (lambda side: side == 96, 32, (96, 32)),
}


@pytest.mark.parametrize("case", PADDINGS)
def test_images_are_padded_to_the_least_that_a_network_takes(case: str):
    accepts, stride, expected = PADDINGS[case]
    assert find_padding(copy_shapes(Picky(accepts)), 3, stride, 1) == expected


def test_a_network_that_takes_no_size_is_refused_with_its_reason():
    with pytest.raises(ValueError, match="a side of 1024 is refused"):
        find_padding(copy_shapes(Picky(lambda side: False)), 3, 32, 1)


@given(st.integers(1, 5000), st.integers(1, 9), st.integers(1, 9))
def test_a_padded_side_is_the_least_that_fits(side: int, least: int, step: int):
    padding = Padding(32 * least * step, 32 * step)
    padded = padding.pad(side)
    assert padded >= max(side, padding.least) and padded % padding.step == 0
    smaller = padded - padding.step
    assert smaller < side or smaller < padding.least


def test_logits_of_another_size_than_the_images_are_an_error():
    """Such are those of wrong options: PSPNet's upsampling doesn't follow its encoder's depth."""
    network = copy_shapes(Picky(lambda side: True, factor=2))
    assert find_error(network, (64, 96), 3, 2) is None
    assert find_error(network, (64, 96), 3, 4) == "its logits are 128x192"


def test_a_copy_of_shapes_holds_no_values_and_leaves_the_network_alone():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copied = copy_shapes(network)
    copied(torch.empty(2, 3, 10**4, 10**4, device="meta"))  # of 6 GB
    assert {t.device.type for t in copied.state_dict().values()} == {"meta"}
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


REACHED = [
    ("pspnet", "tu-test_efficientnet", {"psp_out_channels": 8}, "network.encoder.model.blocks.3."),
    ("fpn", "efficientnet-b0", {"decoder_segmentation_channels": 32}, "network.encoder._conv"),
    ("dpt", "tu-test_vit", {}, "network.encoder.model.head."),
    ("unet", "tu-test_byobnet", {"encoder_depth": 3, "decoder_channels": [8] * 3}, None),
]


@pytest.mark.parametrize("arch, encoder, options, name", REACHED)
def test_what_no_output_reaches_is_what_a_loss_gives_no_gradient(arch, encoder, options, name):
    model = build_model(ModelConfig(arch=arch, encoder=encoder, options=options), 3).train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model(images).square().mean().backward()
    without = {key for key, p in model.named_parameters() if p.grad is None}
    model.freeze_unreached()
    assert model.unreached == without
    assert without == {key for key, p in model.named_parameters() if not p.requires_grad}
    assert any(key.startswith(name) for key in without) if name else not without
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model.parameter_count == counted


def test_a_parameter_is_reached_through_others():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))
    network.other = nn.Identity()
    network[1].spare = nn.Parameter(torch.ones(2))
    del network.other
    assert find_unreached(copy_shapes(network), (1, 3, 8, 8)) == {"1.spare"}


def test_networks_of_one_structure_are_tried_once(monkeypatch: pytest.MonkeyPatch):
    forward, tried = smp.Unet.forward, []

    def count(network: smp.Unet, images: Tensor) -> Tensor:
        tried.append(images.shape)
        return forward(network, images)

    def try_all(model: SegmentationModel) -> tuple:
        model.freeze_unreached()
        return model.padding, model.unreached, model.find_size_error([(5, 7), (70, 40)])

    monkeypatch.setattr(smp.Unet, "forward", count)
    config = ModelConfig(encoder="tu-test_byobnet", options={"decoder_channels": [6] * 5})
    found = try_all(build_model(config, 3))
    assert len(tried) == 3, "the padding, what is reached, and 96x64; 32x32 is the padding's"
    plain = config.model_copy(update={"mean": [1, 2, 3], "freeze_bn": True, "weights": "none"})
    assert found == try_all(build_model(plain, 3)) == try_all(build_model(config, 3))
    assert shape_model(config, 3).padding == found[0] and len(tried) == 3
    other = config.model_copy(update={"encoder_options": {"drop_rate": 0.5}})
    for fields, classes in ((config, 4), (other, 3)):
        tried.clear()
        try_all(build_model(fields, classes))
        assert len(tried) == 3


def test_the_shapes_of_a_network_are_built_once_and_have_no_values():
    config = ModelConfig(encoder="tu-test_byobnet", options={"decoder_channels": [4] * 5})
    shapes = shape_model(config, 3)
    assert all(tensor.is_meta for tensor in shapes.state_dict().values())
    assert shape_model(config, 3) is shapes is not shape_model(config, 2)
    own = build_model(config, 3).state_dict()
    assert {name: t.shape for name, t in own.items()} == {
        name: t.shape for name, t in shapes.state_dict().items()
    }
