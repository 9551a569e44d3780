"""Class ids of low-resolution logits: by rows, as evaluation reads them, and interpolated at once.

Part of benchmarks/evaluate.py. The logits stand for those of a DeepLabV3+ head: a quarter of
1024x2048 pixels in channels_last. Peaks are above them, each in a process of its own.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from losses import memory_kib
from torch import Tensor

from segtrain.config import EvalConfig
from segtrain.evaluation.prediction import join_bands
from segtrain.metrics.calibration import Calibration
from segtrain.models.inference import predict_bands
from segtrain.models.upsampling import upsample, upsample_later

SIZE, FACTOR, CLASSES = (1024, 2048), 4, (19, 150)
METHODS = {"at once": upsample, "by rows": upsample_later}


def scoring(classes: int, method: str, calibrated: bool) -> Callable[[], Tensor]:
    """Return a function that returns class ids (1,H,W), as evaluation computes them."""
    cells = [side // FACTOR for side in SIZE]
    low = torch.randn(1, classes, *cells, generator=torch.Generator().manual_seed(0))
    low = low.contiguous(memory_format=torch.channels_last)
    image = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    target = torch.zeros(1, *SIZE, dtype=torch.uint8)

    def score() -> Tensor:
        def network(_: Tensor):
            return METHODS[method](low, FACTOR, True, SIZE)

        bands = predict_bands(network, image, EvalConfig())
        return join_bands(bands, target, 255, None, Calibration() if calibrated else None)[0]

    return score


def peak_mb(classes: int, method: str, calibrated: bool, threads: int) -> float:
    """Return the peak above what the process holds before, in MB."""
    torch.set_num_threads(threads)
    score, libc = scoring(classes, method, calibrated), ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD, fixed: freed memory leaves the process
    score()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory_kib("VmRSS")
    score()
    return (memory_kib("VmHWM") - before) * 1.024 / 1000


def peak_in_fresh_process(*args: object) -> float:
    """Return peak_mb of a new interpreter: a forkserver that loaders used would have their heap."""
    command = [sys.executable, __file__, *map(str, args)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def measure_upsampling(rounds: int, threads: int) -> list[dict]:
    """Return a row for each number of classes and each pass: peaks, times, and equality."""
    rows = []
    for classes in CLASSES:
        for calibrated in (False, True):
            functions = {name: scoring(classes, name, calibrated) for name in METHODS}
            seconds: dict[str, list] = {name: [] for name in METHODS}
            for _ in range(rounds):
                for name, score in functions.items():
                    began = time.perf_counter(), time.process_time()
                    score()
                    ended = time.perf_counter(), time.process_time()
                    seconds[name].append([e - b for b, e in zip(began, ended, strict=True)])
            ids = [score() for score in functions.values()]
            rows.append({
                "classes": classes, "size": SIZE, "pass": "eval" if calibrated else "ids",
                "same_ids": torch.equal(*ids),
                "methods": {
                    name: {
                        "peak_mb": peak_in_fresh_process(classes, name, int(calibrated), threads),
                        "ms": 1e3 * median(wall for wall, _ in times),
                        "cpu_ms": 1e3 * median(cpu for _, cpu in times),
                    }
                    for name, times in seconds.items()
                },
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    found = sys.argv[1:]
    print(peak_mb(int(found[0]), found[1], found[2] == "1", int(found[3])))
