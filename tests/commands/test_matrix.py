"""A tenth of benchmarks/matrix.py: what a combination of architecture and encoder comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMBINATIONS = json.loads((BENCHMARKS / "results/matrix.json").read_text())["combinations"]
# quick ones, in which each architecture trains and each encoder is met
TENTH = [
    *(("unet", "mobilenet_v2"), ("unetplusplus", "efficientnet-b0"), ("manet", "tu-resnet18")),
    *(("manet", "tu-vit_tiny_patch16_224"), ("linknet", "timm-tf_efficientnet_lite0")),
    *(("linknet", "mit_b0"), ("fpn", "tu-convnext_atto"), ("fpn", "tu-tf_efficientnet_lite0")),
    *(("pspnet", "densenet121"), ("pspnet", "tu-swin_tiny_patch4_window7_224")),
    *(("pspnet", "mobileone_s0"), ("pspnet", "tu-maxvit_rmlp_pico_rw_256")),
    *(("deeplabv3", "timm-skresnet18"), ("deeplabv3", "tu-vit_small_patch14_dinov2")),
    *(("deeplabv3", "tu-efficientvit_b0"), ("deeplabv3plus", "xception")),
    *(("deeplabv3plus", "resnet18"), ("pan", "vgg11_bn"), ("pan", "tu-hrnet_w18_small")),
    *(("pan", "mobilenet_v2"), ("upernet", "tu-mobilenetv4_conv_small")),
    *(("segformer", "mobilenet_v2"), ("dpt", "resnet18"), ("dpt", "tu-efficientvit_b0")),
]


def test_each_architecture_trains_and_each_encoder_is_met():
    training = {a for a, e in TENTH if COMBINATIONS[a][e]["outcome"] == "works"}
    assert training == COMBINATIONS.keys()
    assert {encoder for _, encoder in TENTH} == COMBINATIONS["unet"].keys()


@pytest.mark.filterwarnings("ignore")  # of smp, on names of its own that it wants to drop
@pytest.mark.parametrize("arch, encoder", TENTH, ids=map("-".join, TENTH))
def test_a_combination_trains_or_is_refused_before(
    arch: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from matrix import SIZES, try_combination, write_pairs

    data = write_pairs(tmp_path / "data")
    found = try_combination(arch, encoder, data, tmp_path / "run", SIZES[:3])
    assert found["outcome"] == COMBINATIONS[arch][encoder]["outcome"], found
