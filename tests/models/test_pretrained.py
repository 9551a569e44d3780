"""Pretrained weights: from a checkpoint, an encoder's file, or the hub."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import QUICK, RESNET18
from safetensors.torch import load_file, save_file

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError
from segtrain.models import imagenet
from segtrain.models.checkpoint import read_meta
from segtrain.models.imagenet import load_imagenet
from segtrain.models.pretrained import load_file_weights
from segtrain.models.segmentation import SegmentationModel, build_model

HEAD = "network.segmentation_head."
SMALL = ModelConfig(options={"decoder_channels": [8] * 5})


def fresh(num_classes: int = 3, config: ModelConfig = SMALL) -> SegmentationModel:
    torch.manual_seed(9)
    return build_model(config, num_classes)


def load(model: SegmentationModel, path: Path, config: ModelConfig = SMALL) -> str:
    return str(load_file_weights(model, config, path))


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    """Return a random encoder whose norm statistics differ from the initial ones."""
    torch.manual_seed(3)
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    for name, buffer in encoder.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return encoder


def test_a_checkpoint_of_the_same_classes_is_loaded_whole(trained: Path):
    checkpoint = trained / "checkpoints/best.safetensors"
    model = fresh(3, read_meta(checkpoint).config.model)
    line = load(model, checkpoint)
    weights = load_file(checkpoint)
    assert same(state_of(model), weights)
    assert "head included" in line and str(checkpoint) in line
    assert f"{len(weights)} of {len(weights)} tensors" in line


def test_a_checkpoint_of_other_classes_keeps_all_but_its_head(trained: Path):
    checkpoint = trained / "checkpoints/best.safetensors"
    model = fresh(5, read_meta(checkpoint).config.model)
    before, weights = state_of(model), load_file(checkpoint)
    line = load(model, checkpoint)
    assert "the head starts from random weights" in line
    after = state_of(model)
    for name in after:
        source = before if name.startswith(HEAD) else weights
        assert torch.equal(after[name], source[name]), name
    assert f"{len(weights) - 2} of {len(weights)} tensors" in line


def test_fit_reports_a_head_that_starts_from_random_weights(cli, pairs: Path, trained: Path):
    checkpoint = trained / "checkpoints/best.safetensors"
    answer = cli("fit", "--data", pairs, *QUICK, "--weights", checkpoint, "--set",
                 "data.classes=[a, b, c, d]", "--name", "four")  # fmt: skip
    assert answer.code == 0, answer.stderr
    assert "the head starts from random weights" in answer.stdout
    trained_on = load_file("runs/four/checkpoints/last.safetensors")
    assert len(trained_on[f"{HEAD}0.bias"]) == 4


@pytest.mark.parametrize("arch", ["fpn", "unetplusplus"])
def test_a_checkpoint_of_another_arch_is_refused(trained: Path, arch: str):
    model = fresh(3, ModelConfig(arch=arch))
    before = state_of(model)
    with pytest.raises(SegtrainError, match="best.safetensors: its tensors don't fit.*--arch"):
        load(model, trained / "checkpoints/best.safetensors")
    assert same(state_of(model), before)


def encoder_file(path: Path, weights: dict) -> Path:
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


@pytest.mark.parametrize(
    "name, prefix, wrap",
    [
        ("encoder.pth", "", False),
        ("encoder.pth", "encoder.", False),
        ("encoder.pth", "", True),
        ("encoder.safetensors", "", False),
        ("encoder.safetensors", "encoder.", False),
    ],
)
def test_an_encoders_state_dict_is_loaded_strictly(tmp_path, encoder, name, prefix, wrap):
    weights = {prefix + key: value for key, value in state_of(encoder).items()}
    weights |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    path = encoder_file(tmp_path / name, {"state_dict": weights} if wrap else weights)
    model = fresh()
    before = state_of(model)
    line = load(model, path)
    assert same(state_of(model.network.encoder), state_of(encoder))
    assert "fc.weight" in line and "decoder and head start from random weights" in line
    changed = [k for k, v in state_of(model).items() if not torch.equal(v, before[k])]
    assert changed and all(key.startswith("network.encoder.") for key in changed)


@pytest.mark.parametrize(
    "config",
    [ModelConfig(encoder="resnet34"), ModelConfig(encoder="mobilenet_v2")],
    ids=["resnet34", "mobilenet_v2"],
)
def test_another_encoders_dict_is_refused_with_its_keys(
    tmp_path: Path, encoder, config: ModelConfig
):
    path = encoder_file(tmp_path / "encoder.pth", state_of(encoder))
    model = fresh(3, config)
    before = state_of(model)
    missing = sorted(
        key
        for key in model.network.encoder.state_dict().keys() - encoder.state_dict().keys()
        if not key.endswith("num_batches_tracked")  # old files have none
    )
    with pytest.raises(SegtrainError) as raised:
        load(model, path)
    text = str(raised.value)
    assert f"{len(missing)} missing ({missing[0]}" in text
    assert "encoder.pth" in text and "--encoder" in text
    assert same(state_of(model), before)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path, encoder):
    weights = state_of(encoder) | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    path = encoder_file(tmp_path / "encoder.pth", weights)
    with pytest.raises(SegtrainError, match=r"1 of another shape or type \(conv1.weight\)"):
        load(fresh(), path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, torch.zeros(2), {"state_dict": 3}, {1: torch.zeros(2)}], ids=str
)
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(SegtrainError, match="odd.pth: not a checkpoint"):
        load(fresh(), tmp_path / "odd.pth")


def hub_of(folder: Path, encoder: torch.nn.Module, monkeypatch, **settings) -> list[str]:
    """Replace downloads from the hub by files; return the names that are then asked for."""
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125], "input_space": "RGB",
              "input_range": [0, 1]} | settings  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state_of(encoder), folder / "model.safetensors")
    asked = []

    def download(repository: str, filename: str, revision: str | None = None, **_) -> str:
        asked.append(filename)
        assert "resnet18" in repository and revision
        return str(folder / filename)

    monkeypatch.setattr(smp.encoders, "hf_hub_download", download)
    monkeypatch.setattr("segtrain.models.imagenet.locate_imagenet", lambda _: "hub")
    return asked


@pytest.mark.parametrize(
    "settings, mean, std",
    [
        ({}, [25.5, 51, 76.5], [127.5, 63.75, 31.875]),
        ({"mean": [9, 8, 7], "std": [1, 2, 3], "input_range": [0, 255]}, [9, 8, 7], [1, 2, 3]),
    ],
)
def test_imagenets_weights_and_normalisation(tmp_path, encoder, monkeypatch, settings, mean, std):
    asked = hub_of(tmp_path, encoder, monkeypatch, **settings)
    model = fresh()
    before = state_of(model)
    load_imagenet(model, SMALL)
    assert set(asked) == {"config.json", "model.safetensors"}
    assert same(state_of(model.network.encoder), state_of(encoder))
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert model.std.flatten().tolist() == pytest.approx(std)
    rest = [key for key in before if "decoder" in key or key.startswith(HEAD)]
    assert rest and all(torch.equal(model.state_dict()[key], before[key]) for key in rest)


def test_an_encoder_of_bgr_images_is_refused(tmp_path: Path, encoder, monkeypatch):
    hub_of(tmp_path, encoder, monkeypatch, input_space="BGR")
    with pytest.raises(SegtrainError, match="resnet18 was trained on BGR images"):
        load_imagenet(fresh(), SMALL)


def test_a_hub_that_fails_halfway_is_one_line(tmp_path: Path, encoder, monkeypatch):
    hub_of(tmp_path, encoder, monkeypatch)

    def broken(*_, **__):
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", broken)
    with pytest.raises(SegtrainError, match="resnet18.*the line went dead.*--weights none"):
        load_imagenet(fresh(), SMALL)


def test_auto_is_imagenet_where_it_can_be_loaded(cli, pairs: Path, tmp_path, encoder, monkeypatch):
    hub_of(tmp_path, encoder, monkeypatch)
    monkeypatch.setattr("segtrain.training.plan.locate_imagenet", lambda _: "hub")
    answer = cli("fit", "--data", pairs, *RESNET18, "--weights", "auto", "--name", "a")
    assert answer.code == 0, answer.stderr
    assert "weights: ImageNet's, in the encoder resnet18" in answer.stdout
    mean = load_file("runs/a/checkpoints/last.safetensors")["mean"]
    assert mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5])


@pytest.mark.parametrize("status", [200, 404, None, "silent", "no address"])
def test_the_hub_is_asked_once_and_not_for_long(monkeypatch: pytest.MonkeyPatch, status):
    """Any answer counts; a refusal (None here) or a connection that stays silent does not."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            if status == "silent":
                time.sleep(1)
            self.send_response(status if isinstance(status, int) else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(
        huggingface_hub.constants, "ENDPOINT", "nonsense" if status == "no address" else address
    )
    monkeypatch.setattr(imagenet, "HUB_SECONDS", 0.3 if status == "silent" else 5.0)
    if status is None:
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    assert imagenet._hub_answers.__wrapped__() == (status in (200, 404))
    if status is not None:
        server.shutdown()
        server.server_close()
