"""Ranks that die or freeze, in real processes: the run ends, names them, leaves none behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from conftest import QUICK, write_pairs
from running import Running, alive, ranks, wait_for
from same_run import assert_same_run

import segtrain
from faults.zygote import Aim, Child, Zygote

FIT = ["fit", "--data", "set", *QUICK, "--batch-size", "4", "--name", "r", "--devices", "2"]
LONG = ["--epochs", "2000"]
SEGTRAIN = ["-m", "segtrain"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "set", 8, "images/train", "masks/train")
    write_pairs(tmp_path / "set", 2, "images/val", "masks/val", first=8)
    return tmp_path


def imports_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def start(zygote: Zygote, home: Path, *more: object, aims: list[Aim] = []) -> Child:
    """Start rank 0 and rank 1, which is its child."""
    return zygote.start(*FIT, *more, cwd=home, devices=2, aims=aims)


def test_a_killed_rank_is_named_and_the_checkpoint_is_whole(home: Path, zygote: Zygote):
    run = start(zygote, home, *LONG)
    run.wait_for_output("epoch 2/")
    (other,) = run.workers()
    os.kill(other, signal.SIGKILL)
    assert run.wait() == 1
    for part in (f"process 1 of 2 (PID {other})", "SIGKILL", "segtrain fit --resume runs/r"):
        assert part in run.error
    checkpoints = home / "runs/r/checkpoints"
    assert torch.load(checkpoints / "last.state.pt", weights_only=True)["state"]["rows"]
    assert segtrain.load(checkpoints / "last.safetensors")


def test_no_process_outlives_a_killed_rank_0(home: Path):
    """The other one still imports: it would wait long for a connection."""
    with Running(home, *SEGTRAIN, *FIT, *LONG) as run:
        other = wait_for(lambda: ranks(run.process.pid))[1]
        os.kill(run.process.pid, signal.SIGKILL)
        wait_for(lambda: not alive(other), 30)
    assert run.errors == []


def test_a_rank_killed_at_the_start_is_named(home: Path):
    """Rank 0 waits for it in a call that no signal and no other thread can end."""
    with Running(home, *SEGTRAIN, *FIT, *LONG) as run:
        other = wait_for(lambda: ranks(run.process.pid))[1]
        os.kill(other, signal.SIGTERM)
        assert run.wait() == 1
        (error,) = run.errors
        assert f"process 1 of 2 (PID {other}) was killed (SIGTERM)" in error


def test_a_frozen_rank_is_named(home: Path, zygote: Zygote):
    run = start(zygote, home, *LONG, "--set", "train.timeout=5s")
    run.wait_for_output("epoch 1/")
    (other,) = run.workers()
    os.kill(other, signal.SIGSTOP)
    assert run.wait() == 1
    assert f"process 1 of 2 (PID {other}) is stopped" in run.error and "within 5s" in run.error
    assert not alive(other)


@pytest.mark.parametrize("whom", ["rank 0", "all"])
def test_a_signal_ends_all_ranks_after_the_same_step(home: Path, zygote: Zygote, whom: str):
    short = ["--epochs", "3", "--set", "train.steps_per_epoch=5"]
    stop = Aim("forward", 7, signal=signal.SIGSTOP)  # within an epoch
    run = start(zygote, home, *short, aims=[stop])
    run.wait_stopped()
    (other,) = run.workers()
    for pid in [run.pid, other] if whom == "all" else [run.pid]:
        os.kill(pid, signal.SIGTERM)
    run.send(signal.SIGCONT)
    assert run.wait() == 143
    assert run.errors == []
    wait_for(lambda: not alive(other), 30)
    (line,) = [line for line in run.stderr.splitlines() if "stopped and saved" in line]
    assert line.endswith("segtrain fit --resume runs/r")
    if whom == "all":
        return
    straight = start(zygote, home, *short, "--out", "straight")
    resumed = zygote.start("fit", "--resume", "runs/r", cwd=home, devices=2)
    for child in (straight, resumed):
        assert child.wait() == 0, child.stderr
    assert_same_run(home / "straight/r", home / "runs/r")


@pytest.mark.parametrize("file", ["val/009.png", "train/003.png"])
def test_a_fault_of_one_rank_ends_all_and_the_state_is_saved(home: Path, zygote: Zygote, file: str):
    """Rank 1 scores the second image of val; either draws the one of train."""
    run = start(zygote, home, *LONG)
    run.wait_for_output("epoch 1/")
    (other,) = run.workers()
    (home / "set/images" / file).write_bytes(b"nothing")
    assert run.wait() == 1
    (error,) = run.errors
    assert file in error and error.endswith("continue with: segtrain fit --resume runs/r")
    step = int(error.partition("saved after step ")[2].partition(";")[0])
    state = torch.load(home / "runs/r/checkpoints/last.state.pt", weights_only=True)["state"]
    assert state["step"] == step >= 2
    wait_for(lambda: not alive(other), 30)


def test_no_process_outlives_torchruns_agent(home: Path):
    with Running(home, *TORCHRUN, *SEGTRAIN, *FIT, *LONG) as run:
        workers = wait_for(lambda: len(found := ranks(run.process.pid)) == 2 and found).values()
        wait_for(lambda: all(imports_torch(pid) for pid in workers))
        os.kill(run.process.pid, signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in workers), 30)


def test_torchrun_starts_a_killed_rank_again_and_nothing_is_lost(home: Path, zygote: Zygote):
    epochs = ["--epochs", "4"]
    straight = start(zygote, home, *epochs, "--out", "straight")
    assert straight.wait() == 0, straight.stderr
    with Running(home, *TORCHRUN, "--max-restarts", "1", *SEGTRAIN, *FIT, *epochs) as run:
        run.wait_for_output("epoch 1/")
        os.kill(ranks(run.process.pid)[1], signal.SIGKILL)
        assert run.wait(120) == 0, run.err.read_text()
    lines = [line for line in run.out.read_text().splitlines() if line.startswith("epoch ")]
    done = [line.split()[1] for line in lines]
    assert len(set(done)) == len(done) and done[-1] == "4/4"  # none was trained again
    assert_same_run(home / "straight/r", home / "runs/r")
