"""States to resume from that someone or something has changed: one line each, whatever it was."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import run_cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segtrain.config import Config
from segtrain.errors import SegtrainError
from segtrain.losses.build import build_loss
from segtrain.models.checkpoint import load_state, read_meta, save_state
from segtrain.models.segmentation import build_model
from segtrain.training.checkpoints import restore_training
from segtrain.training.optim import build_optimizer
from segtrain.training.resume import find_state
from segtrain.training.state import Training, TrainState

STATE = "checkpoints/last.state.pt"
JUNK = [None, -1, 10**12, 0.5, float("nan"), "x", "", [], [None], {}, {"x": None}, True,
        torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)]  # fmt: skip


@pytest.fixture(scope="module")
def config(trained: Path) -> Config:
    return read_meta(trained / "checkpoints/last.safetensors").config


@pytest.fixture(scope="module")
def saved(trained: Path) -> dict[str, Any]:
    return load_state(trained / STATE)


@pytest.fixture(scope="module")
def training(config: Config) -> Training:
    model = build_model(config.model, 3)
    loss = build_loss(config.loss.expression, 3)
    optimizer = build_optimizer(model, loss, config.optim)
    return Training(None, model, loss, optimizer, None, None, TrainState())


def restore(training: Training, saved: dict[str, Any]) -> None:
    """Restore a training, and use each part as the next step would."""
    precision = SimpleNamespace(load_state_dict=lambda state: None)
    strategy = SimpleNamespace(precision=precision)
    restore_training(SimpleNamespace(device="cpu", strategy=strategy), training, saved)
    for group in training.optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_factor"]
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()
    training.loss.report(["0", "1", "2"])
    training.state.count_step(False)


def list_places(value: Any, place: tuple = ()) -> list[tuple]:
    """Return the keys that lead to each part of a nested state."""
    if not isinstance(value, dict | list):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [p for k, v in items for p in ((*place, k), *list_places(v, (*place, k)))]


def damage(saved: dict[str, Any], place: tuple, how: str, junk: Any) -> dict[str, Any]:
    damaged = copy.copy(saved)
    part: Any = damaged
    for key in place[:-1]:
        part[key] = copy.copy(part[key])
        part = part[key]
    if how == "delete":
        del part[place[-1]]
    elif how == "add" and isinstance(part, dict):
        part[junk if isinstance(junk, str | int) else "other"] = junk
    else:
        part[place[-1]] = junk
    return damaged


def test_it_is_restored_as_it_was(training: Training, saved: dict[str, Any]):
    restore(training, saved)
    assert training.state.step == 2 and training.state.epoch == 1


@settings(max_examples=60, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(data=st.data())
def test_any_part_may_be_damaged(training, saved, tmp_path_factory, data: st.DataObject):
    parts = list_places({key: saved[key] for key in saved if key not in ("model", "config")})
    place = data.draw(st.sampled_from(parts) | st.sampled_from(list_places(saved)))
    how = data.draw(st.sampled_from(["delete", "add", "replace", "replace"]))
    damaged = damage(saved, place, how, data.draw(st.sampled_from(JUNK)))
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:  # what is tested is not the file
        (run / "checkpoints").mkdir()
        (run / STATE).touch()
        patch.setattr("segtrain.training.resume.load_state", lambda path: damaged)
        try:
            restore(training, find_state(run))
        except SegtrainError as error:
            assert "last.state.pt" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "place, value, words",
    [
        (("state", "step"), -5, "state.step"),
        (("state", "rows"), [{"epoch": 7}], "state.rows"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(3), "exp_avg"),
        (("model", "std"), torch.zeros(7), "model.std"),
        (("setting",), None, "setting"),
    ],
)
def test_a_resume_says_so_in_one_line(trained: Path, saved, tmp_path: Path, place, value, words):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    save_state(run / STATE, damage(saved, place, "replace", value))
    answer = run_cli("fit", "--resume", run, "--epochs", "2", "--data", trained.parents[1] / "set")
    assert answer.code == 1 and STATE in answer.error and words in answer.error
