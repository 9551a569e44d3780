"""A stop request ends a run in good order; a dead loader worker is named; no process is left."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from faults.runs import SECONDS, STATE, Straight, caches, run_in
from faults.zygote import AFTER, BEFORE, HALF, Aim, Child, Zygote

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
rng = random.Random(0)
# before the first step is done, at any step, in a validation, during a save
PLACES = [
    ("forward", 1, BEFORE),
    ("backward", rng.randint(2, 8), AFTER),
    ("validate", 2, AFTER),
    (f"write {STATE}", 2, HALF),
    ("replace metrics.csv", 1, AFTER),
]
# torch checks its workers every 5 s
LOOK_OFTEN = """
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
_MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.2,)
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in Linux's /proc")


def finish(child: Child, zygote: Zygote, straight: Straight, cwd: Path) -> Child:
    """Run the command that a stopped run named; assert that the result is the same."""
    assert "Traceback" not in child.stderr
    command = re.search(r"continue with: segtrain (fit --resume .+)", child.stderr)
    assert command, child.stderr
    argv = shlex.split(command[1])
    resumed = zygote.run(*argv, cwd=cwd, env=caches(cwd))
    assert resumed.code == 0, resumed.stderr
    straight.assert_same(run_in(cwd))
    return resumed


@pytest.mark.parametrize(
    "signum, event, nth, when",
    [(SIGNALS[0], *place) for place in PLACES] + [(s, *PLACES[1]) for s in SIGNALS[1:]],
)
def test_a_signal_ends_the_run_after_its_step(
    signum, event, nth, when, zygote: Zygote, straight: Straight, tmp_path: Path
):
    child = straight.fit(zygote, tmp_path, aims=[Aim(event, nth, when, signal=signum)])
    assert child.wait(SECONDS) == 128 + signum, child.stderr
    resumed = finish(child, zygote, straight, tmp_path)
    # no step is lost or repeated; the run stops with the step that follows at the latest
    names = [e.name for e in straight.events]
    assert child.count("update") + resumed.count("update") == names.count("update")
    asked = [place for place, name in enumerate(names) if name == event][nth - 1]
    done = names[:asked].count("update") + (event in ("forward", "backward"))
    assert done <= child.count("update") <= done + 1


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda s: s.name)
def test_a_second_signal_ends_it_at_once(
    signum, zygote: Zygote, straight: Straight, tmp_path: Path
):
    aims = [Aim(event, 6, signal=signum) for event in ("forward", "backward")]
    child = straight.fit(zygote, tmp_path, aims=aims)
    assert child.wait(SECONDS) in (-signum, 128 + signum), child.stderr
    assert "Traceback" not in child.stderr
    assert child.count("update") == 5  # the sixth was not finished
    straight.finish(zygote, tmp_path)


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda s: s.name)
def test_a_signal_before_training_ends_it(
    signum, zygote: Zygote, straight: Straight, tmp_path: Path
):
    child = straight.fit(zygote, tmp_path, aims=[Aim("plan", 1, AFTER, signal=signum)])
    assert child.wait(SECONDS) in (-signum, 128 + signum), child.stderr
    assert "Traceback" not in child.stderr
    assert child.count("update") <= 1
    straight.finish(zygote, tmp_path)


@on_linux
def test_a_killed_loader_worker_is_told_and_the_run_can_finish(
    zygote: Zygote, straight: Straight, tmp_path: Path
):
    stop = Aim("forward", 2, BEFORE, signal=signal.SIGSTOP)
    child = straight.fit(zygote, tmp_path, "--workers", 2, aims=[stop], code=LOOK_OFTEN)
    child.wait_stopped()
    workers = child.workers()
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    child.send(signal.SIGCONT)
    assert child.wait(SECONDS) == 1
    assert "a loader worker was killed (SIGKILL)" in child.error
    assert_no_process_left(child)
    straight.finish(zygote, tmp_path)


@on_linux
def test_a_signal_to_the_whole_group_spares_the_workers(
    zygote: Zygote, straight: Straight, tmp_path: Path
):
    """A terminal sends Ctrl-C so, and a scheduler its SIGTERM."""
    stop = Aim("forward", 6, BEFORE, signal=signal.SIGSTOP)
    for signum in (signal.SIGTERM, signal.SIGINT):
        cwd = tmp_path / signum.name
        cwd.mkdir()
        child = straight.fit(zygote, cwd, "--workers", 2, aims=[stop])
        child.wait_stopped()
        child.send(signum, group=True)
        time.sleep(0.1)  # for the workers to take it
        child.send(signal.SIGCONT)
        assert child.wait(SECONDS) == 128 + signum, child.stderr
        assert "worker" not in child.stderr
        assert_no_process_left(child)
        finish(child, zygote, straight, cwd)


@on_linux
def test_workers_end_with_a_killed_run(zygote: Zygote, straight: Straight, tmp_path: Path):
    kill = Aim("forward", 6, BEFORE, signal=signal.SIGKILL)
    child = straight.fit(zygote, tmp_path, "--workers", 2, aims=[kill])
    assert child.wait(SECONDS) == -signal.SIGKILL
    assert_no_process_left(child, 2)


def assert_no_process_left(child: Child, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while child.left():
        assert time.monotonic() < end, f"processes {child.left()} still run"
        time.sleep(0.02)
