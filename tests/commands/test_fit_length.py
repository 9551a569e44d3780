"""train.max_time from outside: the same run as one of that length, resumed, stopped and refused."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import QUICK, run_cli, write_pairs
from safetensors.torch import load_file
from same_run import assert_same_run, rows_of

from segtrain.errors import SegtrainError
from segtrain.training import loop, time_limit

# every part of the state that a measured step changes: counts of ghm, average, momentum, statistics
EVERY_STATE = (
    "--loss ghm+0.5*dice --epochs 4 --set train.ema=0.9 --set optim.name=sgd"
    " --set train.log_every=2 --set optim.freeze_epochs=1 --set optim.layer_decay=0.8"
    " --set optim.warmup=2 --set model.freeze_bn=false"
).split()
TIMED = "--set train.steps_per_epoch=9 --set train.max_time=10min".split()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 x 5 steps, as its config says; its data is ../../set."""
    home = tmp_path_factory.mktemp("straight")
    write_pairs(home / "set", 8)
    options = ["--data", home / "set", "--out", home / "runs", "--name", "straight"]
    length = ["--epochs", "2", "--set", "train.steps_per_epoch=5"]
    done = run_cli("fit", *options, *QUICK, *EVERY_STATE, *length)
    assert done.code == 0, done.stderr
    return home / "runs/straight"


@pytest.fixture
def timed(cli, straight: Path, monkeypatch) -> list:
    """Options of a run into whose time 2 x 5 steps fit, whatever they take here."""

    def choose(plan, costs, used):
        assert min(costs.step, costs.frozen_step, costs.validation, costs.checkpoint, used) > 0
        return replace(plan, epochs=2, steps_per_epoch=5)

    monkeypatch.setattr(time_limit, "choose_length", choose)
    monkeypatch.setattr(time_limit, "MEASURED_STEPS", 3)
    return ["--data", straight.parents[1] / "set", *QUICK, *EVERY_STATE, *TIMED]


def stop_in(monkeypatch: pytest.MonkeyPatch, module, function: str, call: int) -> None:
    """Send this process SIGTERM in the n-th call of a function."""
    plain, calls = getattr(module, function), iter(range(1, 1000))

    def signalling(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, function, signalling)


def test_it_is_the_run_of_that_length_also_resumed(cli, straight: Path, timed, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, loop, "train_step", 7)  # the encoder is trained from step 6 on
        stopped = cli("fit", *timed, "--name", "r")
    assert stopped.code == 143 and "stopped and saved after step 7" in stopped.stderr
    assert "at most 4 epochs of 9 steps" in stopped.stdout
    assert "2 epochs of 5 steps, 10 in all, fit into 10min" in stopped.stdout
    # the options again, as a launcher's restart gives them
    resumed = cli("fit", "--resume", "r", *EVERY_STATE, *TIMED)
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step 7 of 10\n" in resumed.stdout and "s a step" not in resumed.stdout
    assert_same_run(straight, Path("runs/r"))
    config = yaml.safe_load(Path("runs/r/config.yaml").read_text())["train"]
    assert (config["epochs"], config["max_time"], config["steps_per_epoch"]) == (4, "10min", 9)


@pytest.mark.parametrize("function, call", [("train_step", 2), ("validate", 1)])
def test_a_signal_while_it_is_measured_saves_the_start(
    cli, straight: Path, timed, monkeypatch, function: str, call: int
):
    with monkeypatch.context() as patch:
        stop_in(patch, time_limit, function, call)
        stopped = cli("fit", *timed, "--name", "r")
    assert stopped.code == 143 and "stopped and saved after step 0" in stopped.stderr
    resumed = cli("fit", "--resume", "r")
    assert resumed.code == 0, resumed.stderr
    assert "fit into 10min" in resumed.stdout  # measured again
    assert_same_run(straight, Path("runs/r"))


def test_more_epochs_continue_it_and_another_time_is_refused(cli, straight: Path, timed):
    assert cli("fit", *timed, "--name", "r").code == 0
    refused = cli("fit", "--resume", "r", "--set", "train.max_time=20min")
    assert refused.code == 2 and "train.max_time was 10min, now 20min" in refused.error
    ended = cli("fit", "--resume", "r")
    assert "the run is finished: 2 epochs are done already" in ended.stdout
    assert "but not 4" in ended.stdout  # which a launcher's restart gives again
    resumed = cli("fit", "--resume", "r", "--epochs", "3")
    assert resumed.code == 0, resumed.stderr
    assert [row["step"] for row in rows_of(Path("runs/r"))] == ["5", "10", "15"]


def test_a_fault_while_it_is_measured_is_one_line(cli, timed, monkeypatch):
    def fail(*args):
        raise SegtrainError("val/7.png: cannot be read")

    monkeypatch.setattr(time_limit, "validate", fail)
    failed = cli("fit", *timed, "--name", "r")
    assert failed.code == 1 and "val/7.png: cannot be read; stopped before its" in failed.error
    assert not list(Path("runs/r").glob("**/*.safetensors"))


def test_too_short_a_time_is_one_line_that_names_enough(cli, pairs: Path):
    command = ["fit", "--data", pairs, *QUICK, "--name", "r"]
    failed = cli(*command, "--set", "train.max_time=0.001s")
    assert failed.code == 1 and "train.max_time: 0.001s is too short for one step" in failed.error
    assert "give " in failed.error and not list(Path("runs/r").glob("**/*.safetensors"))
    again = cli("fit", "--resume", "r", "--set", "train.max_time=1h")  # nothing was trained yet
    assert again.code == 0 and "1 epochs of 2 steps, 2 in all, fit into 1h" in again.stdout


def test_a_dry_run_says_that_it_is_a_limit(cli, pairs: Path):
    dry = cli("fit", "--data", pairs, *QUICK, "--set", "train.max_time=25min", "--dry-run")
    assert dry.code == 0, dry.stderr
    assert "max_time: 25min" in dry.stdout and "steps per epoch: 2, in at most" in dry.stdout


def test_the_encoder_is_frozen_for_the_first_epochs(cli, pairs: Path):
    """Weights, statistics and Adam's state of the encoder begin to move with the second epoch."""
    options = "--epochs 2 --set optim.freeze_epochs=1 --set train.keep=2 --name r".split()
    fitted = cli("fit", "--data", pairs, *QUICK, *options)
    assert fitted.code == 0, fitted.stderr
    assert "optim.freeze_epochs keeps the encoder's random weights so long" in fitted.stdout
    start = cli("fit", "--data", pairs, *QUICK, "--set", "optim.encoder_lr=0", "--name", "s")
    assert start.code == 0
    files = ("r/checkpoints/step-000000002", "r/checkpoints/last", "s/checkpoints/last")
    first, last, never = (load_file(f"runs/{file}.safetensors") for file in files)
    encoder = {name for name in first if ".encoder." in name and "num_batches" not in name}
    assert {name for name in encoder if not torch.equal(first[name], never[name])} == set()
    moved = {name for name in encoder if not torch.equal(first[name], last[name])}
    assert len(moved) > 0.9 * len(encoder) and any("running_mean" in name for name in moved)
    state = torch.load("runs/r/checkpoints/last.state.pt", weights_only=True)["optimizer"]
    steps = {int(values["step"]) for values in state["state"].values()}
    assert steps == {2, 4}  # the encoder's and the decoder's


@pytest.mark.parametrize(
    "options, words",
    [
        ("optim.warmup=2", "optim.warmup: 2 steps, and the training has 2"),
        ("optim.warmup=1.5", "a share of all steps below 1, such as 0.05, or a number of steps"),
        ("optim.layer_decay=0", "expected a value greater than 0"),
        ("train.max_time=soon", "a time such as 90s, 25min or 2h"),
        ("train.batch_size=many", "a number of at least 1, or auto"),
    ],
)
def test_wrong_values_are_refused(cli, pairs: Path, options: str, words: str):
    refused = cli("fit", "--data", pairs, *QUICK, "--set", options)
    assert refused.code == 2 and words in refused.error and not Path("runs").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (
            "optim.encoder_lr=0 optim.layer_decay=0.7",
            "layer_decay have no effect",
        ),
        ("optim.freeze_epochs=1", "is not below train.epochs"),
        (
            "optim.layer_decay=0.5 optim.encoder_lr=0.8",
            "in the encoder's first layer",
        ),
    ],
)
def test_what_they_do_is_printed(cli, pairs: Path, options: str, words: str):
    sets = [word for option in options.split() for word in ("--set", option)]
    fitted = cli("fit", "--data", pairs, *QUICK, *sets)
    assert fitted.code == 0 and words in fitted.stdout
