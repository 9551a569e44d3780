"""Tuning of logits: it commutes with all that follows, and lives beside the weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import segtrain
from segtrain.errors import SegtrainError
from segtrain.models.checkpoint import KEY, Meta, format_meta, load_model, read_meta, save_tuning
from segtrain.models.inference import defer_upsampling, predict_bands
from segtrain.models.stored_weights import hash_stored_weights
from segtrain.models.tuning import MeasuredChoice, Tuning
from segtrain.models.upsampling import UpsampledLogits

CHOICE = MeasuredChoice("biases", 0.5, 0.625, 0.125, [0.1, 0.15])
TUNING = Tuning([0.0, -0.5, 2.0], 1.5, "val", "abc", [CHOICE])


@pytest.fixture
def best(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "checkpoints/best.safetensors", tmp_path))


def store(path: Path, tuning: Tuning | None) -> Meta:
    meta = replace(read_meta(path), tuning=tuning)
    save_tuning(path, meta, hash_stored_weights(path)[0])
    return meta


def test_the_map_is_that_of_the_formula_and_can_be_undone():
    logits = torch.randn(2, 3, 5, 7)
    tuned = TUNING.apply(logits)
    assert torch.equal(tuned[:, 2], (logits[:, 2] + 2) / 1.5)
    assert torch.allclose(TUNING.undo(tuned), logits, atol=1e-6)
    assert TUNING.apply(logits.bfloat16()).dtype == torch.float32
    assert TUNING.describe() == "biases [0.0, -0.5, 2.0], temperature 1.5"
    assert Tuning([0.0, 0.0], 2.0).describe() == "temperature 2.0"


def test_it_commutes_with_bilinear_upsampling():
    low = torch.randn(1, 3, 5, 7)
    one, other = (
        F.interpolate(maps, scale_factor=4, mode="bilinear") for maps in (low, TUNING.apply(low))
    )
    assert torch.allclose(TUNING.apply(one), other, atol=1e-5)


@pytest.mark.parametrize("by_rows", [False, True])
def test_a_checkpoints_model_is_tuned_in_windows_too(best: Path, by_rows: bool):
    store(best, TUNING)
    tuned, meta = load_model(best)
    plain, without = load_model(best, tuned=False)
    assert (meta.tuning, without.tuning) == (TUNING, None)
    settings = meta.config.eval.model_copy(update={"max_pixels": 1000, "window": (32, 32)})
    image = torch.randint(0, 256, (1, 3, 48, 40), dtype=torch.uint8)
    models = [defer_upsampling(m) if by_rows else m for m in (tuned, plain)]
    with torch.inference_mode():
        for config in (settings, meta.config.eval):
            pairs = (predict_bands(model, image, config) for model in models)
            for (top, one), (same, other) in zip(*pairs, strict=True):
                assert top == same
                assert torch.allclose(one, TUNING.apply(other), atol=1e-4)


def test_tuned_logits_can_still_be_upsampled_by_rows(best: Path, monkeypatch):
    model, _ = load_model(best)
    low = torch.randn(1, 5, 8, 8).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(model, "low_resolution", lambda images: low)
    model.tuning, model.by_rows, model.upsampling = Tuning([0.0] * 5, 2.0), True, 2
    assert isinstance(model(torch.zeros(1, 3, 16, 16)), UpsampledLogits)


def test_it_is_stored_beside_the_weights_and_dropped_again(best: Path):
    before, digest = best.read_bytes(), hash_stored_weights(best)[0]
    meta = store(best, TUNING)
    assert read_meta(best) == meta and meta.tuning == TUNING
    assert hash_stored_weights(best)[0] == digest
    model, _ = segtrain.load(best)
    assert torch.equal(model.state_dict()["mean"], load_file(best)["mean"])
    store(best, None)
    with safe_open(best, "pt") as file:
        assert "tuning" not in json.loads(file.metadata()[KEY])  # older versions read it
    assert len(best.read_bytes()) == len(before) and hash_stored_weights(best)[0] == digest


def test_other_weights_are_not_tuned(best: Path):
    before = best.read_bytes()
    with pytest.raises(SegtrainError, match="a training has replaced it meanwhile"):
        save_tuning(best, replace(read_meta(best), tuning=TUNING), "another hash")
    assert best.read_bytes() == before


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"biases": [0.0, 1.0]}, "tuning has other classes"),
        ({"biases": [0.0] * 3, "temperature": 0}, "tuning.temperature: input should be greater"),
        ({"biases": [0.0, float("inf"), 0]}, "tuning.biases.1: input should be a finite number"),
        ({"biases": [0.0] * 3, "code": 1}, "tuning.code: unexpected keyword"),
    ],
)
def test_a_damaged_tuning_is_refused(best: Path, fields: dict, problem: str):
    text = json.loads(format_meta(read_meta(best))) | {"tuning": fields}
    save_file(load_file(best), best, {KEY: json.dumps(text)})
    with pytest.raises(SegtrainError, match=problem):
        load_model(best)
