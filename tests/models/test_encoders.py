"""Encoders of smp and timm: defaults, options, combinations, and ports that differ."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from timm.layers import DropPath
from torch import Tensor

from segtrain.config import ModelConfig
from segtrain.errors import UsageError
from segtrain.models.encoders import (
    default_options,
    explain_port,
    network_options,
    refuse_other_outputs,
)
from segtrain.models.segmentation import SegmentationModel, build_model

SMALL_DPT = {"decoder_fusion_channels": 8, "decoder_intermediate_channels": [8] * 4}
SMALL_VIT = {"embed_dim": 32, "num_heads": 2}
SMALL_CONVNEXT = {"depths": [1] * 4, "dims": [8] * 4}
# of the networks that people fine-tune today, with fewer channels
MODERN = {
    "DINOv2": ("dpt", "tu-vit_small_patch14_dinov2", SMALL_DPT, SMALL_VIT),
    "DINOv3": ("dpt", "tu-vit_small_patch16_dinov3", SMALL_DPT, SMALL_VIT),
    "DINOv3 ConvNeXt": ("unet", "tu-convnext_tiny.dinov3_lvd1689m", {"decoder_channels": [8] * 5},
                        SMALL_CONVNEXT),
    "DINOv3 ConvNeXt, UPerNet": ("upernet", "tu-convnext_tiny.dinov3_lvd1689m",
                                 {"decoder_channels": 8}, SMALL_CONVNEXT),
    "swin": ("unet", "tu-swin_tiny_patch4_window7_224", {"decoder_channels": [8] * 5},
             {"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}),
    "PAN": ("pan", "tu-test_efficientnet", {"decoder_channels": 8}, {}),
    "windows": ("fpn", "tu-test_maxvit", {}, {}),
}  # fmt: skip


def made(case: str) -> SegmentationModel:
    arch, encoder, options, encoder_options = MODERN[case]
    config = ModelConfig(
        arch=arch, encoder=encoder, options=options, encoder_options=encoder_options
    )
    torch.manual_seed(0)
    return build_model(config, 3).eval()


def pixels(*size: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randint(0, 256, (1, 3, *size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("case", MODERN)
def test_every_size_is_taken_and_leaves_nothing_behind(case: str):
    """What a size leaves in a network, such as masks of attention, must not reach another's."""
    model, logits = made(case), {}
    sizes = [(5, 7), (33, 70), (64, 64)]
    assert model.find_size_error(sizes) is None
    with torch.inference_mode():
        for size in [*sizes, *sizes[:2]]:
            found = model(pixels(*size))
            assert found.shape == (1, 3, *size) and found.isfinite().all()
            assert torch.equal(found, logits.setdefault(size, found))


@pytest.mark.parametrize(
    "arch, encoder, expected",
    [
        ("unet", "resnet18", {}),
        ("unet", "tu-resnet18", {}),
        ("unet", "tu-swin_tiny_patch4_window7_224", {"dynamic_img_size": True}),
        ("unet", "tu-swinv2_cr_tiny_ns_224", {"dynamic_img_size": True}),
        ("dpt", "tu-vit_tiny_patch16_224", {"dynamic_img_size": True}),
        ("dpt", "tu-deit_tiny_distilled_patch16_224", {"dynamic_img_size": True}),
        ("dpt", "tu-vit_small_patch8_224", {"dynamic_img_size": True}),
        ("dpt", "tu-vit_small_patch14_dinov2", {"dynamic_img_size": True, "patch_size": 16}),
        ("dpt", "tu-eva02_tiny_patch14_224", {"dynamic_img_size": True, "patch_size": 16}),
        ("dpt", "tu-test_vit_relpos", {}),
    ],
)
def test_defaults_are_what_the_encoders_class_takes(arch, encoder, expected):
    assert default_options(arch, encoder) == expected


def test_options_go_before_defaults():
    config = ModelConfig(
        arch="dpt",
        encoder="tu-vit_small_patch14_dinov2",
        options={"decoder_readout": "add", "dynamic_img_size": False},
        encoder_options={"patch_size": 32},
    )
    assert network_options(config) == {
        "dynamic_img_size": False, "patch_size": 32, "decoder_readout": "add"
    }  # fmt: skip


@pytest.mark.parametrize("field", ["options", "encoder_options"])
def test_options_are_handed_on_to_timm(field: str):
    config = ModelConfig(encoder="tu-test_convnext", **{field: {"drop_path_rate": 0.5}})
    rates = [m.drop_prob for m in build_model(config, 2).modules() if isinstance(m, DropPath)]
    assert max(rates) == 0.5


REFUSED = {
    "smp's own": ({"encoder_options": {"drop_path_rate": 0.1}}, ["resnet18", "tu-NAME"]),
    "unknown to the architecture": ({"options": {"decoder_chanels": [8]}}, ["did you mean deco"]),
    "unknown to timm": ({"encoder": "tu-test_resnet", "options": {"decoder_chanels": [8]}},
                        ["'decoder_chanels'", "without these options", "did you mean decoder_ch"]),
    "of the architecture": ({"encoder": "tu-test_resnet", "encoder_options": {"decoder_channels":
                            [8]}}, ["decoder_channels", "model.options"]),
    "a file": ({"encoder": "tu-test_resnet", "encoder_options": {"checkpoint_path": "x.pth"}},
               ["checkpoint_path", "model.weights"]),
    "a file, handed on": ({"encoder": "tu-test_resnet", "options": {"pretrained_cfg": "x"}},
                          ["pretrained_cfg", "model.weights"]),
    "wrong values": ({"options": {"decoder_channels": [8, 8]}}, ["without these options it can"]),
    "no such tag": ({"encoder": "tu-resnet18.zz"}, ["tu-resnet18.zz", "zz"]),
    "no dilation": ({"arch": "deeplabv3plus", "encoder": "tu-hrnet_w18_small"},
                    ["assert output_stride == 32", "unet", "deeplabv3plus can be on resnet50"]),
    "logits of another size": (
        {"arch": "pspnet", "encoder": "tu-test_resnet", "options": {"encoder_depth": 4}},
        ["its logits are", "without these options it can"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused_in_a_line(case: str):
    fields, words = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        build_model(ModelConfig(**fields), 2)
    message = str(refused.value)
    assert "\n" not in message and not [word for word in words if word not in message], message


def test_images_are_tried_at_a_multiple_of_the_encoders_stride():
    """Else its own check would be the reason, which padding passes."""
    network = {"arch": "dpt", "encoder": "tu-vit_small_patch14_dinov2", "options": SMALL_DPT}
    with pytest.raises(UsageError, match="takes no images") as refused:
        build_model(ModelConfig(**network, encoder_options=SMALL_VIT | {"patch_size": 14}), 2)
    assert "divisible" not in str(refused.value)


def test_the_combinations_that_an_error_names_can_be_built():
    with pytest.raises(UsageError) as refused:
        build_model(ModelConfig(arch="linknet", encoder="mit_b0"), 2)
    *_, architectures, others = str(refused.value).split("; ")
    assert architectures.endswith(" can") and "linknet" not in architectures
    arch = architectures.removesuffix(" can").split(", ")[0]
    encoder = others.removeprefix("linknet can be on ").split(", ")[0]
    build_model(ModelConfig(arch=arch, encoder="mit_b0"), 2)
    build_model(ModelConfig(arch="linknet", encoder=encoder), 2)


@pytest.mark.parametrize("options", [{"activation": "softmax"}, {"aux_params": {"classes": 2}}])
def test_another_output_than_logits_is_refused(options: dict):
    with pytest.raises(UsageError, match=next(iter(options))):
        refuse_other_outputs(ModelConfig(options=options))
    refuse_other_outputs(ModelConfig(options=dict.fromkeys(options)))


PORTS = {
    "timm-tf_efficientnet_lite0": "tu-tf_efficientnet_lite0",
    "timm-efficientnet-b0": "tu-tf_efficientnet_b0",
}


@pytest.mark.filterwarnings("ignore:.timm-. encoders are deprecated")
@pytest.mark.parametrize("encoder", [*PORTS, "efficientnet-b0"])
def test_a_port_is_noted_where_its_features_differ_from_timms(encoder: str):
    """Both get the same weights: their tensors have one order."""
    own, timms = (
        smp.encoders.get_encoder(name, weights=None).eval()
        for name in (encoder, PORTS.get(encoder, "tu-tf_efficientnet_b0"))
    )
    for ours, theirs in zip(own.state_dict().values(), timms.state_dict().values(), strict=False):
        theirs.copy_(ours)
    image = pixels(64, 64).float() / 64 - 2
    with torch.inference_mode():
        found, expected = own(image)[2], timms(image)[2]
    off = (found - expected).norm() / expected.norm()
    note = explain_port(encoder)
    assert off > 0.05 if encoder in PORTS else off < 1e-5
    assert f"take --encoder {PORTS[encoder]}" in note if encoder in PORTS else note is None


def test_encoders_that_a_note_on_a_port_names_are_timms():
    noted = filter(explain_port, smp.encoders.get_encoder_names())
    named = [explain_port(name).split("--encoder tu-")[1] for name in noted]
    assert len(named) == 15 and all(smp.encoders.timm_universal.timm.is_model(n) for n in named)
