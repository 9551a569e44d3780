"""The process that tracks a run: calls come through a pipe and go to Weights & Biases or MLflow.

Only it imports them: no server that hangs, no thread and no signal of theirs reaches the training.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from PIL.Image import Image

from segtrain.errors import SegtrainError, first_line, translate_errors

WAIT_SECONDS = 30.0  # for an answer before the training, and for the rest after it
PROJECTS = {"WANDB_PROJECT": "segtrain", "MLFLOW_EXPERIMENT_NAME": "segtrain"}
SIGNALS = {"SIGINT", "SIGTERM", "SIGUSR1"}  # a terminal or scheduler sends them to all processes
PASSWORD = re.compile(r"(?<=//)[^/\s]+@")  # in the address of a server

Call = tuple[Any, ...]  # a method's name and its arguments
Answer = dict[str, str]  # what there is of: id and place of the tracked run, failure


class WandbRun:
    """A run of Weights & Biases."""

    def check(self) -> None:
        """Raise an exception without a login, where WANDB_MODE needs one; no server is asked."""
        import wandb

        self.wandb = wandb
        wandb.setup(wandb.Settings(silent=True, console="off"))
        wandb.login(verify=False)

    def start(self, run: Path, config: dict[str, Any], run_id: str | None) -> Answer:
        """Begin a run, or go on with that of `run_id`; return its id and place."""
        self.run = self.wandb.init(name=run.name, dir=str(run), id=run_id, resume="allow")
        self.run.config.update(config, allow_val_change=True)
        self.run.define_metric("val_*", summary="max")
        upload = f"offline; 'wandb sync {Path(self.run.dir).parent}' uploads it"
        return {"id": self.run.id, "place": self.run.url or upload}

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add values at a step; those of steps that a resumed run repeats are ignored."""
        self.run.log(values, step=step)

    def show(self, step: int, pictures: list[tuple[str, Image]]) -> None:
        """Add pictures with their titles at a step."""
        worst = [self.wandb.Image(picture, caption=title) for title, picture in pictures]
        self.run.log({"worst": worst}, step=step)

    def keep(self, file: Path) -> None:
        """Store a checkpoint as an artifact, in a new version if there is one."""
        self.run.log_artifact(str(file), f"{self.run.id}-{file.stem}", "model", [file.stem])

    def end(self, status: str) -> None:
        """End the run as FINISHED, KILLED or FAILED, once all is uploaded."""
        self.run.finish(exit_code=int(status != "FINISHED"))


class MlflowRun:
    """A run of MLflow."""

    def check(self) -> None:
        """Raise an exception without a login, or for a store that can't be used."""
        import mlflow

        self.mlflow = mlflow
        try:
            mlflow.search_experiments(max_results=1)
        except mlflow.MlflowException as error:
            refused = error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED")
            if refused or not mlflow.get_tracking_uri().startswith("http"):
                raise  # else a server that may answer later

    def start(self, run: Path, config: dict[str, Any], run_id: str | None) -> Answer:
        """Begin a run, or go on with that of `run_id`; return its id and place."""
        info = self.mlflow.start_run(run_id, run_name=run.name).info
        if run_id is None:  # they can't change
            fields = {f"{name}.{key}": v for name in config for key, v in config[name].items()}
            self.mlflow.log_params(fields)
        self.mlflow.log_dict(config, "config.yaml")
        return {"id": info.run_id, "place": f"{info.run_name} in {self.mlflow.get_tracking_uri()}"}

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add values at a step, under names that MLflow allows."""
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}
        self.mlflow.log_metrics(named, step)

    def show(self, step: int, pictures: list[tuple[str, Image]]) -> None:
        """Add pictures at a step; their titles are painted in them."""
        for rank, (_, picture) in enumerate(pictures, 1):
            self.mlflow.log_image(picture, key=f"worst_{rank}", step=step, synchronous=True)

    def keep(self, file: Path) -> None:
        """Store a checkpoint as an artifact, in place of an earlier one."""
        self.mlflow.log_artifact(str(file), file.parent.name)

    def end(self, status: str) -> None:
        """End the run as FINISHED, KILLED or FAILED."""
        self.mlflow.end_run(status)


TRACKERS = {"wandb": WandbRun, "mlflow": MlflowRun}


def serve_calls(name: str, pipe: Connection) -> None:
    """Do the calls that come through the pipe, in lists, and answer each list; to the call of end.

    The end of the pipe is that of the training, as by a kill.
    """
    for known in SIGNALS & vars(signal).keys():  # the training decides when to end
        signal.signal(getattr(signal, known), signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # packages write to them, and ask a terminal for a login
        os.dup2(null, stream)
    for variable, project in PROJECTS.items():
        os.environ.setdefault(variable, project)
    tracked, calls, has_begun = TRACKERS[name](), list[Call](), True
    while not calls or calls[-1][0] != "end":
        try:
            calls = pipe.recv()
        except (EOFError, OSError):
            calls = [("end", "KILLED")]
            threading.Timer(WAIT_SECONDS, os._exit, [1]).start()  # a server may hang
        answer: Answer = {}
        for method, *arguments in calls if has_begun else ():
            try:
                with translate_errors(first_line):
                    answer |= getattr(tracked, method)(*arguments) or {}
            except SegtrainError as error:
                answer.setdefault("failure", str(error))
                if method == "start":  # MLflow would begin another run by itself
                    has_begun = False
                    break
        with suppress(OSError):
            pipe.send({key: PASSWORD.sub("", text) for key, text in answer.items()})
    os._exit(0)  # what the packages do at the end could wait for a server
