"""What a run leaves behind."""

import json
import time
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.config import Config
from segtrain.errors import SegtrainError, UsageError
from segtrain.files import write_csv
from segtrain.runs.folder import create_run
from segtrain.runs.history import History
from segtrain.training.timing import Laps


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


def test_a_table_has_the_columns_of_all_its_rows(tmp_path: Path):
    """An epoch whose observed steps were all skipped lacks what its loss would have said."""
    write_csv(tmp_path / "t.csv", [{"epoch": 1, "lr": None}, {"epoch": 2, "lr": 0.1, "loss/ce": 3}])
    assert (tmp_path / "t.csv").read_text() == "epoch,lr,loss/ce\n1,,\n2,0.1,3\n"


def test_events_that_cannot_be_written_are_one_sentence(tmp_path: Path):
    with pytest.raises(SegtrainError, match="cannot write .*events.out.tfevents"):
        History(tmp_path / "gone", 0)


def test_a_folder_appears_with_its_config(tmp_path: Path, monkeypatch):
    run = create_run(tmp_path, "r", Config())
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    with pytest.raises(UsageError, match="exists"):
        create_run(tmp_path, "r", Config())

    def full(*_: object) -> None:
        raise SegtrainError("cannot write: no space")

    monkeypatch.setattr("segtrain.runs.folder.save_config", full)
    with pytest.raises(SegtrainError, match="no space"):
        create_run(tmp_path, "other", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_laps_add_up(monkeypatch):
    now = iter([10.0, 11.0, 13.0, 13.5, 14.0])
    monkeypatch.setattr("segtrain.training.timing.time.perf_counter", lambda: next(now))
    seconds = {"data": 100.0}
    laps = Laps(torch.device("cpu"), seconds)
    laps.mark("data")
    laps.mark("forward")
    laps.settle()
    assert seconds == {"data": 101.0, "forward": 2.0}
    laps.mark("data")
    laps.settle()
    laps.settle()
    assert seconds == {"data": 101.5, "forward": 2.0}


def test_a_profile_is_a_trace_of_four_steps(cli, pairs: Path):
    options = "--set train.profile=true --set train.steps_per_epoch=5 --epochs 2 --name r".split()
    assert cli("fit", "--data", pairs, *QUICK, *options).code == 0
    events = json.loads(Path("runs/r/profile.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if "name" in event]
    assert sum(name.startswith("ProfilerStep") for name in names) == 4
    assert any("convolution" in name for name in names)
