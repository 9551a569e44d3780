"""Real processes: their output in files, their children, and waiting for a condition."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": "/tmp"}


def children(pid: int) -> list[int]:
    """Return the child processes of a process that have not been waited for.

    Without multiprocessing's own, which tracks what spawned processes share.
    """
    pids = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return [child for child in pids if b"resource_tracker" not in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def ranks(pid: int) -> dict[int, int]:
    """Return {local rank: PID} of the ranks among its children."""
    pids = {}
    for child in children(pid):
        try:
            variables = Path(f"/proc/{child}/environ").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        values = [v.partition("=")[2] for v in variables if v.startswith("LOCAL_RANK=")]
        pids |= {int(rank): child for rank in values}
    return pids


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable, seconds: float = 120):
    """Return the condition's value once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


class Running:
    """A Python process whose output goes to files; killed with its children at the end."""

    def __init__(self, folder: Path, *command: object, before: list[str] = [], **environment: str):
        self.out, self.err = folder / "stdout", folder / "stderr"
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(
                [*before, sys.executable, *map(str, command)],
                stdout=out,
                stderr=err,
                env=ENVIRONMENT | environment,
                cwd=folder,
                start_new_session=True,
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        left = [self.process.pid]
        for pid in left:
            left += children(pid)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def has_printed(self, text: str) -> bool:
        if self.process.poll() is not None and text not in self.out.read_text():
            raise AssertionError(f"ended too early: {self.err.read_text()}")
        return text in self.out.read_text()

    def wait_for_output(self, text: str) -> None:
        """Wait until it has printed the text."""
        wait_for(lambda: self.has_printed(text))

    def wait(self, seconds: float = 60) -> int:
        """Return its exit code once it has ended."""
        return self.process.wait(seconds)

    @property
    def errors(self) -> list[str]:
        """The error lines that it printed; assert that it printed no traceback."""
        text = self.err.read_text()
        assert "Traceback" not in text, text
        return [line for line in text.splitlines() if line.startswith("error: ")]
