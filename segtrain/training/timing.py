"""Step timer, profiler, checkpoint clock and peak memory."""

from __future__ import annotations

import math
import resource
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from segtrain.config.types import parse_duration
from segtrain.files import whole_file


class StepTimer:
    """Where time goes: adds to `seconds`, by name, the time from each mark to the next.

    On a GPU it is the device's own time, waiting included, and a mark waits for nothing.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]):
        self.on_gpu, self.seconds = device.type == "cuda", seconds
        self.marks: list[tuple[str, Any]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """What `name` stands for has just ended."""
        now: torch.cuda.Event | float
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


class SaveClock:
    """When train.checkpoint_every has passed: so many steps, or so much time."""

    def __init__(self, every: int | str):
        self.steps = every if isinstance(every, int) else None
        self.seconds = math.inf if isinstance(every, int) else parse_duration(every)
        self.start = time.monotonic()

    def counts(self, step: int) -> bool:
        return self.steps is not None and step % self.steps == 0

    def due(self, step: int) -> bool:
        """Whether to save after that step; a time starts anew."""
        if self.steps is not None:
            return self.counts(step)
        due = time.monotonic() - self.start >= self.seconds
        if due:
            self.start = time.monotonic()
        return due
