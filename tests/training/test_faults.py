"""Faults in mid-training: the state is saved, and the resumed run equals the uninterrupted one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, run_cli, write_pairs
from PIL import Image
from same_run import assert_same_run

# every part of the state, which a failing step could leave halfway: average, records, counts
FIT = [*QUICK, "--loss", "ghm+0.5*dice", "--epochs", "3"]
for setting in (
    "train.steps_per_epoch=3", "train.ema=0.9", "train.log_every=2", "optim.name=sgd",
    "train.checkpoint_every=100",
):  # fmt: skip
    FIT += ["--set", setting]
RESUME = "continue with: segtrain fit --resume runs/r"
STATE = Path("runs/r/checkpoints/last.state.pt")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `set` and the run runs/r of 3 x 3 steps that had no fault."""
    home = tmp_path_factory.mktemp("straight")
    write_pairs(home / "set", 4, "images/train", "masks/train")
    write_pairs(home / "set", 2, "images/val", "masks/val", first=4)
    for mask in (home / "set/masks").rglob("*.png"):  # of one size, whatever its values are
        Image.open(mask).save(mask, compress_level=0)
    done = run_cli("fit", *FIT, "--data", home / "set", "--out", home / "runs", "--name", "r")
    assert done.code == 0, done.stderr
    return home


@pytest.fixture
def fit(cli, straight: Path, tmp_path: Path) -> Callable:
    """Start the same run in a folder of its own, on a copy of the data set."""
    shutil.copytree(straight / "set", tmp_path / "set")
    return lambda: cli("fit", *FIT, "--data", "set", "--name", "r")


def at_call(patch: pytest.MonkeyPatch, target: str, call: int, action: Callable) -> None:
    """Let the n-th call of a function do something before."""
    module, _, name = target.rpartition(".")
    plain = getattr(__import__(module, fromlist=[name]), name)
    calls = iter(range(1, 1000))

    def function(*args: object, **kwargs: object) -> object:
        if next(calls) == call:
            action()
        return plain(*args, **kwargs)

    patch.setattr(target, function)


def raising(error: Exception) -> Callable:
    def fail() -> None:
        raise error

    return fail


def replace_all(pattern: str, change: Callable) -> Callable:
    return lambda: [change(file) for file in sorted(Path("set").glob(pattern))]


def spoil(path: Path) -> None:
    Image.fromarray(np.full((48, 40), 77, np.uint8)).save(path)


def change_values(path: Path) -> None:
    """Change a mask in a file of the same size, with its times of content kept."""
    status, mask = path.stat(), np.asarray(Image.open(path))
    Image.fromarray((mask + 1) % 3).save(path, compress_level=0)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def make_larger(path: Path) -> None:
    Image.open(path).resize((80, 96), Image.Resampling.NEAREST).save(path)


STEP, LOSS = "segtrain.training.loop.train_step", "segtrain.training.step.clip_gradient"
MEMORY = torch.OutOfMemoryError("CUDA out of memory")
FAULTS: dict[str, tuple] = {  # where, in which call, what happens; what is reported, and the step
    "a deleted image": (STEP, 5, replace_all("images/train/*", Path.unlink), ".png", 5),
    "a bad mask": (STEP, 4, replace_all("masks/train/*", spoil), "value 77", 4),
    "memory, between backward and update": (LOSS, 6, raising(MEMORY), "out of memory", 5),
    "a bad mask of val": (STEP, 6, replace_all("masks/val/*", spoil), "value 77", 6),
    "val's file is damaged": (
        STEP, 3, replace_all("images/val/*", lambda p: p.write_bytes(b"x")), "val/004.png", 3,
    ),
    "any other exception": (LOSS, 8, raising(ZeroDivisionError("x")), "internal error", 7),
    "changed masks": (
        "segtrain.training.loop.validate_epoch", 2, replace_all("masks/train/*", change_values),
        "4 files changed under the run: /", 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_saves_the_state_and_resuming_equals_the_straight_run(
    straight: Path, fit: Callable, fault: str, monkeypatch
):
    target, call, action, reason, step = FAULTS[fault]
    with monkeypatch.context() as patch:
        at_call(patch, target, call, action)
        failed = fit()
    assert failed.code == 1 and reason in failed.error
    assert f"stopped and saved after step {step}; {RESUME}" in failed.stdout + failed.error
    shutil.rmtree("set")
    shutil.copytree(straight / "set", "set")
    resumed = run_cli("fit", "--resume", "r")
    assert resumed.code == 0, resumed.stderr
    assert f"resumed after step {step} of 9" in resumed.stdout
    assert_same_run(straight / "runs/r", Path("runs/r"))


def test_before_the_first_step_nothing_is_saved(straight: Path, fit: Callable, monkeypatch):
    with monkeypatch.context() as patch:
        at_call(patch, LOSS, 1, raising(MEMORY))
        failed = fit()
    assert failed.code == 1
    assert "before its first step was done; start it again with: segtrain fit" in failed.error
    assert not STATE.exists()
    assert run_cli("fit", "--resume", "r").code == 0
    assert_same_run(straight / "runs/r", Path("runs/r"))


def test_a_step_that_failed_after_its_update_is_not_saved(
    straight: Path, fit: Callable, monkeypatch
):
    with monkeypatch.context() as patch:
        at_call(patch, "segtrain.training.loop.update_average", 5, raising(MEMORY))
        failed = fit()
    assert failed.code == 1 and f"the last checkpoint is intact; {RESUME}" in failed.error
    resumed = run_cli("fit", "--resume", "r")
    assert resumed.code == 0 and "resumed after step 3 of 9" in resumed.stdout
    assert_same_run(straight / "runs/r", Path("runs/r"))


def touch(path: Path) -> None:
    os.utime(path)


def link(path: Path) -> None:
    path.with_suffix(".copy").hardlink_to(path)
    path.chmod(0o600)


@pytest.mark.parametrize(
    "pattern, change, stops",
    [
        ("masks/*/*.png", touch, False),
        ("masks/*/*.png", link, False),
        ("images/*/*.png", link, False),
        ("images/*/*.png", Path.read_bytes, False),
        ("images/train/*.png", touch, True),  # their values are not known
        ("*/train/*.png", make_larger, True),
        ("masks/val/*.png", change_values, True),
    ],
)
def test_files_that_change_are_named_and_same_values_go_on(
    fit: Callable, pattern: str, change: Callable, stops: bool, monkeypatch
):
    # at the end of the first epoch: no loader sees it before the watch does
    at_call(
        monkeypatch, "segtrain.training.loop.refuse_changed_files", 1, replace_all(pattern, change)
    )
    done = fit()
    if not stops:
        assert done.code == 0, done.stderr
        assert ("another time of status" in done.stdout) == (change is link and "images" in pattern)
        return
    count = len(list(Path("set").glob(pattern)))
    assert done.code == 1 and f"{count} files changed under the run: /" in done.error
    assert done.error.endswith(RESUME) and STATE.exists()
    assert not [line for line in done.stdout.splitlines() if line.startswith("epoch ")]
