"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT = "SEGTRAIN_PARENT"  # the PID of what started this: rank 0 a rank, sweep a training
GATHERING = 30 * 60  # seconds that ranks wait for each other at the start: rank 0 reads the data
PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def die_with_parent(parent: int) -> None:
    """From now on this process is killed when `parent`, which started it, ends in any way.

    Linux only; elsewhere it does nothing. It holds for the thread of `parent` that started this
    process: that must be one that lasts.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it had ended already
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_launcher() -> None:
    """Makes one of several ranks end with what started it: rank 0, or torchrun's agent."""
    if PARENT in os.environ:
        die_with_parent(int(os.environ[PARENT]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(os.getppid())


def stat_of(pid: int) -> list[str]:
    """The fields of Linux's /proc/PID/stat from the state on; none where it has no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
