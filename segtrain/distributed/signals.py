"""A graceful stop on SIGINT, SIGTERM or SIGUSR1."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from segtrain.console import write_unbuffered
from segtrain.errors import SegtrainError

# Ctrl-C in a terminal; a scheduler's request to end; SLURM's warning before its time limit
NAMES = "SIGINT", "SIGTERM", "SIGUSR1"
SIGNALS = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)

FAULT = 1000  # the code of a stop request for a fault; above all signals


@contextmanager
def block_signals() -> Iterator[None]:
    """Hold SIGNALS back from this thread, and for good from processes that it starts meanwhile."""
    if sys.platform == "win32":  # it has no such thing
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Record the first of SIGNALS, so that a step can end and be saved; a second one ends at once.

    `error` is a fault of this rank, for which all ranks are to stop likewise. A context manager; it
    restores the earlier handlers at its end.
    """

    def __init__(self, announce: bool = True):
        self.announce = announce
        self.signum = 0  # 0: no request
        self.error: SegtrainError | None = None

    @property
    def code(self) -> int:
        """The number of the signal, FAULT, or 0."""
        return FAULT if self.error else self.signum

    def __enter__(self) -> StopRequest:
        self.before = {signum: signal.signal(signum, self._record) for signum in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _record(self, signum: int, frame: object) -> None:
        if self.signum:  # the second one: as if there were no handler
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = signum
        if self.announce:
            name = signal.Signals(signum).name
            write_unbuffered("")  # a terminal shows ^C on the line before
            write_unbuffered(f"{name}: stopping after this step and saving; repeat to stop now")
