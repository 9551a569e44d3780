"""Processes that end together with the one that started them."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT = "SEGTRAIN_PARENT"  # PID of the parent: rank 0 of another rank, a sweep of a training
GATHERING = 30 * 60  # seconds that ranks wait for each other at the start: rank 0 reads the data
PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, ends in any way.

    Linux only; elsewhere it does nothing. The kernel watches the thread of `parent` that started
    this process, so that thread must last.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_launcher() -> None:
    """Make a rank end together with what started it: rank 0, or torchrun's agent."""
    if PARENT in os.environ:
        die_with_parent(int(os.environ[PARENT]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(os.getppid())


def read_stat(pid: int) -> list[str]:
    """Return the fields of Linux's /proc/PID/stat from the state on; [] without such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
