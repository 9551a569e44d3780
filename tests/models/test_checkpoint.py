"""Checkpoints: saving and loading lose nothing, and no code of a file runs."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segtrain.config import Config
from segtrain.config.loading import make_config
from segtrain.errors import SegtrainError, UsageError
from segtrain.models.checkpoint import (
    Meta,
    is_checkpoint,
    load_model,
    load_state,
    read_checkpoint,
    save_model,
    save_state,
)
from segtrain.models.segmentation import SegmentationModel, build_model

CLASSES = ["sky", "road", "größe"]
PALETTE = [(1, 2, 3), (4, 5, 6), (255, 0, 9)]
MEAN, STD = [10.0, 20.0, 30.5], [2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    """Return a model whose norm statistics, mean and std differ from the defaults."""
    torch.manual_seed(1)
    model = build_model(small_config().model, 3)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and "running" in name:
            buffer.uniform_(0.5, 1.5)
    model.mean.copy_(torch.tensor(MEAN).view(1, 3, 1, 1))
    model.std.copy_(torch.tensor(STD).view(1, 3, 1, 1))
    return model.eval()


def small_config() -> Config:
    options = {"decoder_channels": [8] * 5}
    data = {"classes": CLASSES, "label_map": {7: 1, 9: "ignore"}}
    return make_config({"model": {"options": options}, "data": data, "loss": {"thresh": 0.6}})


def test_the_size_of_images_may_be_larger_than_any_tensor(tmp_path: Path):
    options = {"embed_dim": 12, "depths": [1] * 4, "num_heads": [1] * 4, "img_size": 1024}
    network = {"encoder": "tu-swin_tiny_patch4_window7_224", "encoder_options": options}
    config = make_config({"model": network | {"options": {"decoder_channels": [8] * 5}}})
    model = build_model(config.model, 3)
    assert max(max(t.shape, default=1) for t in model.state_dict().values()) < 1024
    meta = Meta.of(model, config, classes=CLASSES, palette=PALETTE, epoch=4, miou=0.25)
    save_model(tmp_path / "m.safetensors", model, meta)
    again, _ = load_model(tmp_path / "m.safetensors")
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.fixture
def saved(model: SegmentationModel, tmp_path: Path) -> Path:
    meta = Meta.of(model, small_config(), classes=CLASSES, palette=PALETTE, epoch=4, miou=0.25)
    save_model(tmp_path / "best.safetensors", model, meta)
    return tmp_path / "best.safetensors"


def logits(model: SegmentationModel) -> torch.Tensor:
    image = torch.arange(3 * 33 * 47).remainder(256).to(torch.uint8).view(1, 3, 33, 47)
    with torch.no_grad():
        return model(image)


def test_a_round_trip_gives_the_same_logits_and_facts(model, saved: Path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", no_network)
    loaded, meta = load_model(saved)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert meta.config == small_config()
    assert (meta.classes, meta.palette, meta.mean, meta.std) == (CLASSES, PALETTE, MEAN, STD)
    assert (meta.epoch, meta.miou) == (4, 0.25)
    assert loaded.mean.flatten().tolist() == MEAN


def test_metadata_is_json_that_anyone_can_read(saved: Path):
    with safe_open(saved, "np") as file:
        assert list(file.metadata()) == ["segtrain"]
        fields = json.loads(file.metadata()["segtrain"])
    assert set(fields) == set("config classes palette mean std epoch step miou version".split())
    assert fields["classes"] == CLASSES
    assert fields["palette"] == [list(colour) for colour in PALETTE]
    assert (fields["mean"], fields["std"]) == (MEAN, STD)
    assert fields["config"]["loss"]["thresh"] == 0.6
    assert is_checkpoint(saved)


def test_saving_twice_gives_the_same_bytes(model, saved: Path, tmp_path: Path):
    meta = Meta.of(model, small_config(), classes=CLASSES, palette=PALETTE, epoch=4, miou=0.25)
    save_model(tmp_path / "again.safetensors", model, meta)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_a_channels_last_model_is_saved(model, saved: Path, tmp_path: Path):
    expected = logits(model)
    twin, meta = load_model(saved)
    save_model(tmp_path / "last.safetensors", twin.to(memory_format=torch.channels_last), meta)
    torch.testing.assert_close(logits(load_model(tmp_path / "last.safetensors")[0]), expected)
    assert load_file(tmp_path / "last.safetensors").keys() == load_file(saved).keys()


def test_weights_that_do_not_fit_their_config_are_refused(saved: Path):
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    weights = load_file(saved)
    weights.pop("network.segmentation_head.0.weight")
    save_file(weights, saved, metadata)
    with pytest.raises(SegtrainError, match="best.safetensors: its weights don't fit its config"):
        load_model(saved)


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"config": {}}'])
def test_damaged_metadata_is_refused_in_a_line(tmp_path: Path, text: str):
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", {"segtrain": text})
    with pytest.raises(SegtrainError, match="a.safetensors"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_metadata_of_another_version_names_its_key(saved: Path):
    with safe_open(saved, "pt") as file:
        fields = json.loads(file.metadata()["segtrain"])
    fields["config"]["train"]["magic"] = 1
    save_file(load_file(saved), saved, {"segtrain": json.dumps(fields)})
    with pytest.raises(SegtrainError, match="best.safetensors: unknown key train.magic"):
        load_model(saved)


@pytest.mark.parametrize("read", [read_checkpoint, load_model])
def test_a_missing_checkpoint_is_wrong_usage(tmp_path: Path, read):
    with pytest.raises(UsageError, match="gone.safetensors: no such checkpoint"):
        read(tmp_path / "gone.safetensors")


def test_a_resume_state_comes_back(tmp_path: Path):
    state = {"model": {"w": torch.arange(3.0)}, "epoch": 2, "best": None, "rows": [{"a": 1.5}]}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded["model"].pop("w"), torch.arange(3.0))
    assert {**loaded, "model": {}} == {"model": {}, "epoch": 2, "best": None, "rows": [{"a": 1.5}]}


class Payload:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("write", [lambda state, path: torch.save(state, path),
                                   lambda state, path: path.write_bytes(pickle.dumps(state, 2))],
                         ids=["archive", "pickle"])  # fmt: skip
def test_a_hostile_state_runs_nothing(tmp_path: Path, write):
    write({"model": Payload(tmp_path / "ran")}, tmp_path / "state.pt")
    with pytest.raises(SegtrainError, match="state.pt: not a resume state"):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_a_damaged_state_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(SegtrainError, match="state.pt: not a resume state"):
        load_state(tmp_path / "state.pt")


def test_a_missing_state_is_wrong_usage(tmp_path: Path):
    with pytest.raises(UsageError, match="state.pt: no such file"):
        load_state(tmp_path / "state.pt")


def test_segtrain_load_is_the_way_in_from_python(trained: Path):
    import segtrain

    model, meta = segtrain.load(str(trained / "checkpoints/best.safetensors"))
    logits = model(torch.zeros(1, 3, 33, 47, dtype=torch.uint8))
    assert not model.training
    assert logits.shape == (1, len(meta.classes), 33, 47)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        segtrain.lod  # noqa: B018
