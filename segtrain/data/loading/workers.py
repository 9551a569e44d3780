"""Batches from loader processes, and the error message where one of them dies."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch.utils.data import DataLoader

from segtrain.distributed.processes import die_with_parent, name_signal
from segtrain.distributed.signals import block_signals
from segtrain.errors import SegtrainError, UsageError, first_line

# a fork is quick and shares memory; a spawned process imports everything anew. But macOS's own
# libraries do not survive a fork, and Windows has none
START_METHOD = os.environ.get("SEGTRAIN_START_METHOD") or "fork"
if START_METHOD not in ("fork", "spawn"):
    raise UsageError(f"SEGTRAIN_START_METHOD={START_METHOD}: expected fork or spawn")
if sys.platform == "linux" and START_METHOD == "fork":
    from multiprocessing.context import ForkContext as Context
    from multiprocessing.context import ForkProcess as Process

    FORKS = True
else:
    from multiprocessing.context import SpawnContext as Context  # type: ignore[assignment, unused-ignore]
    from multiprocessing.context import SpawnProcess as Process  # type: ignore[assignment, unused-ignore]

    FORKS = False

# what torch raises where a worker has died, or gets no shared memory
WORKER_ERRORS = (RuntimeError, OSError, EOFError, MemoryError)
BROKEN_PIPES = (ConnectionError, EOFError)  # to a worker that has died
NO_SHARED_MEMORY = ("shared memory", "unable to mmap", "Bus error")
SECONDS_TO_DIE = 5  # a worker's pipes break before it has an exit code


class Worker(Process):
    """A process that dies with its parent, and that ignores the signals which stop a run.

    SLURM, torchrun and Ctrl-C signal all processes of a run at once. The parent then finishes its
    step, for which it needs batches, and saves. So a worker starts with those signals blocked:
    neither the parent's handlers nor torch's ever run in it.
    """

    def start(self) -> None:
        self.parent = os.getpid()
        STARTED.add(self)
        with block_signals():
            super().start()

    def run(self) -> None:
        if sys.platform == "win32":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(self.parent)
        super().run()

    def terminate(self) -> None:
        self.kill()  # a stuck worker ignores SIGTERM


class Workers(Context):
    """The context that starts such workers."""

    Process = Worker


CONTEXT = Workers()
STARTED: WeakSet[Worker] = WeakSet()
# the latest workers of each loader
WORKERS: WeakKeyDictionary[DataLoader, list[Worker]] = WeakKeyDictionary()


@atexit.register
def kill_workers() -> None:
    """End stuck workers, too, before multiprocessing waits for them at its own exit."""
    for process in multiprocessing.active_children():
        if isinstance(process, Worker):
            process.kill()


def next_batches(loader: DataLoader) -> Iterator[Any]:
    """Yield the loader's batches. Raises a SegtrainError for a worker that died or can't start."""
    if not loader.num_workers:
        yield from loader
        return
    batches = _start(loader)
    while True:
        with _translate_deaths(loader):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _start(loader: DataLoader) -> Iterator[Any]:
    """Return iter(loader). Raise SegtrainError where no worker can start."""
    try:
        CONTEXT.Lock()  # without /dev/shm this fails cleanly, unlike torch's iterator
    except OSError as error:
        event = f"loader workers cannot start ({first_line(error)})"
        raise _worker_error(loader, event, True) from error
    try:
        with _translate_deaths(loader), _keep_handler():
            before = set(STARTED)
            batches = iter(loader)
        if started := [worker for worker in STARTED if worker not in before]:
            WORKERS[loader] = started  # else those of the previous pass are used
        return batches
    except OSError as error:  # no process could be started
        raise _worker_error(loader, f"loader workers cannot start ({first_line(error)})") from error


@contextmanager
def _keep_handler() -> Iterator[None]:
    """Remove the SIGCHLD handler that torch installs, where the system has that signal.

    It raises wherever the main thread is, say while writing a checkpoint. Without it, the death of
    a worker is detected within 5 seconds, when its batch is waited for.
    """
    if sys.platform == "win32":
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # others can't set a handler
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


@contextmanager
def _translate_deaths(loader: DataLoader) -> Iterator[None]:
    """Raise a SegtrainError for what torch raises when a worker dies; all else passes unchanged."""
    try:
        yield
    except WORKER_ERRORS as error:
        workers = WORKERS.get(loader, [])
        # torch raises RuntimeError only after it has found the worker dead
        code = exit_code(workers, 0 if isinstance(error, RuntimeError) else SECONDS_TO_DIE)
        text = str(error)
        # writing to a full /dev/shm is a bus error
        killed = name_signal(-code) if code is not None and code < 0 else ""
        shared = killed == "SIGBUS" or any(sign in text for sign in NO_SHARED_MEMORY)
        if killed:
            event = f"a loader worker was killed ({killed})"
        elif code is not None or "exited unexpectedly" in text or isinstance(error, BROKEN_PIPES):
            event = f"a loader worker ended (exit code {code or 'unknown'})"
        elif shared or isinstance(error, MemoryError):
            event = f"a loader worker cannot go on ({text.strip().splitlines()[-1]})"
        else:
            raise
        raise _worker_error(loader, event, shared) from error


def exit_code(workers: Sequence[BaseProcess], patience: float) -> int | None:
    """Return the exit code of the first worker that fails within `patience` seconds, else None."""
    end = time.monotonic() + patience
    while True:
        code = next((worker.exitcode for worker in workers if worker.exitcode), None)
        if code is not None or time.monotonic() > end:
            return code
        time.sleep(0.05)


def _worker_error(loader: DataLoader, event: str, shared: bool = False) -> SegtrainError:
    """Return the error: what happened to a worker, the likely cause, and how to need less."""
    why = f"shared memory ({_shared_memory()}) is too small" if shared else "memory ran out"
    docker = "raise it with docker's --shm-size, or " if shared else ""
    return SegtrainError(
        f"{event}, most likely because {why}; {docker}reduce the need with fewer --workers "
        f"(now {loader.num_workers}; 0 loads in the training process), or a smaller --batch-size "
        "or --crop"
    )


def _shared_memory() -> str:
    try:
        return f"/dev/shm, {shutil.disk_usage('/dev/shm').total / 2**20:.0f} MiB"
    except OSError:
        return "there is no /dev/shm"
