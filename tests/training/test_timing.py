"""The step timer, the profile, and the clock of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import QUICK

from segtrain.training.timing import SaveClock, StepTimer


def test_times_of_phases_add_up(monkeypatch):
    now = iter([10.0, 11.0, 13.0, 13.5, 14.0])
    monkeypatch.setattr("segtrain.training.timing.time.perf_counter", lambda: next(now))
    seconds = {"data": 100.0}
    timer = StepTimer(torch.device("cpu"), seconds)
    timer.mark("data")
    timer.mark("forward")
    timer.settle()
    assert seconds == {"data": 101.0, "forward": 2.0}
    timer.mark("data")
    timer.settle()
    timer.settle()
    assert seconds == {"data": 101.5, "forward": 2.0}


def test_a_profile_is_a_trace_of_four_steps(cli, pairs: Path):
    options = "--set train.profile=true --set train.steps_per_epoch=5 --epochs 2 --name r".split()
    assert cli("fit", "--data", pairs, *QUICK, *options).code == 0
    events = json.loads(Path("runs/r/profile.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if "name" in event]
    assert sum(name.startswith("ProfilerStep") for name in names) == 4
    assert any("convolution" in name for name in names)


def test_steps_and_time_between_checkpoints(monkeypatch):
    clock = SaveClock(3)
    assert [step for step in range(1, 10) if clock.is_due(step)] == [3, 6, 9]
    now = [100.0]
    monkeypatch.setattr("segtrain.training.timing.time.monotonic", lambda: now[0])
    clock, due = SaveClock("1min"), []
    assert not clock.is_due_by_steps(3)
    for now[0] in range(120, 300, 20):
        due.append(clock.is_due(1))
    assert due == [False, False, True] * 3
