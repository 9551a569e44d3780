"""A full, read-only or failing disk at every write: one line, and existing files stay intact.

Most tests let the n-th write of a run fail; others use a small disk that is really full, one that
is really read-only, and a real limit on file sizes.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import segtrain
from faults.runs import SECONDS, STATE, Straight, caches, run_in
from faults.zygote import BEFORE, HALF, WRITES, Aim, Child, Event, Zygote

ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]
# only for speed the next time, or to find the run: training continues without them
UNNEEDED = ("latest", ".latest", "#", "scan", "cache", "decoded")
DISK = 24 * 2**20  # bytes, of the small disk
rng = random.Random(0)
ALIKE = ("open", "fsync", "replace")


def written(events: list[Event]) -> dict[str, int]:
    """Count the writes of each kind."""
    counts: dict[str, int] = {}
    for event in events:
        if event.name.split()[0] in WRITES:
            counts[event.name] = counts.get(event.name, 0) + 1
    return counts


def unneeded(event: str) -> bool:
    name = event.split()[1]
    return name in UNNEEDED or name.startswith("#")


def assert_explained(child: Child, event: str, number: int) -> None:
    """Assert exit code 1 and one line with the file and the reason."""
    assert child.code == 1, (child.code, child.stdout, child.stderr)
    assert os.strerror(number) in child.error, child.error
    operation, name = event.split()
    name = r"cannot \w+ runs" if operation == "mkdir" else re.escape(name).replace(r"\#", r"\d+")
    assert re.search(name, child.error), child.error


def assert_loads(run: Path) -> None:
    for path in run.glob("checkpoints/*.safetensors"):
        segtrain.load(path)


def assert_tidy(folder: Path) -> None:
    assert not [path for path in folder.rglob(".*") if path.name.startswith(".tmp-")]


@pytest.mark.parametrize("operation", WRITES)
def test_a_run_survives_any_write_that_fails(
    operation: str, zygote: Zygote, straight: Straight, tmp_path: Path
):
    counts = written(straight.events)
    assert {"mkdir", "open", "write", "fsync", "replace"} <= {e.split()[0] for e in counts}
    wrong, events = [], [event for event in counts if event.split()[0] == operation]
    if operation in ALIKE:  # every file's is whole_file's, and each is tried by "write"
        events = rng.sample(events, min(len(events), 4))
    for index, event in enumerate(events):
        number = ERRORS[index % len(ERRORS)]
        nth = 1 if operation == "mkdir" else rng.randint(1, counts[event])
        aim = Aim(event, nth, HALF, errno=number, lasting=not unneeded(event))
        cwd = tmp_path / f"{index}"
        cwd.mkdir()
        child = straight.fit(zygote, cwd, aims=[aim])
        child.wait(SECONDS)
        try:
            if unneeded(event):
                assert child.code == 0, child.stderr
            else:
                assert_explained(child, event, number)
                assert_loads(run_in(cwd))
                if operation not in ALIKE:  # their state is that of write
                    straight.finish(zygote, cwd)
        except AssertionError as error:
            wrong.append(f"{event}, {nth} of {counts[event]}, {os.strerror(number)}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("mounts a disk: only root of a Linux may")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounts a disk, but here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.95])
def test_a_full_disk(share: float, zygote: Zygote, straight: Straight, small_disk: Path):
    """The free space is that share of what the run writes at most."""
    run_bytes = sum(f.stat().st_size for f in straight.run.rglob("*") if f.is_file())
    assert run_bytes < DISK
    child = straight.fit(zygote, small_disk, aims=[Aim("forward", 1, signal=signal.SIGSTOP)])
    child.wait_stopped()
    with open(small_disk / "filler", "wb") as filler:
        free = shutil.disk_usage(small_disk).free
        filler.write(bytes(max(0, free - int(share * run_bytes))))
    child.send(signal.SIGCONT)
    child.wait(SECONDS)
    assert child.code == 1, child.stderr
    assert "No space left on device" in child.error
    assert re.search(r"cannot write runs/tiny/\S+", child.error), child.error
    assert_tidy(small_disk)
    assert_loads(run_in(small_disk))
    (small_disk / "filler").unlink()
    straight.finish(zygote, small_disk)


def test_a_disk_full_from_the_start(zygote: Zygote, straight: Straight, small_disk: Path):
    filler = small_disk / "filler"
    with open(filler, "wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free))
    child = straight.fit(zygote, small_disk)
    child.wait(SECONDS)
    assert child.code == 1
    assert "No space left on device" in child.error
    assert not list(small_disk.glob("runs/*"))  # nothing that looks like a run
    filler.unlink()
    straight.finish(zygote, small_disk)


@pytest.mark.parametrize("event, nth", [("plan", 1), ("forward", 2), ("validate", 2)])
def test_a_disk_that_becomes_read_only(
    event: str, nth: int, zygote: Zygote, straight: Straight, small_disk: Path
):
    child = straight.fit(zygote, small_disk, aims=[Aim(event, nth, signal=signal.SIGSTOP)])
    child.wait_stopped()
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    child.send(signal.SIGCONT)
    child.wait(SECONDS)
    subprocess.run([*remount[:2], "remount,rw", str(small_disk)], check=True)
    assert child.code == 1, child.stderr
    assert "Read-only file system" in child.error
    assert_loads(run_in(small_disk))
    straight.finish(zygote, small_disk)


@pytest.mark.parametrize("file", ["config.yaml", "checkpoints/last.safetensors", STATE])
def test_a_limit_on_file_sizes(file: str, zygote: Zygote, straight: Straight, tmp_path: Path):
    """The limit of `ulimit -f`; the file is the first that is too large."""
    path = straight.run / (f"checkpoints/{file}" if file == STATE else file)
    limit = path.stat().st_size * 3 // 4
    child = straight.fit(zygote, tmp_path, file_size=limit)
    child.wait(SECONDS)
    assert child.code == 1, child.stderr
    assert "File too large" in child.error and file in child.error
    assert_tidy(tmp_path)
    assert_loads(run_in(tmp_path))
    straight.finish(zygote, tmp_path)


# commands that write files, beside the run or the data they read
COMMANDS: dict[str, Callable[[Straight, Path], list[object]]] = {
    "eval": lambda s, cwd: ["eval", cwd / "runs" / "tiny", "--set", "eval.worst=1"],
    "predict": lambda s, cwd: (
        ["predict", s.data / "val" / "images" / "006.png", "--checkpoint", s.run, "--out", "out"]
        + ["--set", "predict.save_probs=true"]
    ),
    "check": lambda s, cwd: (
        ["check", s.data, "--preview", "preview.png", "--augment", "augment.png"]
        + ["--write-config", "set.yaml"]
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_survives_any_write_that_fails(
    command: str, zygote: Zygote, straight: Straight, tmp_path: Path
):
    shutil.copytree(straight.run, run_in(tmp_path))
    argv = COMMANDS[command](straight, tmp_path)
    plain = zygote.run(*argv, cwd=tmp_path, env=caches(tmp_path))
    assert plain.code == 0, plain.stderr
    counts = written(plain.events())
    assert any(event.startswith("write ") for event in counts)
    wrong = []
    for index, event in enumerate(e for e in counts if e.startswith(("write ", "replace "))):
        if unneeded(event):
            continue
        number = ERRORS[index % len(ERRORS)]
        aim = Aim(event, 1, HALF, errno=number)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)  # else predict keeps what is there
        child = zygote.run(*argv, cwd=tmp_path, env=caches(tmp_path), aims=[aim])
        try:
            assert_explained(child, event, number)
            assert_tidy(tmp_path)
        except AssertionError as error:
            wrong.append(f"{event}, {os.strerror(number)}: {error}")
    assert not wrong, "\n".join(wrong)
    again = zygote.run(*argv, cwd=tmp_path, env=caches(tmp_path))
    assert again.code == 0, again.stderr


@pytest.mark.parametrize("event", ["mkdir decoded", "open #", "write #", "replace #"])
def test_a_run_does_without_a_cache_that_cannot_be_written(
    event: str, zygote: Zygote, straight: Straight, tmp_path: Path
):
    aim = Aim(event, 1, BEFORE, errno=errno.ENOSPC, lasting=False)
    child = straight.fit(zygote, tmp_path, "--set", "data.cache=disk", aims=[aim])
    child.wait(SECONDS)
    assert child.count(event), [e.name for e in child.events()]
    assert child.code == 0, child.stderr
    assert "is stored, " in child.stdout + child.stderr
    straight.assert_same(run_in(tmp_path))
