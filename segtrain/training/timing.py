"""Step timer, profiler, checkpoint clock and peak memory."""

from __future__ import annotations

import math
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from segtrain.config.types import parse_duration
from segtrain.files.whole import whole_file


class StepTimer:
    """Timer of the phases of a step: adds the time between marks to `seconds`, by phase.

    On CUDA it is the device's own time, waiting included, and a mark does not wait. On MPS it is
    the host's, which waits for the device in the last phase.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]):
        self.on_gpu, self.seconds = device.type == "cuda", seconds
        self.marks: list[tuple[str, Any]] = []
        self.mark("")

    def mark(self, phase: str) -> None:
        """Record that a phase has just ended."""
        now: torch.cuda.Event | float
        if self.on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((phase, now))

    def settle(self) -> None:
        """Add the time of all marks to `seconds`; on CUDA, wait for the last one."""
        if self.on_gpu:
            self.marks[-1][1].synchronize()
        for (_, start), (phase, end) in pairwise(self.marks):
            elapsed = start.elapsed_time(end) / 1000 if self.on_gpu else end - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed
        self.marks = self.marks[-1:]  # the next phase starts there


def trace_steps(run: Path, device: torch.device) -> torch.profiler.profile:
    """Return a profiler that writes profile.json of steps 5 to 8: the first ones are slower."""

    def write_trace(profile: torch.profiler.profile) -> None:
        with whole_file(run / "profile.json") as temporary:
            profile.export_chrome_trace(str(temporary))

    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=3, warmup=1, active=4, repeat=1)
    return torch.profiler.profile(
        activities=activities, schedule=schedule, on_trace_ready=write_trace
    )


def measure_peak_memory(device: torch.device) -> int:
    """Return the peak memory so far in bytes: of this process on the GPU, or of the process.

    On MPS it is what Metal holds now: freed memory is kept for later tensors.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # of Unix

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class SaveClock:
    """Clock of train.checkpoint_every: a number of steps, or a time."""

    def __init__(self, every: int | str):
        self.steps = every if isinstance(every, int) else 0
        self.seconds = math.inf if isinstance(every, int) else parse_duration(every)
        self.start = time.monotonic()

    def is_due_by_steps(self, step: int) -> bool:
        """Return whether to save after that step by the number of steps, the same on all ranks."""
        return self.steps > 0 and step % self.steps == 0

    def is_due(self, step: int) -> bool:
        """Return whether to save after that step; if so, a time starts again."""
        if time.monotonic() - self.start < self.seconds:
            return self.is_due_by_steps(step)
        self.start = time.monotonic()
        return True
