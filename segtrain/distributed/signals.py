"""A graceful stop on SIGINT, SIGTERM or SIGUSR1."""

from __future__ import annotations

import os
import signal

# a terminal's Ctrl-C; an orderly end; SLURM's warning before its time limit
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Notes the first of SIGNALS, so that a step can end and be saved; a second one ends at once.

    A context; its handlers are taken back at its end.
    """

    def __init__(self, loud: bool = True):
        self.loud = loud
        self.signum = 0  # 0: nobody wants to stop

    def __enter__(self) -> StopRequest:
        self.before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: object) -> None:
        if self.signum:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = signum
        if self.loud:  # print may be in the midst of its work
            name = signal.Signals(signum).name
            os.write(2, f"\n{name}: the step ends and is saved; once more stops at once\n".encode())
