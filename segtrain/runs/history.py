"""A run's history: metrics.csv and TensorBoard events."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from segtrain.errors import SegtrainError
from segtrain.files import write_csv
from segtrain.runs.folder import HISTORY


class History:
    """A row an epoch, in metrics.csv and as TensorBoard events. Raises SegtrainError.

    Events are written here and now: SummaryWriter's thread could not tell of a full disk.
    """

    def __init__(self, run: Path, epochs_done: int):
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        self.table, self.events = run / HISTORY, run / name
        first = [Event(file_version="brain.Event:2")]
        if epochs_done:  # those of a try that was lost go
            restart = SessionLog(status=SessionLog.START)
            first.append(Event(step=epochs_done + 1, session_log=restart))
        self._write(first)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """All rows so far, of which the last one is new."""
        write_csv(self.table, rows)
        values = {k: v for k, v in rows[-1].items() if k != "epoch" and v is not None}
        summaries = [scalar(name, value) for name, value in values.items()]
        self._write([Event(step=rows[-1]["epoch"], summary=summary) for summary in summaries])

    def _write(self, events: list[Event]) -> None:
        try:
            with open(self.events, "ab") as file:
                records = RecordWriter(file)
                for event in events:
                    event.wall_time = time.time()
                    records.write(event.SerializeToString())
        except OSError as error:
            raise SegtrainError(f"cannot write {self.events}: {error.strerror or error}") from error
