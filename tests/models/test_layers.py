"""Layers of encoders: those of timm's own group_matcher, which only whole classifiers have."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.models import group_parameters
from torch import nn

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
    layers = number_layers(encoder)
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
        ("xception", 33, "conv1 bn1 conv2 bn2 block1"),
        ("tu-regnety_002", 5, "model"),  # timm has its stages without stacks
    ],
)
def test_smps_own_have_layers_too(name: str, count: int, first: str):
    encoder = smp.encoders.get_encoder(name, weights=None)
    layers = number_layers(encoder)
    assert layers.keys() == set(encoder.parameters())
    assert set(layers.values()) == set(range(count))
    stem = {n.split(".")[0] for n, p in encoder.named_parameters() if layers[p] == 0}
    assert stem == set(first.split())


def test_segformers_embeddings_are_of_their_stages():
    encoder = smp.encoders.get_encoder("mit_b0", weights=None)
    layers = number_layers(encoder)
    found = [layers[encoder.get_parameter(f"patch_embed{stage}.proj.bias")] for stage in (1, 2, 3)]
    assert found == [0, 3, 5]  # two blocks a stage


def test_what_lies_between_blocks_joins_the_next_one():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

    encoder = nn.Module()
    encoder.stem = nn.Conv2d(2, 2, 1)
    encoder.stage1 = nn.Sequential(Block(), Block())
    encoder.down = nn.Conv2d(2, 2, 1)
    encoder.stage2 = nn.ModuleList([nn.Sequential(Block())])
    encoder.norm = nn.BatchNorm2d(2)
    layers = number_layers(encoder)
    found = {name: layers[p] for name, p in encoder.named_parameters() if name.endswith("weight")}
    assert found == {
        "stem.weight": 0,
        "stage1.0.conv.weight": 1,
        "stage1.1.conv.weight": 2,
        "down.weight": 3,
        "stage2.0.0.conv.weight": 3,
        "norm.weight": 3,
    }
