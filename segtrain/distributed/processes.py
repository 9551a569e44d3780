"""Processes: their end, also with the one that started them, and their rank and restarts."""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

PARENT = "SEGTRAIN_PARENT"  # PID of the parent: rank 0 of another rank, a sweep of a training
GATHERING = 30 * 60  # seconds that ranks wait for each other at the start: rank 0 reads the data
PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


def die_with_parent(parent: int) -> None:
    """Have this process killed when `parent`, which started it, ends in any way.

    By Linux's kernel, which watches the thread of `parent` that started this process, so that
    thread must last; elsewhere by a thread of this process.
    """
    if sys.platform != "linux":
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _end_after(parent: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(parent)
        # a child of Unix gets another parent; Windows keeps the number, whoever has it then
        while os.getppid() == parent and process.is_running():
            time.sleep(0.2)
    os._exit(1)


def end_with_launcher() -> None:
    """Make a rank end together with what started it: rank 0, or torchrun's agent."""
    if PARENT in os.environ:
        die_with_parent(int(os.environ[PARENT]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(os.getppid())


def read_stat(pid: int) -> list[str]:
    """Return the fields of Linux's /proc/PID/stat from the state on; [] without such a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def describe_exit(code: int) -> str:
    """Return how a process ended, for an exit code other than 0 as subprocess gives it."""
    if code < 0:
        name = name_signal(-code) or f"signal {-code}"
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"was killed ({name}{memory})"
    if name := name_signal(code - 128):
        return f"was stopped ({name})"
    return f"ended with exit code {code}: see its error above"


def name_signal(number: int) -> str:
    """Return the name of a signal on this system, or ''."""
    return next((sign.name for sign in signal.Signals if sign == number), "")


def count_restarts() -> int:
    """Return how often torchrun has restarted the ranks."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def identify_launcher() -> str:
    """Return the parent process as its PID and its start in ticks since the system's start."""
    # both: PIDs are used again
    return " ".join([str(os.getppid()), *read_stat(os.getppid())[19:20]])


def is_restart_of(environment: Path) -> bool:
    """Return whether torchrun restarted this rank after it had made the run of that file.

    The file is environment.json. A rank resumes only a run of its own job.
    """
    if not count_restarts() or not environment.is_file():
        return False
    starts = json.loads(environment.read_text(encoding="utf-8"))
    return (starts.get("resumed") or [starts])[-1]["launcher"] == identify_launcher()


def may_be_rank_zero() -> bool:
    """Return False where a launcher says that this process is another rank of its run."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next(filter(None, ranks), "0") == "0"
