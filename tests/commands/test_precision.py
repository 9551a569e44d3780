"""Precision that auto takes on a CPU: in a run, in what is resumed, scored and predicted of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK, run_cli, write_pairs
from lightning_fabric import Fabric
from same_run import assert_same_run, rows_of

from segtrain.config.loading import load_config
from segtrain.distributed import devices
from segtrain.models.checkpoint import read_meta
from segtrain.training import loop

STATE = "checkpoints/last.state.pt"
OPTIONS = [*QUICK, "--precision", "auto", "--epochs", "2", "--set", "data.val_fraction=0.4"]
NAMES = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes auto take 32 or bf16, whatever this CPU computes in hardware."""

    def on_cpu(precision: str) -> None:
        monkeypatch.setattr(devices, "has_bf16_instructions", lambda: precision == "bf16")

    return on_cpu


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data `set` and two runs of auto that nothing stopped, by precision."""
    home = tmp_path_factory.mktemp("home")
    write_pairs(home / "set", 8)
    for precision in ("32", "bf16"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(devices, "has_bf16_instructions", lambda p=precision: p == "bf16")
            places = ["--data", home / "set", "--out", home / "runs", "--name", precision]
            done = run_cli("fit", *OPTIONS, *places)
        assert done.code == 0, done.stderr
        assert f"\nprecision: {precision} (auto)\n" in done.stdout
    return home


def interrupt(cli: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that was stopped after its third step of four."""
    plain, calls = loop.train_step, iter(range(4))

    def stop_third(session, *args):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(session, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_third)
        stopped = cli("fit", *OPTIONS, "--data", home / "set", "--name", "r")
    assert stopped.code == 143, stopped.stderr
    return Path("runs/r")


def saved_precision(run: Path) -> str:
    return torch.load(run / STATE, weights_only=True)["setting"]["precision"]


def test_a_run_stores_what_auto_took(home: Path):
    for precision in ("32", "bf16"):
        run = home / "runs" / precision
        assert saved_precision(run) == NAMES[precision]
        assert json.loads((run / "environment.json").read_text())["precision"] == precision
        assert load_config(run / "config.yaml").train.precision == "auto"
    losses = [float(rows_of(home / "runs" / p)[1]["train_loss"]) for p in ("32", "bf16")]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("began, here", [("32", "bf16"), ("bf16", "32"), ("bf16", "bf16")])
def test_a_resumed_run_keeps_its_precision(
    cli, home: Path, on_cpu, monkeypatch, began: str, here: str
):
    on_cpu(began)
    run = interrupt(cli, home, monkeypatch)
    on_cpu(here)
    resumed = cli("fit", "--resume", run)
    assert resumed.code == 0, resumed.stderr
    assert_same_run(home / "runs" / began, run)
    kept = f"train.precision was auto ({began}), now {began}: as the run so far"
    assert (kept in resumed.stdout) == (began != here)
    emulated = "precision: bf16, which this device emulates: slower than 32\n"
    assert (emulated in resumed.stdout) == ((began, here) == ("bf16", "32"))
    assert "last digits may differ" not in resumed.stdout
    # its checkpoint is scored as the run was
    own = read_meta(run / "checkpoints/last.safetensors").config.train.precision
    assert own == ("auto" if began == here else began)
    starts = json.loads((run / "environment.json").read_text())
    assert [starts["precision"], starts["resumed"][0]["precision"]] == [began, began]
    again = cli("fit", "--resume", run, "--dry-run", "--epochs", "3")
    assert again.code == 0 and "train.precision was" not in again.stdout


def test_a_resume_takes_only_the_precision_so_far(cli, home: Path, on_cpu):
    run = shutil.copytree(home / "runs/32", Path("runs/r"))
    on_cpu("bf16")
    refused = cli("fit", "--resume", run, "--precision", "bf16", "--epochs", "3")
    assert refused.code == 2 and "train.precision was auto (32), now bf16" in refused.error
    assert cli("fit", "--resume", run, "--precision", "32", "--epochs", "3").code == 0
    assert saved_precision(run) == "32-true" and len(rows_of(run)) == 3


def test_a_run_in_fp16_goes_on_without_a_gpu(cli, home: Path, on_cpu):
    run = shutil.copytree(home / "runs/32", Path("runs/r"))
    state = torch.load(run / STATE, weights_only=True)
    state["setting"]["precision"] = "16-mixed"
    torch.save(state, run / STATE)
    on_cpu("bf16")
    resumed = cli("fit", "--resume", run, "--epochs", "3")
    assert resumed.code == 0, resumed.stderr
    assert "saved with precision 16-mixed, resumed with bf16-mixed" in resumed.stdout


def test_eval_and_predict_compute_as_the_validation_did(cli, home: Path, on_cpu):
    on_cpu("bf16")
    run = shutil.copytree(home / "runs/bf16", Path("runs/r"))
    for command in (["eval", run], ["predict", home / "set/images", "--checkpoint", run]):
        done = cli(*command)
        assert done.code == 0, done.stderr
    scores = json.loads((run / "eval/val/metrics.json").read_text())
    assert scores["scored"]["precision"] == "bf16" and scores["scored"]["changes"] == []
    assert f"{scores['miou']:.6f}" == f"{max(float(r['val_miou']) for r in rows_of(run)):.6f}"
    assert '"precision": "bf16-mixed"' in Path("predictions/predictions.json").read_text()
    masks = ["--predictions", "predictions", "--data", home / "set", "--set", "data.workers=0"]
    done = cli("eval", *masks, "--set", "data.val_fraction=0.4")
    assert done.code == 0, done.stderr
    predicted = json.loads(Path("predictions/eval/val/metrics.json").read_text())
    assert [row["iou"] for row in predicted["classes"]] == [r["iou"] for r in scores["classes"]]


def test_hosts_in_several_precisions_are_refused(cli, home: Path, on_cpu, monkeypatch):
    on_cpu("32")
    plain = Fabric.broadcast

    def broadcast(fabric, found, **kwargs):
        """Return rank 0's start, as another host receives it."""
        ((start, _),) = plain(fabric, found, **kwargs)
        return [(start, "bf16")]

    monkeypatch.setattr(Fabric, "broadcast", broadcast)
    failed = cli("fit", *OPTIONS, "--data", home / "set")
    assert failed.code == 1
    assert "auto is 32 on this host and bf16 on rank 0's; give one, such as" in failed.error
