"""Ranks that die or freeze, in real processes: the run ends, names who it was, leaves nobody."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from conftest import QUICK, TINY, run_cli, write_pairs
from running import Running, alive, ranks, wait_for
from same_run import assert_same_run

import segtrain

FIT = ["-m", "segtrain", "fit", "--data", "set", *QUICK, *TINY, "--batch-size", "4", "--name", "r"]
TWO = ["--devices", "2"]
LONG = ["--epochs", "2000"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "set", 8, "images/train", "masks/train")
    write_pairs(tmp_path / "set", 2, "images/val", "masks/val", first=8)
    return tmp_path


def imports_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_a_killed_rank_is_named_and_the_checkpoint_is_whole(home: Path):
    with Running(home, *FIT, *TWO, *LONG) as run:
        run.says("epoch 2/")
        other = ranks(run.process.pid)[1]
        os.kill(other, signal.SIGKILL)
        assert run.ended() == 1
        (error,) = run.errors
        for said in (f"process 1 of 2 (PID {other})", "SIGKILL", "segtrain fit --resume runs/r"):
            assert said in error
    checkpoints = home / "runs/r/checkpoints"
    assert torch.load(checkpoints / "last.state.pt", weights_only=True)["state"]["rows"]
    assert segtrain.load(checkpoints / "last.safetensors")


def test_nobody_outlives_a_killed_rank_0(home: Path):
    """The other one still imports: it would wait long for someone to talk to."""
    with Running(home, *FIT, *TWO, *LONG) as run:
        other = wait_for(lambda: ranks(run.process.pid))[1]
        os.kill(run.process.pid, signal.SIGKILL)
        wait_for(lambda: not alive(other), 30)
    assert run.errors == []


def test_a_rank_killed_at_the_start_is_named(home: Path):
    """Rank 0 waits for it in a call that no signal and no other thread can end."""
    with Running(home, *FIT, *TWO, *LONG) as run:
        other = wait_for(lambda: ranks(run.process.pid))[1]
        os.kill(other, signal.SIGTERM)
        assert run.ended() == 1
        (error,) = run.errors
        assert f"process 1 of 2 (PID {other}) was killed (SIGTERM)" in error


def test_a_frozen_rank_is_named(home: Path):
    with Running(home, *FIT, *TWO, *LONG, "--set", "train.timeout=5s") as run:
        run.says("epoch 1/")
        other = ranks(run.process.pid)[1]
        os.kill(other, signal.SIGSTOP)
        assert run.ended() == 1
        (error,) = run.errors
        assert f"process 1 of 2 (PID {other}) is stopped" in error and "within 5s" in error
        assert not alive(other)


@pytest.mark.parametrize("whom", ["rank 0", "all"])
def test_a_signal_ends_all_ranks_after_the_same_step(home: Path, monkeypatch, whom: str):
    monkeypatch.chdir(home)
    short = ["--epochs", "3", "--set", "train.steps_per_epoch=40"]
    with Running(home, *FIT, *TWO, *short) as run:
        run.says("epoch 1/")
        everybody = {0: run.process.pid} | ranks(run.process.pid)
        for rank in everybody if whom == "all" else [0]:
            os.kill(everybody[rank], signal.SIGTERM)
        assert run.ended() == 143
        assert run.errors == []
        wait_for(lambda: not alive(everybody[1]), 30)
    (said,) = [line for line in run.err.read_text().splitlines() if "stopped and saved" in line]
    assert said.endswith("segtrain fit --resume runs/r")
    if whom == "all":
        return
    straight = run_cli(*FIT[2:], *TWO, *short, "--out", "straight")
    assert straight.code == 0, straight.stderr
    resumed = run_cli("fit", "--resume", "runs/r")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(home / "straight/r", home / "runs/r")


def test_a_ranks_own_error_is_told(home: Path):
    with Running(home, *FIT, *TWO, *LONG) as run:
        run.says("epoch 1/")
        (home / "set/images/val/009.png").write_bytes(b"nothing")  # rank 1 scores the second
        assert run.ended() == 1
    cause, end = run.errors
    assert "009.png" in cause
    assert "process 1 of 2" in end and "exit code 1: its error stands above" in end


def test_nobody_outlives_torchruns_agent(home: Path):
    with Running(home, *TORCHRUN, *FIT, *TWO, *LONG) as run:
        workers = wait_for(lambda: len(found := ranks(run.process.pid)) == 2 and found).values()
        wait_for(lambda: all(imports_torch(pid) for pid in workers))
        os.kill(run.process.pid, signal.SIGKILL)
        wait_for(lambda: not any(alive(pid) for pid in workers), 30)


def test_torchrun_starts_a_killed_rank_again_and_nothing_is_lost(home: Path, monkeypatch):
    epochs = ["--epochs", "4"]
    monkeypatch.chdir(home)
    straight = run_cli(*FIT[2:], *TWO, *epochs, "--out", "straight")
    assert straight.code == 0, straight.stderr
    with Running(home, *TORCHRUN, "--max-restarts", "1", *FIT, *TWO, *epochs) as run:
        run.says("epoch 1/")
        os.kill(ranks(run.process.pid)[1], signal.SIGKILL)
        assert run.ended(120) == 0, run.err.read_text()
    lines = [line for line in run.out.read_text().splitlines() if line.startswith("epoch ")]
    done = [line.split()[1] for line in lines]
    assert len(set(done)) == len(done) and done[-1] == "4/4"  # none was trained again
    assert_same_run(home / "straight/r", home / "runs/r")
