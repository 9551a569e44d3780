"""A run's history, as a table and as TensorBoard reads it."""

import subprocess
import sys
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
    rows = []
    with History(tmp_path, 0) as history:
        for epoch in (1, 2, 3):
            rows.append({"epoch": epoch, "loss": 1 / epoch, "val_miou": None if epoch < 2 else 0.5})
            history.add(rows)
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert scalars(tmp_path, "val_miou") == [(2, 0.5), (3, 0.5)]
    # another process resumes after epoch 1: the events of epochs 2 and 3 disappear
    time.sleep(1.1)  # files are read in the order of the second in their names
    with History(tmp_path, 1) as resumed:
        resumed.add([*rows[:1], {"epoch": 2, "loss": 0.25, "val_miou": 0.75}])
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.25)]
    assert scalars(tmp_path, "val_miou") == [(2, 0.75)]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(SegtrainError, match="cannot write .*events.out.tfevents"):
        History(tmp_path / "run", 0)


LIMITED = """
import resource, sys, threading, time
from pathlib import Path
from segtrain.errors import SegtrainError
from segtrain.runs.history import History
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
start = time.monotonic()
try:
    with History(Path(sys.argv[1]), 0) as history:
        for epoch in range(1, 100):
            history.add([{"epoch": epoch} | {f"value{i}": 0.5 for i in range(10)}])
except SegtrainError as error:
    print(error)
print(epoch, time.monotonic() - start, threading.active_count())
"""


def test_a_file_that_cannot_grow_is_one_line_at_once(tmp_path: Path):
    """The writer's thread fails; its traceback is not printed, and nothing waits for it."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    error, last = done.stdout.splitlines()
    assert error == f"cannot write {tmp_path}/events.out.tfevents.*: File too large"
    epoch, seconds, threads = map(float, last.split())
    assert 2 < epoch < 20 and seconds < 4 and threads == 1
    assert scalars(tmp_path, "value0")[0] == (1, 0.5)
