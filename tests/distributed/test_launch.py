"""Ranks of a run: their start, the detection of one that is lost, and their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from running import alive, children, wait_for

from segtrain.config import TrainConfig
from segtrain.distributed.launch import (
    RankMonitor,
    is_lost_peer,
    launch_ranks,
)
from segtrain.distributed.processes import describe_exit, identify_launcher, is_restart_of
from segtrain.errors import SegtrainError, Stopped
from segtrain.runs.environment import record_start

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    "error, lost",
    [
        (RuntimeError(f"{GLOO}pair.cc:561] Connection closed by peer [10.0.0.2]:6289."), True),
        (RuntimeError(f"{GLOO}pair.cc:545] Read error [::1]:7: Connection reset by peer"), True),
        (RuntimeError(f"{GLOO}unbound_buffer.cc:78] Timed out waiting 4000ms for recv"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (dist.DistBackendError("NCCL error: remote process exited"), True),
        (RuntimeError("Expected all tensors to be on the same device"), False),
        (RuntimeError("DataLoader timed out after 5 seconds"), False),
        (RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
)
def test_only_a_lost_peer_is_taken_for_one(error: RuntimeError, lost: bool):
    assert is_lost_peer(error) is lost


@pytest.mark.parametrize(
    "code, description",
    [
        (-9, "was killed (SIGKILL, as the system does when memory runs out)"),
        (-11, "was killed (SIGSEGV)"),
        (-40, "was killed (signal 40)"),
        (143, "was stopped (SIGTERM)"),
        (2, "ended with exit code 2: see its error above"),
    ],
)
def test_how_a_process_ended(code: int, description: str):
    assert describe_exit(code) == description


def stub(rank: int = 0, world: int = 2) -> SimpleNamespace:
    """The part of a Fabric that these tests need."""
    return SimpleNamespace(
        global_rank=rank, world_size=world, launch=lambda: None, device=torch.device("cpu")
    )


def test_the_monitor_finds_a_dead_rank_and_ends_the_others(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    rank_monitor = RankMonitor(stub(world=3), TrainConfig(), Path("runs/r/config.yaml"))
    for code in "raise SystemExit(3)", "import time; time.sleep(600)":
        rank_monitor.children.append(subprocess.Popen([sys.executable, "-c", code]))
    rank_monitor.check()
    polling = threading.Thread(target=rank_monitor._poll_children)
    polling.start()
    wait_for(lambda: rank_monitor.lost, 20)
    with pytest.raises(SegtrainError, match="process 1 of 3 .* exit code 3.*--resume runs/r"):
        rank_monitor.check()
    rank_monitor.end()
    polling.join(5)
    assert not polling.is_alive() and not any(alive(child.pid) for child in rank_monitor.children)


HANGS = """
import subprocess, sys, threading, time
from pathlib import Path
from test_launch import stub
from segtrain.config import TrainConfig
from segtrain.distributed import launch
launch.GRACE_SECONDS, launch.dist.is_initialized = 1, lambda: True
rank_monitor = launch.RankMonitor(stub(), TrainConfig(), Path("runs/r/config.yaml"))
rank_monitor.children.append(subprocess.Popen(["sh", "-c", "kill -9 $$"]))
threading.Thread(target=rank_monitor._poll_children, daemon=True).start()
time.sleep(600)
"""


def test_a_main_thread_that_hangs_is_ended():
    done = subprocess.run(
        [sys.executable, "-c", HANGS],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: process 1 of 2") and "SIGKILL" in error


def test_an_exit_that_hangs_is_ended():
    code = (
        "import atexit, time; from segtrain.distributed import launch; launch.GRACE_SECONDS = 1; "
        "atexit.register(time.sleep, 600); launch.limit_exit_time()"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("rank, ending", [(0, Stopped), (1, SystemExit)])
def test_of_ranks_that_stop_together_one_reports_it(rank: int, ending: type, monkeypatch):
    monkeypatch.setattr("segtrain.distributed.launch.RANK_0_FIRST_SECONDS", 0)
    with pytest.raises(ending) as ended:
        with launch_ranks(stub(rank, world=1), TrainConfig(), None):
            raise Stopped("SIGTERM: stopped", signal.SIGTERM)
    assert (ended.value.code if rank else ended.value.exit_code) == 143


def test_other_errors_pass_and_the_environment_comes_back():
    before = dict(os.environ)
    with pytest.raises(RuntimeError, match="same device"):
        with launch_ranks(stub(world=1), TrainConfig(), None):
            os.environ["LOCAL_RANK"] = "0"
            raise RuntimeError("Expected all tensors to be on the same device")
    assert dict(os.environ) == before


CHILD = """
import psutil, sys
sys.platform = "{platform}"  # another one than Linux has no such signal
from segtrain.distributed.processes import end_with_launcher
end_with_launcher()
print(1, flush=True)
input()
"""
PARENT = """
import os, subprocess, sys
os.environ[{variable!r}] = {value}
subprocess.run([sys.executable, "-c", {child!r}])
"""


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize(
    "variable, value", [("SEGTRAIN_PARENT", "str(os.getpid())"), ("TORCHELASTIC_RUN_ID", "'none'")]
)
def test_a_rank_ends_with_its_launcher(variable: str, value: str, platform: str):
    code = PARENT.format(variable=variable, value=value, child=CHILD.format(platform=platform))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == b"1\n"
        (child,) = children(parent.pid)
        parent.kill()
        wait_for(lambda: not alive(child), 5)


def test_a_rank_whose_launcher_had_ended_ends_too():
    variables = os.environ | {"SEGTRAIN_PARENT": "1"}
    code = CHILD.format(platform="linux")
    done = subprocess.run([sys.executable, "-c", code], env=variables, timeout=20)
    assert done.returncode == -signal.SIGKILL


def test_only_a_run_of_this_job_is_resumed_after_a_restart(tmp_path: Path, monkeypatch):
    file = tmp_path / "environment.json"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not is_restart_of(file)
    record_start(file, {"launcher": identify_launcher()})
    assert is_restart_of(file)
    pid, start = identify_launcher().split()
    assert int(pid) == os.getppid()
    for other in (f"{pid} {int(start) + 1}", f"{int(pid) + 1} {start}"):
        record_start(file, {"launcher": other})
        assert not is_restart_of(file)
    record_start(file, {"launcher": identify_launcher()})
    assert is_restart_of(file)
    assert len(json.loads(file.read_text())["resumed"]) == 3
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not is_restart_of(file)
