"""Networks and sizes of images: all that training, evaluation and prediction forward is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ANY_NETWORK, write_pairs
from PIL import Image

SMALL_DPT = "{decoder_fusion_channels: 8, decoder_intermediate_channels: [8, 8, 8, 8]}"
SMALL_VIT = "{embed_dim: 32, num_heads: 2}"
SMALL_CONVNEXT = "{depths: [1, 1, 1, 1], dims: [8, 8, 8, 8]}"
NETWORKS = {
    "DINOv2": ("dpt", "tu-vit_small_patch14_dinov2", SMALL_DPT, SMALL_VIT),
    "DINOv3": ("dpt", "tu-vit_small_patch16_dinov3", SMALL_DPT, SMALL_VIT),
    "DINOv3 ConvNeXt": ("unet", "tu-convnext_tiny.dinov3_lvd1689m",
                        "{decoder_channels: [8, 8, 8, 8, 8]}", SMALL_CONVNEXT),
    "UPerNet": ("upernet", "tu-convnext_tiny.dinov3_lvd1689m", "{decoder_channels: 8}",
                SMALL_CONVNEXT),
    "PAN": ("pan", "tu-test_efficientnet", "{decoder_channels: 8}", "{}"),
    "swin": ("unet", "tu-swin_tiny_patch4_window7_224", "{decoder_channels: [8, 8, 8, 8, 8]}",
             "{embed_dim: 12, depths: [1, 1, 1, 1], num_heads: [1, 1, 1, 1]}"),
}  # fmt: skip
# its relative positions fit images of 160x160 alone
FIXED = [*ANY_NETWORK, "--arch", "dpt", "--encoder", "tu-test_vit_relpos", "--name", "fixed"]
FIXED += ["--set", f"model.options={SMALL_DPT[:-1]}, decoder_readout: ignore}}"]


def draw_image(height: int, width: int) -> Path:
    path = Path(f"{height}x{width}.png")
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_trains_is_scored_and_predicts_at_any_size(cli, pairs: Path, case: str):
    arch, encoder, options, encoder_options = NETWORKS[case]
    network = ["--arch", arch, "--encoder", encoder, "--set", f"model.options={options}"]
    network += ["--set", f"model.encoder_options={encoder_options}", "--name", "r"]
    fitted = cli("fit", "--data", pairs, *ANY_NETWORK, *network)
    assert fitted.code == 0, fitted.stderr
    assert "2 steps" in fitted.stdout
    scored = cli("eval", "r", "--workers", "0")
    assert scored.code == 0, scored.stderr
    images = [draw_image(5, 7), draw_image(70, 33)]
    predicted = cli("predict", *images, "--checkpoint", "r")
    assert predicted.code == 0, predicted.stderr
    for image in images:
        with Image.open(image) as one, Image.open(f"predictions/{image.stem}_mask.png") as mask:
            assert mask.size == one.size


@pytest.mark.parametrize(
    "options, words",
    [
        (["--crop", "192"], ["augment.crop", "192x192", "--crop 160"]),
        ([], ["eval:", "184x152 of validation", "eval.max_pixels=1 and eval.window=160"]),
        (["--set", "eval.window=160", "--set", "eval.tta=[1.25]", "--set", "eval.max_pixels=1"],
         ["eval:", "200x190 of validation", "no scale above 1 in eval.tta"]),
    ],
)  # fmt: skip
def test_sizes_that_a_network_refuses_are_refused_before_training(cli, tmp_path, options, words):
    data = write_pairs(tmp_path / "large", height=184, width=152)
    refused = cli("fit", "--data", data, *FIXED, *options)
    assert refused.code == 2 and not Path("runs").exists()
    assert not [word for word in words if word not in refused.error], refused.error


def test_windows_let_a_network_of_one_size_train_and_predict(cli, tmp_path: Path):
    data = write_pairs(tmp_path / "large", height=184, width=152)
    windows = ["--set", "eval.max_pixels=1", "--set", "eval.window=160"]
    fitted = cli("fit", "--data", data, *FIXED, *windows)
    assert fitted.code == 0, fitted.stderr
    image = draw_image(170, 400)
    assert cli("predict", image, "--checkpoint", "fixed").code == 0
    whole = ["--set", "eval.max_pixels=1000000"]
    refused = cli("predict", image, draw_image(9, 9), "--checkpoint", "fixed", *whole)
    assert refused.code == 1 and "kept 0, predicted 1" in refused.stdout
    for word in ("170x400.png", "can't take 170x400", "eval.max_pixels=1 and eval.window=160"):
        assert word in refused.stderr


def test_a_crop_below_the_least_is_padded(cli, pairs: Path):
    """PAN's decoder halves an encoder's last map three times."""
    network = ["--arch", "pan", "--encoder", "tu-test_efficientnet", "--dry-run"]
    for crop in ("1", "33x64"):
        done = cli("fit", "--data", pairs, *ANY_NETWORK, *network, "--crop", crop)
        assert done.code == 0, done.stderr


@pytest.mark.parametrize("option", ["activation: softmax", "aux_params: {classes: 2}"])
def test_an_output_that_is_no_logits_is_refused(cli, pairs: Path, option: str):
    refused = cli("fit", "--data", pairs, *ANY_NETWORK, "--set", f"model.options={{{option}}}")
    assert refused.code == 2
    assert f"{option.split(':')[0]} can't be set" in refused.error


@pytest.mark.filterwarnings("ignore:.timm-. encoders are deprecated")
def test_a_port_that_spoils_pretrained_features_is_noted(cli, pairs: Path, tmp_path: Path):
    network = ["--encoder", "timm-tf_efficientnet_lite0", "--dry-run"]
    for weights, noted in (("none", False), ("imagenet", True)):
        done = cli("fit", "--data", pairs, *ANY_NETWORK, *network, "--weights", weights)
        assert ("take --encoder tu-tf_efficientnet_lite0" in done.stdout) is noted
