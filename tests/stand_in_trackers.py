"""Stand-ins for wandb and mlflow: each call becomes a line of JSON, and one can be made to fail."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

RECORD = """
import json, os, pathlib, time
from types import SimpleNamespace

def record(name, /, *args, **given):
    with open(os.environ["TRACKED"], "a") as file:
        print(json.dumps([name, args, given], default=vars), file=file)
    how, _, which = os.environ.get("FAULT", "").partition(" ")
    if which != name or not how:
        return
    if how == "raise":
        raise RuntimeError("no way to https://me:secret@host/api, code 500\\nsecond line")
    os._exit(7) if how == "die" else time.sleep(600)
"""
WANDB = """
class Run:
    def __init__(self, run_id, folder):
        self.id, self.dir, self.url = run_id or "new-id", folder + "/offline/files", None
        self.config = SimpleNamespace(update=lambda *args, **given: record("config", *args))
        for name in ("log", "log_artifact", "finish", "define_metric"):
            setattr(self, name, lambda *args, _name=name, **given: record(_name, *args, **given))

def Settings(**given):
    return given

def Image(picture, caption):
    return {"caption": caption, "size": picture.size}

def setup(settings):
    pass

def login(**given):
    record("login")

def init(**given):
    record("init", **given)
    return Run(given["id"], given["dir"])
"""
MLFLOW = """
class MlflowException(Exception):
    error_code = os.environ.get("CODE")

def get_tracking_uri():
    return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

def search_experiments(max_results):
    record("search_experiments")
    if os.environ.get("CODE"):
        raise MlflowException("refused")

def start_run(run_id, run_name):
    record("start_run", run_id, run_name)
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new-id", run_name=run_name))

def log_image(picture, **given):
    record("log_image", **given)

def __getattr__(name):
    return lambda *args, **given: record(name, *args, **given)
"""


@dataclass
class Tracked:
    """What a stand-in has been called with."""

    file: Path

    def calls(self, name: str) -> list[tuple[list[Any], dict[str, Any]]]:
        """Return positional and named arguments of each call of a function."""
        return [(args, given) for called, args, given in self.read() if called == name]

    def read(self) -> list[list[Any]]:
        """Return all calls: name, positional and named arguments."""
        lines = self.file.read_text().splitlines(True) if self.file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # else being written


def install_stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    """Put the stand-ins before all packages, for child processes too."""
    library = folder / "stand-ins"
    library.mkdir()
    for name, text in (("wandb", WANDB), ("mlflow", MLFLOW)):
        (library / f"{name}.py").write_text(RECORD + text)
        spec = spec_from_file_location(name, library / f"{name}.py")
        assert spec and spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, name, module)  # timm imports wandb, and it would stay
    monkeypatch.syspath_prepend(library)
    monkeypatch.setenv("TRACKED", str(folder / "calls.jsonl"))
    for name in ("FAULT", "CODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return Tracked(folder / "calls.jsonl")
