"""A tracked run has a process of its own: what it gets, and that its faults end no training."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from running import alive, wait_for
from stand_in_trackers import Tracked, install_stand_ins

from segtrain.config import Config, TrainConfig
from segtrain.errors import Stopped, UsageError
from segtrain.runs import trackers
from segtrain.runs.trackers import Tracker, refuse_missing_tracker

PICTURE = Image.new("RGB", (4, 2))


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch) -> Tracked:
    monkeypatch.setattr(trackers, "WAIT_SECONDS", 20.0)
    monkeypatch.setattr(trackers, "QUIET_SECONDS", 0.5)
    return install_stand_ins(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "r/checkpoints").mkdir(parents=True)
    (tmp_path / "r/checkpoints/best.safetensors").write_bytes(b"weights")
    return tmp_path / "r"


def make_tracker(name: str, **fields: object) -> Tracker:
    return Tracker(TrainConfig(track=name, **fields))


def track_something(tracker: Tracker, run: Path) -> list[str]:
    """Track a run of one epoch; return what it printed."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch, tracker:
        patch.setattr(trackers, "write", lines.append)
        tracker.start(run, Config(), lines.append)
        tracker.log(2, {"loss": 0.5})
        tracker.show(4, [("a", PICTURE), ("b", PICTURE)])
        tracker.log(4, {"val_iou/a (b)": 0.25, "val_miou": None})
    return lines


def test_wandb_gets_it_all(tracked: Tracked, run: Path):
    lines = track_something(make_tracker("wandb", track_checkpoint=True), run)
    assert [call[0] for call in tracked.read()] == [
        *("login", "init", "config", "define_metric", "log", "log", "log", "log_artifact"),
        "finish",
    ]
    assert tracked.calls("init") == [
        ([], {"name": "r", "dir": str(run), "id": None, "resume": "allow"})
    ]
    ((config,), _) = tracked.calls("config")[0]
    assert config == Config().model_dump(mode="json")
    images = [{"caption": caption, "size": [4, 2]} for caption in "ab"]
    assert tracked.calls("log") == [
        ([{"loss": 0.5}], {"step": 2}),
        ([{"worst": images}], {"step": 4}),
        ([{"val_iou/a (b)": 0.25}], {"step": 4}),
    ]
    best = str(run / "checkpoints/best.safetensors")
    assert tracked.calls("log_artifact") == [([best, "new-id-best", "model", ["best"]], {})]
    assert tracked.calls("finish") == [([], {"exit_code": 0})]
    assert lines == [f"wandb: offline; 'wandb sync {run}/offline' uploads it"]


def test_mlflow_gets_it_all(tracked: Tracked, run: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:pass@word@host/x")
    lines = track_something(make_tracker("mlflow", track_checkpoint=True), run)
    assert lines == ["mlflow: r in https://host/x"]
    params = tracked.calls("log_params")[0][0][0]
    assert params["train.epochs"] == 50 and len(params) > 90
    assert tracked.calls("log_dict")[0][0] == [Config().model_dump(mode="json"), "config.yaml"]
    assert tracked.calls("log_metrics") == [
        ([{"loss": 0.5}, 2], {}),
        ([{"val_iou/a _b_": 0.25}, 4], {}),
    ]
    assert [given["key"] for _, given in tracked.calls("log_image")] == ["worst_1", "worst_2"]
    assert tracked.calls("log_artifact")[0][0][1] == "checkpoints"
    assert tracked.calls("end_run") == [(["FINISHED"], {})]


@pytest.mark.parametrize("name, begin", [("wandb", "init"), ("mlflow", "start_run")])
def test_a_resumed_run_goes_on_in_its_own(tracked: Tracked, run: Path, name: str, begin: str):
    for _ in range(2):
        track_something(make_tracker(name), run)
    ids = [given.get("id", args and args[0]) for args, given in tracked.calls(begin)]
    assert ids == [None, "new-id"]
    assert json.loads((run / "tracked_run.json").read_text()) == {"tracker": name, "id": "new-id"}
    other = {"wandb": "mlflow", "mlflow": "wandb"}[name]
    track_something(make_tracker(other), run)  # not the id of the other tracker
    assert "new-id" not in [value for call in tracked.read()[-8:] for value in call[1]]
    for damaged in (b"{", b"[1]", b"\xff", b'{"tracker": 3}'):
        (run / "tracked_run.json").write_bytes(damaged)
        assert len(track_something(make_tracker(name), run)) == 1


@pytest.mark.parametrize(
    "kind, code, status",
    [(None, 0, "FINISHED"), (Stopped, 1, "KILLED"), (ValueError, 1, "FAILED")],
)
def test_the_end_of_a_run_is_known(
    tracked: Tracked, run: Path, kind: type | None, code: int, status: str
):
    for name in ("wandb", "mlflow"):
        tracker = make_tracker(name)
        tracker.start(run, Config(), lambda line: None)
        tracker.__exit__(kind)
    assert tracked.calls("finish") == [([], {"exit_code": code})]
    assert tracked.calls("end_run") == [([status], {})]
    assert not tracked.calls("log_artifact")  # train.track_checkpoint is off


def test_a_killed_training_ends_its_run(tracked: Tracked, run: Path):
    tracker = make_tracker("mlflow")
    tracker.start(run, Config(), lambda line: None)
    tracker.pipe.close()  # as the system does
    tracker.process.join(20)
    assert tracked.read()[-1] == ["end_run", ["KILLED"], {}]


def test_signals_to_all_processes_leave_it_alone(tracked: Tracked, run: Path):
    with make_tracker("mlflow") as tracker:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(tracker.process.pid, signum)
        assert not track_something(tracker, run)[1:]
    assert tracked.read()[-1][0] == "end_run"


@pytest.mark.parametrize("fault", ["raise login", "die login"])
def test_without_a_login_nothing_begins(tracked: Tracked, fault: str, monkeypatch):
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(UsageError, match="train.track: wandb: .*log in.*track=none") as refused:
        make_tracker("wandb")
    text = str(refused.value)
    assert "\n" not in text and "secret" not in text
    assert "https://host/api" in text if "raise" in fault else "ended" in text


@pytest.mark.parametrize(
    "code, server, refused",
    [
        ("UNAUTHENTICATED", "https://host", True),
        ("PERMISSION_DENIED", "https://host", True),
        ("INTERNAL_ERROR", "https://host", False),  # it may answer later
        ("INTERNAL_ERROR", "databricks", True),
    ],
)
def test_a_server_that_refuses_is_no_server_that_is_away(
    tracked: Tracked, code: str, server: str, refused: bool, monkeypatch
):
    monkeypatch.setenv("CODE", code)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    if refused:
        with pytest.raises(UsageError, match="mlflow: refused"):
            make_tracker("mlflow")
    else:
        with make_tracker("mlflow"):
            pass


@pytest.mark.parametrize("how", ["raise", "die", "hang"])
@pytest.mark.parametrize("name", ["init", "log", "log_artifact", "finish"])
def test_a_fault_is_one_note(tracked: Tracked, run: Path, how: str, name: str, monkeypatch):
    monkeypatch.setenv("FAULT", f"{how} {name}")
    tracker = make_tracker("wandb", track_checkpoint=True)
    monkeypatch.setattr(trackers, "WAIT_SECONDS", 1.0)
    start = time.monotonic()
    lines = track_something(tracker, run)
    assert time.monotonic() - start < 10 and not alive(tracker.process.pid or 0)
    (note,) = [line for line in lines if line.startswith("note: ")]
    reason = {"raise": "no way to https://host/api", "die": "ended", "hang": "in time"}[how]
    assert reason in note and "metrics.csv" in note and "\n" not in note
    after = [call[0] for call in tracked.read()]
    if how == "raise" and name != "init":  # the rest arrives
        assert after[-1] == "finish" and after.count("log") == 3
    elif name == "init":
        assert after[-1] in ("init", "define_metric", "finish", "log")


def test_a_server_that_hangs_is_waited_for_once(tracked: Tracked, run: Path, monkeypatch):
    monkeypatch.setenv("FAULT", "hang login")
    monkeypatch.setattr(trackers, "WAIT_SECONDS", 1.0)
    lines: list[str] = []
    monkeypatch.setattr(trackers, "write", lines.append)
    with make_tracker("wandb") as tracker:
        (note,) = lines
        assert note.startswith("note: wandb: no answer in 1 s")
        tracker.start(run, Config(), lines.append)
        start = time.monotonic()
        for step in range(1000):
            tracker.log(step, {"loss": 0.5})
            tracker.show(step, [("a", PICTURE)])
        assert time.monotonic() - start < 1
        assert sum(call[0] == "show" for call in tracker.waiting) == 1
    assert lines == [note, "wandb: waiting for it, at most 1 s"]


@pytest.mark.parametrize("slow", [False, True])
def test_without_a_start_nothing_is_tracked(tracked: Tracked, run: Path, slow: bool, monkeypatch):
    """MLflow would begin another run for the first value."""
    monkeypatch.setenv("FAULT", "raise start_run")
    with make_tracker("mlflow") as tracker:
        lines: list[str] = []
        tracker.is_busy = slow  # as if the server hadn't answered yet: all is sent together
        tracker.start(run, Config(), lines.append)
        tracker.log(1, {"loss": 0.5})
        tracker.is_busy &= not slow
        wait_for(lambda: tracker.log(2, {"loss": 0.25}) or lines, 20)
    assert [call[0] for call in tracked.read()] == ["search_experiments", "start_run"]


def test_what_waits_arrives_later(tracked: Tracked, run: Path, monkeypatch):
    """In order, all of it, once the process answers."""
    tracker = make_tracker("wandb")
    os.kill(tracker.process.pid, signal.SIGSTOP)
    tracker.start(run, Config(), lambda line: None)
    for step in range(50):
        tracker.log(step, {"loss": step / 8})
    assert not tracked.calls("log")
    os.kill(tracker.process.pid, signal.SIGCONT)
    with tracker:
        wait_for(lambda: tracker.log(50, {"end": 1}) or tracked.calls("log"), 20)
    logged = [args[0]["loss"] for args, _ in tracked.calls("log") if "loss" in args[0]]
    assert logged == [step / 8 for step in range(50)]


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # as wandb leaves in the current folder: no package
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr("sys.path_importer_cache", {})
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # timm imports wandb
        with pytest.raises(UsageError, match=rf"{name} is not .* 'segtrain-cli\[{name}\]'.*none"):
            refuse_missing_tracker(name)
    refuse_missing_tracker("none")


def test_no_tracker_is_no_process(run: Path):
    for make in (Tracker, lambda: Tracker(None), lambda: Tracker(TrainConfig())):
        assert track_something(make(), run) == []
        assert not (run / "tracked_run.json").exists()
