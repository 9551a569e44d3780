"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys

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
