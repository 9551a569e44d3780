"""Layers of encoders: those of timm's own group_matcher, which only whole classifiers have."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from segtrain.models.layers import number_layers


def flat(name: str) -> str:
    """A parameter's name without the wrappers' prefixes, and with the dots that they replace."""
    return name.replace("model.", "").replace(".", "_")


def encoder_of(name: str) -> nn.Module:
    with torch.device("meta"):
        if name.startswith("tu-vit"):
            options = {"dynamic_img_size": True}
            return smp.create_model("dpt", name, encoder_weights=None, **options).encoder
        return smp.encoders.get_encoder(name, weights=None)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "hiera_tiny_224",
        "convnext_atto",
        "resnet18",
        "efficientnet_b0",
        "mobilenetv4_conv_small",
        "mobilevit_xxs",
        "vgg11_bn",
    ],
)
def test_they_are_timms(name: str):
    encoder = encoder_of(f"tu-{name}")
    layers = number_layers(encoder, 3, 224)
    with torch.device("meta"):
        whole = timm.create_model(name)
    theirs = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    twin = {flat(name): layer for name, layer in theirs.items()}
    ours = {flat(name): layers[p] for name, p in encoder.named_parameters()}
    ours = {name: layer for name, layer in ours.items() if not name.startswith("head")}  # unused
    assert ours == {name: twin[name] for name in ours}
    assert max(ours.values()) + 1 == max(twin.values())  # the classifier is where our decoder is


@pytest.mark.parametrize(
    "name, count, first",
    [
        ("resnet18", 9, "conv1 bn1"),
        ("densenet121", 59, "features"),
        ("mobilenet_v2", 18, "features"),
        ("mit_b0", 9, "patch_embed1"),
        ("xception", 33, "conv1 bn1 conv2 bn2"),
        ("tu-regnety_002", 5, "model"),  # timm has its stages without stacks
    ],
)
def test_smps_own_have_layers_too(name: str, count: int, first: str):
    encoder = smp.encoders.get_encoder(name, weights=None)
    layers = number_layers(encoder, 3, 224)
    assert layers.keys() == set(encoder.parameters())
    assert set(layers.values()) == set(range(count))
    stem = {n.split(".")[0] for n, p in encoder.named_parameters() if layers[p] == 0}
    assert stem == set(first.split())


@pytest.mark.parametrize(
    "name, biases, expected",
    [
        ("mit_b0", [f"patch_embed{stage}.proj.bias" for stage in (1, 2, 3)], [0, 3, 5]),
        # embeddings, encodings of positions and two blocks of a stage in turn
        (
            "tu-twins_svt_small",
            [f"model.model.patch_embeds.{i}.proj.bias" for i in range(3)],
            [0, 4, 8],
        ),
    ],
)
def test_embeddings_that_stand_before_all_blocks_are_of_their_stages(
    name: str, biases: list[str], expected: list[int]
):
    encoder = smp.encoders.get_encoder(name, weights=None)
    layers = number_layers(encoder, 3, 224)
    assert [layers[encoder.get_parameter(bias)] for bias in biases] == expected


def test_what_lies_between_blocks_joins_the_next_one():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)  # what counts is the order of use
            self.down = nn.Conv2d(2, 2, 1)
            self.stage2 = nn.ModuleList([nn.Sequential(Block())])
            self.stage1 = nn.Sequential(Block(), Block())
            self.stem = nn.Conv2d(3, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(self.stage2[0](self.down(self.stage1(self.stem(images)))))

    encoder = Encoder()
    layers = number_layers(encoder, 3, 8)
    found = {name: layers[p] for name, p in encoder.named_parameters() if name.endswith("weight")}
    assert found == {
        "stem.weight": 0,
        "stage1.0.conv.weight": 1,
        "stage1.1.conv.weight": 2,
        "down.weight": 3,
        "stage2.0.0.conv.weight": 3,
        "norm.weight": 3,
    }
