"""segtrain fit with train.track: the tracker gets what the run's folder has, and ends no run."""

from __future__ import annotations

import csv
import importlib.util
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QUICK
from same_run import assert_same_run
from stand_in_trackers import Tracked, install_stand_ins

from segtrain.runs import trackers

WANDB, MLFLOW = ["--set", "train.track=wandb"], ["--set", "train.track=mlflow"]
FIT = ["fit", "--data", "set", *QUICK, "--epochs", "2", "--set", "train.log_every=1"]
FIT += ["--set", "data.val_fraction=0.5"]


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch) -> Tracked:
    return install_stand_ins(tmp_path, monkeypatch)


def read_rows(run: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.csv, without empty cells."""
    with open(run / "metrics.csv") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_scalars_config_and_worst_images(cli, pairs: Path, tracked: Tracked):
    fitted = cli(*FIT, *WANDB, "--name", "r", "--set", "train.track_images=2")
    assert fitted.code == 0, fitted.stderr
    assert "wandb: offline" in fitted.stdout and "note: wandb" not in fitted.stdout
    run = Path("runs/r")
    logged = [(given["step"], args[0]) for args, given in tracked.calls("log")]
    rows = read_rows(run)
    assert [values for _, values in logged if "val_miou" in values] == rows
    assert [step for step, values in logged if "val_miou" in values] == [2, 4]
    steps = {step: values["step_loss"] for step, values in logged if "step_loss" in values}
    assert [*steps] == [1, 2, 3, 4]
    assert (steps[3] + steps[4]) / 2 == pytest.approx(rows[1]["train_loss"])
    ((config,), _) = tracked.calls("config")[0]
    assert config == yaml.safe_load((run / "config.yaml").read_text())
    # the last validation scored the weights that eval does
    scored = cli("eval", run, "--device", "cpu", "--set", "data.workers=0")
    assert scored.code == 0, scored.stderr
    with open(run / "eval/val/per_image.csv") as file:
        mious = {Path(row["image"]).stem: float(row["miou"]) for row in csv.DictReader(file)}
    worst = sorted(mious, key=lambda name: mious[name])[:2]
    shown = [(step, values["worst"]) for step, values in logged if "worst" in values]
    step, pictures = shown[-1]
    assert step == 4 and len(mious) == 3
    assert [p["caption"] for p in pictures] == [f"{n}: mIoU {mious[n]:.3f}" for n in worst]


def test_the_weights_are_those_without_a_tracker(cli, pairs: Path, tracked: Tracked):
    fits = {"plain": [], "tracked": WANDB, "resumed": WANDB}
    for name, more in fits.items():
        epochs = ["--epochs", "1"] if name == "resumed" else []
        fitted = cli(*FIT, *more, *epochs, "--name", name, "--set", "optim.schedule=constant")
        assert fitted.code == 0, fitted.stderr
    resumed = cli("fit", "--resume", "resumed", "--epochs", "2")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(Path("runs/plain"), Path("runs/tracked"))
    assert_same_run(Path("runs/plain"), Path("runs/resumed"))
    assert [given["id"] for _, given in tracked.calls("init")][1:] == [None, "new-id"]
    # a tracker may come and go
    for change in ("train.track=mlflow", "train.track=none", "train.track_checkpoint=true"):
        changed = cli("fit", "--resume", "plain", "--epochs", "3", "--set", change)
        assert changed.code == 0, changed.stderr
    assert tracked.calls("log_metrics")


@pytest.mark.parametrize("fault", ["raise init", "raise log", "die log", "hang finish"])
def test_a_fault_of_a_tracker_ends_no_run(
    cli, pairs: Path, tracked: Tracked, fault: str, monkeypatch
):
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setattr(trackers, "WAIT_SECONDS", 3.0)
    fitted = cli(*FIT, *WANDB, "--name", "r")
    assert fitted.code == 0 and fitted.stdout.count("note: wandb: ") == 1
    assert len(read_rows(Path("runs/r"))) == 2
    texts = [file.read_bytes() for file in Path("runs/r").rglob("*") if file.is_file()]
    assert b"secret" not in b"".join(texts) and "secret" not in fitted.stdout + fitted.stderr


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_without_a_login_nothing_is_written(
    cli, pairs: Path, tracked: Tracked, dry: list[str], monkeypatch
):
    monkeypatch.setenv("FAULT", "raise login")
    refused = cli(*FIT, *WANDB, *dry)
    assert refused.code == 2 and "train.track: wandb: no way to" in refused.error
    assert not Path("runs").exists() and "data:" not in refused.stdout


def test_without_its_package_nothing_is_written(cli, pairs: Path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(trackers, "find_spec", lambda n: found(n) if n != "mlflow" else None)
    for verb in (FIT, [*FIT, "--dry-run"], ["sweep", "--data", "set", "--loss", "ce"]):
        refused = cli(*verb, *MLFLOW)
        assert refused.code == 2 and "pip install 'segtrain-cli[mlflow]'" in refused.error
        assert not Path("runs").exists()


def test_a_wrong_tracker_is_named(cli, pairs: Path):
    refused = cli(*FIT, "--set", "train.track=wandbb")
    assert refused.code == 2 and "wandb" in refused.error and "mlflow" in refused.error


@pytest.fixture
def real(tmp_path: Path, monkeypatch) -> Path:
    """A home without logins."""
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path


def read_wandb(file: Path) -> Iterator[Any]:
    """Yield the records of an offline run: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:  # no header fits into the rest of a block
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def test_wandb_itself_offline(cli, pairs: Path, real: Path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    refused = cli(*FIT, *WANDB)
    assert refused.code == 2 and "API key" in refused.error
    monkeypatch.setenv("WANDB_MODE", "offline")
    fitted = cli(*FIT, *WANDB, "--name", "r", "--set", "train.track_checkpoint=true")
    assert fitted.code == 0 and "note: wandb" not in fitted.stdout, fitted.stdout
    run = Path("runs/r")
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert f"'wandb sync {file.parent.absolute()}'" in fitted.stdout
    history: dict[int, dict[str, Any]] = {}
    artifacts = []
    for record in read_wandb(file):
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            history.setdefault(record.history.step.num, {})[name] = yaml.safe_load(item.value_json)
        artifacts += [entry.path for entry in record.artifact.manifest.contents]
    rows = read_rows(run)
    for row in rows:
        values = history[int(row["step"])]
        assert {name: float(values[name]) for name in row} == row
    assert history[3].keys() >= {"step_loss", "step_lr"} and artifacts == ["best.safetensors"]
    assert list(file.parent.glob("files/media/images/worst_4_*.png"))


def test_mlflow_itself_in_a_file(cli, pairs: Path, real: Path):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason=f"needs {package}")
    for epochs in (2, 3):
        where = ["--resume", "r"] if epochs == 3 else [*FIT[1:], *MLFLOW, "--name", "r"]
        keep = ["--set", "train.track_checkpoint=true", "--epochs", epochs]
        fitted = cli("fit", *where, *keep)
        assert fitted.code == 0 and "note: mlflow" not in fitted.stdout, fitted.stdout
    with sqlite3.connect("mlflow.db") as store:
        ((name, status),) = store.execute("select name, status from runs").fetchall()
        assert (name, status) == ("r", "FINISHED")
        logged = {
            (k, step): v for k, step, v in store.execute("select key, step, value from metrics")
        }
        params = dict(store.execute("select key, value from params"))
    for row in read_rows(Path("runs/r")):
        step = int(row["step"])
        assert {name: logged[name, step] for name in row} == pytest.approx(row)
    assert params["loss.expression"] == "ohem" and ("step_loss", 5) in logged
    (artifacts,) = Path("mlruns").glob("*/*/artifacts")
    assert (artifacts / "checkpoints/best.safetensors").is_file()
    assert list(artifacts.glob("images/worst_1*step*6*.png"))


def test_two_ranks_track_as_one(zygote, pairs: Path, tmp_path: Path, tracked: Tracked):
    """Each scores its own share of the images; the first knows the worst of all."""
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'stand-ins')!r})"
    for devices in (1, 2):
        tracked.file.unlink(missing_ok=True)
        fit = [*FIT, *WANDB, "--devices", devices, "--name", devices]
        env = {"TRACKED": str(tracked.file)}
        child = zygote.run(*fit, cwd=tmp_path, devices=devices, env=env, code=path)
        assert child.code == 0, child.stderr
        shown = [args[0]["worst"] for args, _ in tracked.calls("log") if "worst" in args[0]][-1]
        named = [picture["caption"].partition(":")[0] for picture in shown]
        assert len(tracked.calls("init")) == 1
        if devices == 1:
            expected = named
    assert named == expected and len(named) == 3
