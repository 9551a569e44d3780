"""Weights files of other programs: read by whatever names, held to their source's own features."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError
from segtrain.models.pretrained import load_file_weights
from segtrain.models.segmentation import SegmentationModel, build_model
from segtrain.models.weight_files import read_tensors

TINY = "test_efficientnet"


def make_source(name: str, library: Any = timm) -> nn.Module:
    """Return a network of timm or torchvision whose norms have statistics of their own."""
    torch.manual_seed(3)
    make = timm.create_model if library is timm else getattr(torchvision.models, name)
    network = make(name) if library is timm else make()
    for key, buffer in network.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return network.eval()


def write(path: Path, content: Any) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def load(path: Path, encoder: str, arch: str = "unet", **config: Any) -> tuple[Any, str]:
    settings = ModelConfig(arch=arch, encoder=encoder, weights=str(path), **config)
    torch.manual_seed(9)
    model = build_model(settings, 3).eval()
    return model, str(load_file_weights(model, settings, path))


def last_features(model: SegmentationModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        features = model.network.encoder(images)
    return (features[0] if isinstance(features, tuple) else features)[-1]


def same_features(found: Tensor, expected: Tensor) -> bool:
    assert expected.abs().max() > 1e-6  # else all are the same
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() < 1e-5 * expected.abs().max()
    )


IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def last_of_timm(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return network.forward_intermediates(images, intermediates_only=True)[-1]


@pytest.mark.parametrize(
    "name", "test_resnet test_efficientnet test_convnext test_byobnet edgenext_xx_small".split()
)
def test_a_file_of_timm_has_timms_features(tmp_path: Path, name: str):
    source = make_source(name)
    model, line = load(write(tmp_path / "w.safetensors", source.state_dict()), f"tu-{name}")
    found = last_features(model, IMAGES)
    assert same_features(found, last_of_timm(source))
    assert f"mean and std: timm's for {name}" in line


def test_a_vit_of_timm_under_dpt(tmp_path: Path):
    source = make_source("test_vit")
    path = write(tmp_path / "w.pth", source.state_dict())
    model, _ = load(path, "tu-test_vit", "dpt")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = source.forward_intermediates(images, intermediates_only=True)[-1]
    assert same_features(last_features(model, images), expected)


TORCHVISION: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "resnet18": ("tu-resnet18", lambda net: nn.Sequential(*list(net.children())[:-2])),
    "resnet18 of smp": ("resnet18", lambda net: nn.Sequential(*list(net.children())[:-2])),
    "convnext_tiny": ("tu-convnext_tiny", lambda net: net.features),
    "efficientnet_b0": ("tu-efficientnet_b0", lambda net: net.features[:-1]),
    "mobilenet_v2": ("tu-mobilenetv2_100", lambda net: net.features[:-1]),
    # its batch norms have another eps, and its filters of one pixel are a matrix
    "mobilenet_v3_small": ("tu-mobilenetv3_small_100", lambda net: net.features),
    "mobilenet_v2 of smp": ("mobilenet_v2", lambda net: net.features),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_file_of_torchvision_has_torchvisions_features(tmp_path: Path, name: str):
    encoder, cut = TORCHVISION[name]
    source = make_source(name.split()[0], torchvision)
    model, _ = load(write(tmp_path / "w.pth", source.state_dict()), encoder)
    with torch.no_grad():
        assert same_features(last_features(model, IMAGES), cut(source)(IMAGES))


def test_efficientnets_of_tensorflow_and_torchvision_are_not_taken_for_each_other(tmp_path: Path):
    """Their shapes are the same, but TensorFlow pads otherwise."""
    path = write(tmp_path / "tv.pth", make_source("efficientnet_b0", torchvision).state_dict())
    with pytest.raises(SegtrainError, match="tu-efficientnet_b0"):
        load(path, "tu-tf_efficientnet_b0")
    source = smp.encoders.get_encoder("efficientnet-b0", weights=None).eval()  # of TensorFlow
    path = write(tmp_path / "tf.pth", source.state_dict())
    with pytest.raises(SegtrainError, match="tu-tf_efficientnet_b0"):
        load(path, "tu-efficientnet_b0")


def test_densenets_of_torchvision_come_under_their_old_names(tmp_path: Path):
    """As its files on the web have them: norm.1 instead of norm1."""
    source = make_source("densenet121", torchvision)
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): tensor
        for key, tensor in source.state_dict().items()
    }  # fmt: skip
    path = write(tmp_path / "w.pth", old)
    new = write(tmp_path / "n.pth", source.state_dict())
    for encoder in ("densenet121", "tu-densenet121"):
        model, line = load(path, encoder)
        plain, _ = load(new, encoder)
        assert same_features(last_features(model, IMAGES), last_features(plain, IMAGES)), encoder
        assert "classifier.weight" in line


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return make_source(TINY)


@pytest.fixture(scope="module")
def weights(source: nn.Module) -> dict[str, Tensor]:
    return dict(source.state_dict())


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def timm_features(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of timm's features_only, which has no classifier."""
    network = timm.create_model(TINY, features_only=True)
    network.load_state_dict({k: weights[k] for k in network.state_dict() if k in weights})
    return network.state_dict()


WRAPPED: dict[str, Callable[[dict[str, Tensor]], dict]] = {
    "model": lambda w: {"model": w, "epoch": 1},
    "state_dict": lambda w: {"state_dict": w, "optimizer": {"state": {0: {"m": torch.zeros(3)}}}},
    "one of any name": lambda w: {"weights": w, "epoch": 1},
    "module.": lambda w: {"state_dict": prefixed(w, "module.")},
    "compiled": lambda w: prefixed(w, "_orig_mod."),
    "model.": lambda w: prefixed(w, "model."),
    "Lightning": lambda w: {"state_dict": prefixed(w, "model.") | {"loss.weight": torch.ones(3)}},
    "Lightning's encoder": lambda w: {"state_dict": prefixed(w, "model.encoder.")},
    "half precision": lambda w: {k: t.half() if t.is_floating_point() else t for k, t in w.items()},
    "no counters": lambda w: {k: t for k, t in w.items() if not k.endswith("batches_tracked")},
    "no classifier": lambda w: {k: t for k, t in w.items() if not k.startswith("classifier")},
    "another classifier": lambda w: w | {
        "classifier.weight": torch.zeros(7, w["classifier.weight"].shape[1]),
        "classifier.bias": torch.zeros(7),
    },
    "other names": lambda w: {f"layer{n}": tensor for n, tensor in enumerate(w.values())},
    "settings": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=1.0)},
    "two wrappers": lambda w: {"model": {"state_dict": w}, "epoch": 1},
    "few other tensors": lambda w: w | {"ema_optimizer": {"decay": torch.ones(1)}},
    "features_only": lambda w: timm_features(w),
}  # fmt: skip


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_what_a_file_wraps_around_its_tensors(tmp_path, source, weights, wrapped: str):
    path = write(tmp_path / "w.pth", WRAPPED[wrapped](weights))
    model, _ = load(path, f"tu-{TINY}")
    expected, found = last_of_timm(source), last_features(model, IMAGES)
    near = 2e-2 if wrapped == "half precision" else 1e-5
    assert (found - expected).abs().max() < near * expected.abs().max()


AVERAGED: dict[str, Callable[[dict, dict], dict]] = {
    "state_dict_ema": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema},
    "modelEMA": lambda raw, ema: {"model": raw, "modelEMA": ema},
    "ema": lambda raw, ema: {"model": raw, "ema": {"module": ema, "decay": torch.ones(1)}},
    "model_ema": lambda raw, ema: prefixed(raw, "model.") | prefixed(ema, "model_ema.module."),
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_averaged_weights_go_before_others(tmp_path: Path, weights, kind: str):
    zeros = {key: torch.zeros_like(tensor) for key, tensor in weights.items()}
    path = write(tmp_path / "w.pth", AVERAGED[kind](zeros, weights))
    model, line = load(path, f"tu-{TINY}")
    assert f"its {kind}" in line
    assert torch.equal(model.network.encoder.state_dict()["model.conv_stem.weight"],
                       weights["conv_stem.weight"])  # fmt: skip


def test_a_hubs_folder_and_its_statistics(tmp_path: Path, weights):
    save_file(weights, tmp_path / "model.safetensors")
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.2], "num_classes": 1000}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": TINY, "pretrained_cfg": settings})
    )
    for path in (tmp_path, tmp_path / "model.safetensors"):
        model, line = load(path, f"tu-{TINY}")
        assert "mean and std: its config.json" in line
        assert model.mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5])
        assert model.std.flatten().tolist() == pytest.approx([127.5, 102, 51])
        assert "made with" not in line
    (tmp_path / "config.json").write_text('{"architecture": "test_efficientnet_tf"}')
    assert "made with encoder tu-test_efficientnet_tf" in load(tmp_path, f"tu-{TINY}")[1]


WRONG_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "std of 0": ({"mean": [0.5] * 3, "std": [0.0, 0.5, 0.5]}, "std"),
    "of 0..255": ({"mean": [123.7, 116.3, 103.5], "std": [0.2] * 3}, "mean"),
    "NaN": ({"mean": [float("nan"), 0.5, 0.5], "std": [0.2] * 3}, "mean"),
    "words": ({"mean": ["0.5"] * 3, "std": [0.2] * 3}, "mean"),
    "a number": ({"mean": 0.5, "std": [0.2] * 3}, "mean"),
    "BGR": ({"input_space": "BGR"}, "BGR"),
}


@pytest.mark.parametrize("kind", WRONG_CONFIGS)
def test_a_hubs_config_with_statistics_that_cannot_be(tmp_path: Path, weights, kind: str):
    save_file(weights, tmp_path / "model.safetensors")
    settings, word = WRONG_CONFIGS[kind]
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": settings}))
    with pytest.raises(SegtrainError, match=f"config.json: .*{word}"):
        load(tmp_path, f"tu-{TINY}")


@pytest.mark.parametrize("kind", ["int8", "complex64", "float64", "sparse"])
def test_tensors_that_no_network_takes(tmp_path: Path, kind: str):
    weights = torchvision.models.resnet18().state_dict()
    first = weights["conv1.weight"]
    weights["conv1.weight"] = {
        "int8": first.to(torch.int8),
        "complex64": first.to(torch.complex64),
        "float64": first.double() + 1e300,
        "sparse": first.to_sparse(),
    }[kind]
    path = write(tmp_path / "w.pth", weights)
    for encoder in ("resnet18", "tu-resnet18"):
        with pytest.raises(SegtrainError, match="w.pth"):
            load(path, encoder)


def test_what_shapes_do_not_tell_is_said(tmp_path: Path):
    """Padding, activations and interpolation have no tensors, but files may name them."""
    network = smp.Unet(f"tu-{TINY}", encoder_weights=None, decoder_interpolation="bilinear")
    network.save_pretrained(tmp_path / "saved")
    _, line = load(tmp_path / "saved", f"tu-{TINY}")
    assert "made with decoder_interpolation bilinear" in line
    _, line = load(tmp_path / "saved", f"tu-{TINY}", options={"decoder_interpolation": "bilinear"})
    assert "made with" not in line


@pytest.mark.parametrize(
    "content", [{"encoder_name": 3}, {"model_args": ["a"]}, {"architecture": 1}]
)
def test_a_config_of_other_types_says_nothing(tmp_path: Path, weights, content: dict):
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert "made with" not in load(tmp_path, f"tu-{TINY}")[1]


def test_smps_encoder_of_a_name_has_timms_weights(tmp_path: Path):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert "made with" not in load(tmp_path, "resnet18")[1]


def test_resampled_tensors_are_named(tmp_path: Path):
    weights = timm.create_model("test_vit", patch_size=8).state_dict()
    _, line = load(write(tmp_path / "w.pth", weights), "tu-test_vit", "dpt")
    assert re.search("patch_embed.proj.weight.* resampled", line)


def test_a_file_is_known_by_its_content(tmp_path: Path, weights):
    save_file(weights, tmp_path / "weights.bin")
    assert "80 of 80" in load(tmp_path / "weights.bin", f"tu-{TINY}")[1]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(SegtrainError, match="JSON"):
        load(tmp_path / "model.safetensors.index.json", f"tu-{TINY}")


def test_the_configs_own_statistics_win(tmp_path: Path, weights, trained: Path):
    path = write(tmp_path / "w.pth", weights)
    model, line = load(path, f"tu-{TINY}", mean=[1, 2, 3])
    assert model.mean.flatten().tolist() == [1, 2, 3]
    half = timm.get_pretrained_cfg(TINY)
    assert model.std.flatten().tolist() == pytest.approx([255 * value for value in half.std])
    assert f"; std: timm's for {TINY}" in line


@pytest.mark.parametrize(
    "encoder, mean", [("inceptionv4", 127.5), ("resnet18", 123.675), ("dpn68", 124)]
)
def test_statistics_of_smps_encoders(tmp_path: Path, encoder: str, mean: float):
    weights = smp.encoders.get_encoder(encoder, weights=None).state_dict()
    model, line = load(write(tmp_path / "w.pth", weights), encoder)
    assert model.mean.flatten().tolist()[0] == pytest.approx(mean)
    assert f"mean and std: smp's for {encoder}" in line


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("encoder", [f"tu-{TINY}", "resnet18"])
def test_other_numbers_of_channels_adapt_as_the_hubs_do(tmp_path, encoder: str, channels: int):
    """A grey image gives an encoder's features of RGB with three equal channels."""
    torch.manual_seed(3)
    donor = smp.encoders.get_encoder(encoder, weights=None).eval()
    path = write(tmp_path / "w.pth", donor.state_dict())
    model, _ = load(path, encoder, in_channels=channels)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = donor(grey.expand(1, 3, 64, 64))[-1]
    assert same_features(last_features(model, grey.expand(1, channels, 64, 64)), expected)


@pytest.mark.parametrize("encoder", ["tu-resnet18", "resnet18"])
def test_weights_of_more_channels_than_rgb(tmp_path: Path, encoder: str):
    """As those of satellites have them: they fit images of as many channels alone."""
    weights = torchvision.models.resnet18().state_dict()
    weights["conv1.weight"] = torch.randn(64, 13, 7, 7)
    path = write(tmp_path / "w.pth", weights)
    model, _ = load(path, encoder, in_channels=13)
    found = model.network.encoder.state_dict()
    prefix = "model." if encoder.startswith("tu-") else ""
    assert torch.equal(found[f"{prefix}conv1.weight"], weights["conv1.weight"])
    for channels in (3, 4):
        with pytest.raises(SegtrainError, match="1 of another shape or type .conv1"):
            load(path, encoder, in_channels=channels)


def test_a_whole_network_of_smp(tmp_path: Path):
    torch.manual_seed(3)
    network = smp.Unet(f"tu-{TINY}", encoder_weights=None, classes=3).eval()
    network.save_pretrained(tmp_path / "saved")
    paths = [
        tmp_path / "saved",
        write(tmp_path / "w.pth", network.state_dict()),
        write(tmp_path / "w.ckpt", {"state_dict": prefixed(network.state_dict(), "model.")}),
    ]
    for path in paths:
        model, line = load(path, f"tu-{TINY}")
        assert "head included" in line
        with torch.no_grad():
            model.mean.zero_()
            model.std.fill_(1)
            assert same_features(model(IMAGES), network(IMAGES))
    with pytest.raises(SegtrainError, match="decoder.*--arch"):
        load(paths[1], f"tu-{TINY}", "fpn")


def test_a_deeper_encoders_file_is_refused_by_name(tmp_path: Path):
    """Its tensors hold all that the encoder has, so only what is left over tells."""
    path = write(tmp_path / "w.pth", torchvision.models.resnet34().state_dict())
    for encoder in ("tu-resnet18", "resnet18"):
        with pytest.raises(SegtrainError, match="w.pth: .*unknown.* tu-resnet34"):
            load(path, encoder)
    with pytest.raises(SegtrainError, match="another shape.* tu-resnet34"):
        load(path, "tu-resnet50")
    with pytest.raises(SegtrainError, match="another shape"):
        load(path, f"tu-{TINY}")


def test_two_weights_in_a_file_are_refused(tmp_path: Path, weights):
    parts = {"student": weights, "teacher": weights}
    with pytest.raises(SegtrainError, match="student, teacher"):
        load(write(tmp_path / "parts.pth", parts), f"tu-{TINY}")
    encoder = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    both = prefixed(encoder, "encoder_q.") | prefixed(encoder, "encoder_k.")
    with pytest.raises(SegtrainError, match="'encoder_k.' and 'encoder_q.'"):
        load(write(tmp_path / "both.pth", both), "resnet18")


class Recorder(dict):
    """A class of a training's own, with items, attributes and code."""

    def __setstate__(self, _: Any) -> None:
        raise AssertionError("code of a file was run")


def test_objects_of_other_classes_are_passed_over(tmp_path: Path, weights, monkeypatch):
    module = ModuleType("of_a_training")
    module.Recorder = Recorder
    monkeypatch.setattr(Recorder, "__module__", "of_a_training")
    monkeypatch.setitem(sys.modules, "of_a_training", module)
    recorder = Recorder(a=1)
    recorder.lr = 0.1
    content = {
        "state_dict": weights,
        "meta": recorder,
        "best": np.float64(0.5),
        "curve": np.ones(3),
    }
    path = write(tmp_path / "w.pth", content)
    monkeypatch.delitem(sys.modules, "of_a_training")
    read = read_tensors(path)
    assert read.tensors.keys() == weights.keys()


def test_a_pickled_network_is_refused_in_a_line(tmp_path: Path, source):
    for content in (source, {"model": source, "epoch": 1}):
        with pytest.raises(SegtrainError, match=r"pickled timm\..*state_dict") as raised:
            load(write(tmp_path / "w.pth", content), f"tu-{TINY}")
        assert "weights_only" not in str(raised.value) and "\n" not in str(raised.value)
