"""Tracking of a run in Weights & Biases or MLflow, which the training doesn't wait for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL.Image import Image

from segtrain.config import Config, TrainConfig
from segtrain.console import Note, format_duration, write
from segtrain.errors import SegtrainError, Stopped, UsageError, first_line, translate_errors
from segtrain.files.whole import save_json
from segtrain.runs.folder import BEST, TRACKED
from segtrain.runs.tracker_process import WAIT_SECONDS, Answer, Call, serve_calls
from segtrain.version import DISTRIBUTION

QUIET_SECONDS = 2.0  # at the end, before it is said what is waited for
UPLOAD_SPEED = 1e6  # bytes a second that an upload of a checkpoint is given time for


def refuse_missing_tracker(name: str) -> None:
    """Raise UsageError where the package of train.track is not installed."""
    spec = None if name == "none" else find_spec(name)
    if name != "none" and not (spec and spec.origin):  # a folder wandb/ is no package
        raise UsageError(
            f"train.track: {name} is not installed; pip install '{DISTRIBUTION}[{name}]', or take "
            "train.track=none"
        )


class Tracker:
    """The twin of a run in a tracker; without a tracker it does nothing.

    What is to be tracked waits here until the process has answered what it got before: nothing
    waits for a server, and nothing is lost while one is slow. The first failure is a note, the
    others are not printed. A context manager: at its end WAIT_SECONDS are left for the rest.
    """

    def __init__(self, train: TrainConfig | None = None):
        """Raise UsageError without a login. A server is waited for WAIT_SECONDS at most."""
        self.name, self.keeps_best = "none", False
        if train:
            self.name, self.keeps_best = train.track, train.track_checkpoint
        self.write: Callable[[str], None] = write
        self.run: Path | None = None
        self.waiting: list[Call] = []
        self.is_running = self.is_busy = self.is_tracked = self.has_failed = False
        if self.name != "none":
            self._start_process()

    def _start_process(self) -> None:
        context = get_context("spawn")  # the same everywhere, whatever threads there are
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_calls, args=(self.name, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that each end sees when the other one's process ends
        self.is_running, self.waiting = True, [("check",)]
        answer = self._exchange(0) | self._exchange(WAIT_SECONDS)
        if failure := answer.get("failure"):
            self._end_process()
            advice = "log in, or set up its offline mode, or take train.track=none"
            raise UsageError(f"train.track: {self.name}: {failure}; {advice}")
        if self.is_busy:
            self._note_failure(f"no answer in {WAIT_SECONDS:.0f} s")

    def start(self, run: Path, config: Config, write: Callable[[str], None]) -> None:
        """Begin the tracked run, or go on with the one that the run's folder names."""
        self.run, self.write, run_id = run, write, None
        with suppress(SegtrainError), translate_errors(first_line):  # a new run, or a damaged file
            record = json.loads((run / TRACKED).read_text(encoding="utf-8"))
            run_id = record["id"] if record["tracker"] == self.name else None
        self._call("start", run.absolute(), config.model_dump(mode="json"), run_id)

    def log(self, step: int, values: dict[str, float | None]) -> None:
        """Track values at a step, counted over the training."""
        self._call("log", step, {key: value for key, value in values.items() if value is not None})

    def show(self, step: int, pictures: list[tuple[str, Image]]) -> None:
        """Track pictures with their titles at a step; earlier ones that wait are dropped."""
        self.waiting = [call for call in self.waiting if call[0] != "show"]  # they are large
        self._call("show", step, pictures)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.write = write
        try:
            if self.run:
                stopped = kind is not None and issubclass(kind, Stopped)
                self._finish("KILLED" if stopped else "FAILED" if kind else "FINISHED")
        finally:
            self._end_process()

    def _finish(self, status: str) -> None:
        assert self.run
        best, seconds = self.run / BEST, WAIT_SECONDS
        if self.keeps_best and best.is_file():
            seconds += best.stat().st_size / UPLOAD_SPEED
            self._call("keep", best.absolute())
        self._call("end", status)
        if self._wait(QUIET_SECONDS):
            self.write(f"{self.name}: waiting for it, at most {format_duration(seconds)}")
            if self._wait(seconds):
                self._note_failure("it did not take everything in time")

    def _wait(self, seconds: float) -> bool:
        """Return whether something is left after so many seconds."""
        end = time.monotonic() + seconds
        while self.is_running and self.is_busy and (left := end - time.monotonic()) > 0:
            self._read(self._exchange(left))
        return self.is_running and self.is_busy

    def _end_process(self) -> None:
        if self.name != "none":
            self.is_running = False
            self.process.kill()
            self.process.join()
            self.pipe.close()

    def _call(self, *call: Any) -> None:
        if self.is_running:
            self.waiting.append(call)
            self._read(self._exchange(0))

    def _exchange(self, seconds: float) -> Answer:
        """Return the answer to the last calls, {} if there is none yet; then send what waits."""
        answer: Answer = {}
        try:
            if self.is_busy and self.pipe.poll(seconds):
                answer, self.is_busy = self.pipe.recv(), False
            if self.waiting and not self.is_busy:  # it is reading, so this doesn't wait
                self.pipe.send(self.waiting)
                self.waiting, self.is_busy = [], True
        except (EOFError, OSError):
            self.is_running, answer = False, {"failure": "its process has ended"}
        return answer

    def _read(self, answer: Answer) -> None:
        if "id" in answer and self.run:
            self.is_tracked = True
            self.write(f"{self.name}: {answer['place']}")
            with suppress(SegtrainError):  # a full disk ends the run elsewhere
                save_json(self.run / TRACKED, {"tracker": self.name, "id": answer["id"]})
        if "failure" in answer:
            self._note_failure(answer["failure"])
            self.is_running &= self.is_tracked  # what wasn't begun takes nothing

    def _note_failure(self, failure: str) -> None:
        if not self.has_failed:
            self.has_failed = True
            end = "the training goes its way, and metrics.csv has all scores"
            self.write(str(Note(f"{self.name}: {failure}; {end}", "note")))
