"""kill -9 at any moment: the resumed run equals the uninterrupted one.

SEGTRAIN_KILLS=200 makes it a long proof; SEGTRAIN_KILLS_SEED draws other moments. Run as
`pytest tests/faults/test_kills.py`, it ends with a table of the phases that were killed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import segtrain
from faults.runs import FIT, NAME, SECONDS, STATE, Straight, caches, run_in
from faults.zygote import AFTER, BEFORE, HALF, Aim, Child, Zygote

KILLS = int(os.environ.get("SEGTRAIN_KILLS", 10))
SEED = int(os.environ.get("SEGTRAIN_KILLS_SEED", 0))
MORE_KILLS = 2  # at most, of the resumed run
# the riskiest moments come first, all others in turn after them
FIRST = [
    ("replace last.state.pt", BEFORE),
    ("write last.state.pt", HALF),
    ("replace metrics.csv", AFTER),
    ("replace last.safetensors", AFTER),
]


def aim_at(case: int, straight: Straight, rng: random.Random) -> Aim:
    counts: dict[str, int] = {}
    for event in straight.events:
        counts[event.name] = counts.get(event.name, 0) + 1
    others = [
        (name, when)
        for name in counts
        for when in (BEFORE, AFTER, HALF)[: 3 if name.startswith("write ") else 2]
        if (name, when) not in FIRST
        and not (name.startswith("mkdir ") and when == AFTER)  # a folder that is there raises
    ]
    random.Random(SEED).shuffle(others)
    aims = FIRST + others
    name, when = aims[case % len(aims)]
    return Aim(name, rng.randint(1, counts[name]), when, signal=signal.SIGKILL)


def killed_at(seconds: float, child: Child) -> str | None:
    """Kill it after so many seconds; return its phase, None where it had ended well by then."""
    time.sleep(seconds)
    child.send(signal.SIGKILL)
    code = child.wait(SECONDS)
    assert code in (0, -signal.SIGKILL), child.stderr
    return child.phase() if code else None


def killed_fresh(seconds: float, argv: list[object], cwd: Path) -> str:
    """Do the same to a process that still has to import everything."""
    process = subprocess.Popen(
        [sys.executable, "-m", "segtrain", *map(str, argv)],
        cwd=cwd,
        env=os.environ | caches(cwd),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.kill()
    process.wait()
    return "a fresh process, after its start" if run_in(cwd).exists() else "the imports"


def assert_loads(cwd: Path) -> None:
    """Assert that each checkpoint is whole; a name with a dot is not one yet."""
    for path in run_in(cwd).glob("checkpoints/[!.]*.safetensors"):
        segtrain.load(path)


@pytest.mark.parametrize("case", range(KILLS))
def test_a_killed_run_ends_as_the_straight_one(
    case: int,
    zygote: Zygote,
    straight: Straight,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
):
    rng = random.Random(f"{SEED} {case}")
    fell = []
    if case % 5 == 4:
        argv = [*FIT, "--data", straight.data, "--name", NAME]
        fell.append(killed_fresh(rng.uniform(0, 4), argv, tmp_path))
    elif case % 2:
        child = straight.fit(zygote, tmp_path, aims=[aim_at(case // 2, straight, rng)])
        assert child.wait(SECONDS) == -signal.SIGKILL, "the aim was missed"
        fell.append(child.phase())
    else:
        longest = straight.seconds  # the machine may have been busier then
        while not (phase := killed_at(rng.uniform(0, longest), straight.fit(zygote, tmp_path))):
            shutil.rmtree(run_in(tmp_path))
            longest /= 2
        fell.append(phase)
    assert_loads(tmp_path)
    for _ in range(rng.randint(0, MORE_KILLS)):
        child = straight.resume(zygote, tmp_path)
        if phase := killed_at(rng.uniform(0, straight.seconds / 2), child):
            fell.append(f"{phase}, resumed")
        assert_loads(tmp_path)
    print(f"seed {SEED}, case {case}: killed in {', then in '.join(fell)}")
    for phase in fell:
        record_property("killed", phase)
    workers = rng.choice([0, 0, 2])
    straight.finish(zygote, tmp_path, "--workers", workers)
    assert not list(run_in(tmp_path).rglob(".tmp-*"))
    assert os.readlink(tmp_path / "runs" / "latest") == NAME
    record_property("left", len(list((tmp_path / "runs").rglob(".tmp-*"))))


def test_a_killed_run_is_resumed_in_a_process_of_its_own(
    zygote: Zygote, straight: Straight, tmp_path: Path
):
    """The result of the other tests does not depend on the process that they fork."""
    aim = Aim(f"replace {STATE}", 3, BEFORE, signal=signal.SIGKILL)
    straight.fit(zygote, tmp_path, aims=[aim]).wait(SECONDS)
    done = subprocess.run(
        [sys.executable, "-m", "segtrain", "fit", "--resume", NAME],
        cwd=tmp_path,
        env=os.environ | caches(tmp_path),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert done.returncode == 0, done.stderr
    straight.assert_same(run_in(tmp_path))
