"""Time and memory of OHEM forward and backward: the formula that everyone copies, and ours.

    python benchmarks/losses.py [--threads N] [--repeats N] [--out FILE]

On a GPU if there is one, else on the CPU at smaller sizes, under what `fit` sets there (allocator,
OpenMP, precision; see product.py), in both memory layouts, of which `fit` takes channels_last.
Prints and writes the median wall and CPU time and the peak of extra memory of

    reference             upsample where asked, cross_entropy(reduction="none"), boolean index,
                          topk, mean: under fit's autocast, as its users have it
    plain                 segtrain's ohem with SEGTRAIN_KERNELS=0
    fused                 segtrain's ohem as training computes it
    reference, with dice  0.5 * smp's DiceLoss added, in float32
    fused, with dice      ohem+0.5*dice(classes=present), which is what smp's computes

each compared with the floor: the bytes that must move (logits read twice, their gradient written,
labels read twice, the map written and read) divided by the measured bandwidth of a copy.
`untrained` logits are noise: OHEM keeps the pixels below thresh. `trained` ones are right except at
borders: OHEM keeps its minimum, n_min. Memory is that of `trained` logits, in fresh processes whose
allocator returns what is freed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from product import LAYOUTS, start_product  # before torch

import torch  # isort: skip
import torch.nn.functional as F
from lightning_fabric import Fabric
from machine import RESULTS, machine
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from segtrain.losses import build_loss
from segtrain.losses.kernels.paths import PATHS_TAKEN

THRESH, FACTOR, IGNORED, BLOB = 0.7, 16, 255, 64
CPU_SIZES = [(2, 2, 512, 512), (2, 19, 512, 512), (1, 150, 256, 256)]
GPU_SIZES = [(16, 2, 1024, 2048), (16, 19, 1024, 2048), (4, 19, 512, 512), (4, 150, 512, 512)]


@dataclass(frozen=True)
class Case:
    """One size, upsampling, dtype, memory layout and kind of logits."""

    shape: tuple
    upsample: int
    dtype: torch.dtype
    layout: str
    kind: str


def reference(logits: Tensor, target: Tensor) -> Tensor:
    """Return OHEM by the formula that is copied from project to project."""
    n_min = int((target != IGNORED).sum()) // FACTOR
    loss = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none").flatten()
    hard = loss[loss > -math.log(THRESH)]
    if len(hard) < n_min:
        hard = loss.topk(n_min).values
    return hard.mean()


def scene(case: Case, device: str) -> tuple[Tensor, Tensor]:
    """Return logits (N,C,H/upsample,W/upsample) and labels (N,H,W): blobs, 5% ignored."""
    (images, classes, height, width), upsample = case.shape, case.upsample
    random = torch.Generator(device).manual_seed(0)
    size = (images, 1, max(1, height // BLOB), max(1, width // BLOB))
    blobs = torch.randint(0, classes, size, generator=random, device=device).float()
    target = F.interpolate(blobs, size=(height, width)).long().squeeze(1)
    logits = torch.empty(images, classes, height // upsample, width // upsample, device=device)
    logits.normal_(generator=random)
    if case.kind == "trained":
        coarse = F.interpolate(blobs, size=(max(1, height // 4), max(1, width // 4)))
        sure = F.one_hot(coarse.long().squeeze(1), classes).movedim(-1, 1).float()
        logits = 0.5 * logits + 9 * F.interpolate(sure, size=logits.shape[2:], mode="bilinear")
    ignored = torch.rand(target.shape, generator=random, device=device) < 0.05
    logits = logits.to(case.dtype, memory_format=LAYOUTS[case.layout])
    return logits, target.masked_fill(ignored, IGNORED)


def methods(case: Case, fabric: Fabric) -> dict[str, Callable]:
    """Return name -> function of (logits, target)."""
    classes, upsample, dice = case.shape[1], case.upsample, DiceLoss("multiclass", ignore_index=255)

    def ours(expression: str, kernels: str) -> Callable:
        loss = build_loss(expression, classes, IGNORED, thresh=THRESH, n_min_factor=FACTOR)
        loss = loss.to(fabric.device)

        def value(logits: Tensor, target: Tensor) -> Tensor:
            os.environ["SEGTRAIN_KERNELS"] = kernels
            return loss(logits, target, upsample)

        return value

    def theirs(with_dice: bool) -> Callable:
        def value(logits: Tensor, target: Tensor) -> Tensor:
            # float32 logits are those of a training without autocast
            with torch.autocast(logits.device.type, enabled=logits.dtype != torch.float32):
                if upsample > 1:
                    logits = F.interpolate(logits, scale_factor=upsample, mode="bilinear")
                loss = reference(logits, target)
            return loss + 0.5 * dice(logits.float(), target) if with_dice else loss

        return value

    return {
        "reference": theirs(with_dice=False),
        "plain": ours("ohem", "0"),
        "fused": ours("ohem", "1"),
        "reference, with dice": theirs(with_dice=True),
        "fused, with dice": ours("ohem+0.5*dice(classes=present)", "1"),
    }


def step(function: Callable, logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Return the seconds of one forward and backward: wall, and CPU of all threads."""
    logits = logits.detach().requires_grad_()
    computing = time.process_time()
    if logits.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function(logits, target).backward()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, time.process_time() - computing
    began = time.perf_counter()
    function(logits, target).backward()
    return time.perf_counter() - began, time.process_time() - computing


def peak_mib(function: Callable, logits: Tensor, target: Tensor) -> float:
    """Return the peak MiB of one forward and backward, above logits and labels."""
    if logits.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(function, logits, target)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD, fixed: freed memory leaves the process
    step(function, logits, target)
    peaks = []
    for _ in range(5):
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = memory_kib("VmRSS")
        step(function, logits, target)
        peaks.append((memory_kib("VmHWM") - before) / 2**10)
    return statistics.median(peaks)


def memory_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def copy_bandwidth(device: str) -> float:
    """Return bytes per second, read and written, of a copy far larger than any cache."""
    source = torch.ones(1 << (29 if device == "cuda" else 26), device=device)
    copy = torch.empty_like(source)
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        copy.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()  # timing only
        seconds.append(time.perf_counter() - began)
    return 2 * source.nbytes / statistics.median(seconds)


def measure_times(case: Case, fabric: Fabric, repeats: int) -> dict[str, Any]:
    """Return the times of all methods on one scene, interleaved."""
    device = fabric.device.type
    functions, (logits, target) = methods(case, fabric), scene(case, device)
    PATHS_TAKEN.clear()
    for function in functions.values():
        step(function, logits, target)
    paths = [f"{path} x{factor}" for path, factor in PATHS_TAKEN]
    seconds: dict[str, list] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(step(function, logits, target))
    moved = 3 * logits.nbytes + 2 * target.nbytes + 2 * 4 * target.numel()
    found = {}
    for name, times in seconds.items():
        wall, computing = ([1e3 * each for each in kind] for kind in zip(*times, strict=True))
        found[name] = {
            "ms": statistics.median(wall),
            "ms_spread": [min(wall), max(wall)],
            "cpu_ms": statistics.median(computing),
        }
    return {
        "shape": case.shape,
        "upsample": case.upsample,
        "logits": case.kind,
        "layout": case.layout,
        "dtype": str(case.dtype).removeprefix("torch."),
        "paths": paths,
        "floor_ms": 1e3 * moved / copy_bandwidth(device),
        "methods": found,
    }


def measure_memory(case: Case, name: str, threads: int) -> float:
    fabric, _ = start_product(threads)
    return peak_mib(methods(case, fabric)[name], *scene(case, fabric.device.type))


def in_fresh_process(function: Callable, *args) -> float:
    """Call in a process that has only imported, so that no other heap counts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["product", "segtrain.losses.build", "segtrain.runs.folder"])
    with context.Pool(1) as pool:
        return pool.apply(function, args)


def list_cases(device: str, precision: str) -> list[Case]:
    """Return the cases: float32, and what autocast makes of logits where fit trains under it."""
    sizes = GPU_SIZES if device == "cuda" else CPU_SIZES
    half = {"bf16-mixed": [torch.bfloat16], "16-mixed": [torch.float16]}.get(precision, [])
    dtypes = [torch.float32, *half]
    kinds = "untrained", "trained"
    return [Case(*choice) for choice in product(sizes, (1, 4), dtypes, LAYOUTS, kinds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--out", type=Path, default=RESULTS / f"losses_{device}.json")
    options = parser.parse_args()
    fabric, settings = start_product(options.threads)
    cases = list_cases(device, settings["precision"])
    results = []
    # the CUDA allocator has its own peak; on the CPU the process has one
    measure = measure_memory if device == "cuda" else partial(in_fresh_process, measure_memory)
    peak = cache(lambda case, name: measure(case, name, options.threads))
    for case in cases:
        result = measure_times(case, fabric, options.repeats)
        for name, row in result["methods"].items():
            row["peak_mib"] = peak(replace(case, kind="trained"), name)
        results.append(result)
        show(result)
    command = f"python benchmarks/losses.py --threads {options.threads} --repeats {options.repeats}"
    command += f" --out benchmarks/results/{options.out.name}"
    content = {
        "command": command,
        "seed": 0,
        "settings": settings,
        "environment": machine(device),
        "cases": results,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


def show(case: dict) -> None:
    size = "x".join(map(str, case["shape"]))
    print(f"{size} {case['dtype']} {case['layout']}, upsample {case['upsample']}, ", end="")
    print(f"{case['logits']} logits; ", end="")
    print(f"floor {case['floor_ms']:.2f} ms; {', '.join(case['paths'])}")
    for name, row in case["methods"].items():
        base = case["methods"]["reference" + ", with dice" * ("dice" in name)]
        print(
            f"  {name:20} {row['ms']:9.2f} ms {base['ms'] / row['ms']:6.2f}x "
            f"CPU {base['cpu_ms'] / row['cpu_ms']:6.2f}x "
            f"{row['peak_mib']:9.1f} MiB {base['peak_mib'] / max(row['peak_mib'], 0.1):6.2f}x "
            f"less {row['ms'] / case['floor_ms']:6.1f} floors"
        )


if __name__ == "__main__":
    main()
