"""Ctrl-C: KeyboardInterrupt while a verb works; before, after and in imports the process just ends.

Outside of a verb nothing catches KeyboardInterrupt, and C code that is being imported swallows it,
or raises another error for it. Little is imported here: until it is, Python prints a traceback.
"""

import os
import signal

INTERRUPTED = 128 + signal.SIGINT  # as in shells


def end_at_once(*_: object) -> None:
    """End the process without cleaning up: a handler of SIGINT."""
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def handle_interrupts(raising: bool) -> None:
    """Have SIGINT raise KeyboardInterrupt, or end the process, unless others handle it."""
    if signal.getsignal(signal.SIGINT) not in (end_at_once, signal.default_int_handler):
        return  # as under nohup
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler if raising else end_at_once)
    except ValueError:  # only the main thread may
        pass


class Interrupts:
    """Context in which Ctrl-C raises KeyboardInterrupt, or ends the process."""

    def __init__(self, raising: bool):
        self.raising = raising

    def __enter__(self) -> None:
        self.before = signal.getsignal(signal.SIGINT)
        handle_interrupts(self.raising)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        handle_interrupts(self.before is signal.default_int_handler)
        seen = set()  # an error that two threads have raised may be the cause of itself
        while error is not None and id(error) not in seen:
            if isinstance(error, KeyboardInterrupt):  # libraries may have raised another for it
                raise error
            seen.add(id(error))
            error = error.__cause__ or error.__context__


def working() -> Interrupts:
    """Return the context of a verb, which cleans up after KeyboardInterrupt."""
    return Interrupts(raising=True)
