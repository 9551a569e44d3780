"""What a run leaves behind: its folder and its history."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from segtrain.config import Config
from segtrain.config.loading import save_config
from segtrain.errors import SegtrainError, UsageError, listing
from segtrain.files import whole_file, write_text
from segtrain.runs.folders import BEST, CONFIG, HISTORY, LATEST
from segtrain.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "albumentations",
    "lightning-fabric",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
)


def default_name(arch: str, loss: str) -> str:
    """Date, time, arch and loss, as a file name."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{arch}-{safe_name(loss)}"[:100]


def safe_name(loss: str) -> str:
    """A loss expression as part of a file name."""
    return "".join(c if c.isalnum() or c in "+.-" else "_" for c in loss.replace(" ", ""))


def refuse_name(out: Path, name: str) -> None:
    """Raises UsageError where OUT/NAME exists, or can't be a run's folder."""
    if name in (".", "..", LATEST) or Path(name).name != name:
        raise UsageError(f"--name {name}: expected a plain folder name other than {LATEST}")
    if (out / name).exists():
        raise UsageError(f"--name: {out / name} exists; take another name, or --resume {name}")


def create_run(out: Path, name: str, config: Config) -> Path:
    """Makes OUT/NAME with its config, both or neither. Raises UsageError where it exists."""
    refuse_name(out, name)
    run, temporary = out / name, out / f".tmp-{os.getpid()}-{name}"
    try:
        temporary.mkdir(parents=True)
        save_config(config, temporary / CONFIG)
        os.rename(temporary, run)
    except OSError as error:
        raise SegtrainError(f"cannot make {run}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return run


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Nobody else trains in the run's folder meanwhile. Raises UsageError where somebody does.

    The lock goes with the process, however that ends; a file system without locks is let be.
    """
    folder = os.open(run, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"{run}: another process is training it") from error
        yield
    finally:
        os.close(folder)


def point_latest(run: Path) -> None:
    """OUT/latest becomes a link to the run; a file system without links is let be."""
    link = run.parent / LATEST
    temporary = run.parent / f".{LATEST}-{os.getpid()}"
    try:
        temporary.symlink_to(run.name)
        os.replace(temporary, link)
    except OSError:
        temporary.unlink(missing_ok=True)


def latest_run(out: Path) -> Path:
    """The run that OUT/latest points at. Raises UsageError where there is none."""
    if not (out / LATEST).is_dir():
        runs = [file.parent.name for file in sorted(out.glob(f"*/{CONFIG}"))]
        if runs:
            raise UsageError(f"{out / LATEST} leads to no run; name one of {listing(runs, 8)}")
        raise UsageError(
            f"no run in {out}; train one with 'segtrain fit', or name a run or checkpoint"
        )
    return (out / LATEST).resolve()


def find_checkpoint(target: Path | None, out: Path) -> Path:
    """The checkpoint that a command means: a file, a run's best one, or the latest run's.

    A run is named by its folder, or by its name in `out`.
    """
    run = target if target else latest_run(out)
    run = out / run if not run.exists() and (out / run).is_dir() else run
    if run.is_dir():
        if not (run / BEST).is_file():
            raise UsageError(f"{run}: no {BEST} in it; is it a run, and did its first epoch end?")
        return run / BEST
    if not run.exists():
        raise UsageError(f"{run}: no such run or checkpoint, here or in {out}")
    return run


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in; its own folder where it was moved out of one."""
    in_run = checkpoint.parent.name == BEST.parent.name
    return checkpoint.parent.parent if in_run else checkpoint.parent


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and git commit: what a number needs beside it to be believed."""
    on_gpu = device.type == "cuda"
    return {
        "segtrain": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": packages(),
        "platform": platform.platform(),
        "device": device.type,
        "device_name": device_name(device),
        "cuda": torch.version.cuda if on_gpu else None,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
        "started": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
    }


def packages() -> dict[str, str | None]:
    """Versions of what a run's numbers depend on."""
    return {package: _version(package) for package in PACKAGES}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Of segtrain's own checkout; None for an installed package."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        tracked = subprocess.run(
            [*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == tracked.returncode == 0 else None


def note_start(file: Path, found: dict[str, Any]) -> None:
    """Writes the environment of a run's first start; those of its resumes go to `resumed` in it."""
    if file.exists():
        first = json.loads(file.read_text(encoding="utf-8"))
        found = first | {"resumed": [*first.get("resumed", []), found]}
    write_json(file, found)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A header and the rows, None as an empty field, and what a row lacks, too."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


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


class Laps:
    """Where time goes: adds to `seconds`, by name, the time from each mark to the next.

    On a GPU it is the device's own time, waiting included, and a mark waits for nothing.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]):
        self.on_gpu, self.seconds = device.type == "cuda", seconds
        self.marks: list[tuple[str, Any]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """What `name` stands for has just ended."""
        if self.on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((name, now))

    def settle(self) -> None:
        """Adds up all marks; on a GPU it waits for the last one."""
        if self.on_gpu:
            self.marks[-1][1].synchronize()
        for (_, start), (name, end) in pairwise(self.marks):
            took = start.elapsed_time(end) / 1000 if self.on_gpu else end - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.marks = self.marks[-1:]


def profiler(run: Path, device: torch.device) -> torch.profiler.profile:
    """Writes profile.json of four steps, after four: the first ones are not like the others."""

    def write(profile: torch.profiler.profile) -> None:
        with whole_file(run / "profile.json") as temporary:
            profile.export_chrome_trace(str(temporary))

    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=3, warmup=1, active=4, repeat=1)
    return torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write)


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use so far: of the GPU by this process, or of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
