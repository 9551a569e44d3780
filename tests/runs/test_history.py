"""A run's history, as a table and as TensorBoard reads it."""

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.errors import SegtrainError
from segtrain.runs.history import History


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_tensorboard_reads_what_is_written(tmp_path: Path):
    history, rows = History(tmp_path, 0), []
    for epoch in (1, 2, 3):
        rows.append({"epoch": epoch, "loss": 1 / epoch, "val_miou": None if epoch < 2 else 0.5})
        history.add(rows)
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert scalars(tmp_path, "val_miou") == [(2, 0.5), (3, 0.5)]
    # another process goes on after epoch 1: what the lost one wrote of epochs 2 and 3 goes
    time.sleep(1.1)  # files are read in the order of the second in their names
    resumed = History(tmp_path, 1)
    resumed.add([*rows[:1], {"epoch": 2, "loss": 0.25, "val_miou": 0.75}])
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.25)]
    assert scalars(tmp_path, "val_miou") == [(2, 0.75)]


def test_events_that_cannot_be_written_are_one_sentence(tmp_path: Path):
    with pytest.raises(SegtrainError, match="cannot write .*events.out.tfevents"):
        History(tmp_path / "gone", 0)
