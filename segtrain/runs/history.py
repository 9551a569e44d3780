"""History of a run: metrics.csv and TensorBoard events."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from segtrain.console import Note
from segtrain.errors import SegtrainError
from segtrain.files.tables import save_csv
from segtrain.runs.folder import HISTORY

THREAD_SECONDS = 5.0  # to wait for a failed writer thread to end


class History:
    """Metrics of each epoch, in metrics.csv and as TensorBoard events. Raise SegtrainError."""

    def __init__(self, run: Path, epochs_done: int):
        self.run = run
        self.events: SummaryWriter | None = None
        self.notes: tuple[Note, ...] = ()
        try:
            str(run).encode()
        except UnicodeEncodeError:  # TensorBoard has no other form of a path
            self.notes = (Note("no TensorBoard events: the run's path is not UTF-8", "note"),)
            return
        # hides events of epochs that a killed process wrote after its last checkpoint
        purge_step = epochs_done + 1 if epochs_done else None
        with self._failure_in_one_line():
            self.events = SummaryWriter(str(run), purge_step=purge_step)
            self.events.flush()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write all rows so far; the last of them is new."""
        save_csv(self.run / HISTORY, rows)
        if self.events is None:
            return
        with self._failure_in_one_line():
            for name, value in rows[-1].items():
                if name != "epoch" and value is not None:
                    self.events.add_scalar(name, value, rows[-1]["epoch"])
            self.events.flush()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        """End the writer's thread."""
        with suppress(OSError):  # `add` has flushed every event, or raised
            if self.events is not None:
                self.events.close()

    @contextmanager
    def _failure_in_one_line(self) -> Iterator[None]:
        """Raise a SegtrainError if the writer's thread fails, instead of its traceback on stderr.

        The thread passes its error to the next call, `flush` at the latest, and ends.
        """
        print_traceback, failed = threading.excepthook, threading.Event()

        def note_failure(args: threading.ExceptHookArgs) -> None:
            failed.set() if isinstance(args.exc_value, OSError) else print_traceback(args)

        threading.excepthook = note_failure
        try:
            yield
        except OSError as error:
            failed.wait(THREAD_SECONDS)
            files = self.run / "events.out.tfevents.*"
            raise SegtrainError(f"cannot write {files}: {error.strerror or error}") from error
        finally:
            threading.excepthook = print_traceback
