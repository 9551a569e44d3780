"""Check of the losses on a GPU in one session: correctness, speed, and where the time goes.

    python benchmarks/gpu_check.py [--seconds 480] [--commit HASH] [--out FILE]
    python benchmarks/gpu_check.py --dry [--out FILE]

For a GPU that is available for a quarter of an hour: one command of at most eight minutes, most of
them Triton's compiler and the tests. Its sections, most important first:

    correct    value and gradient against torch's own operators in float64, each twice
    timings    OHEM forward and backward at the sizes of training, compared with the formula that
               everyone copies: milliseconds, peak memory, and the floor set by the bytes to move
    tests      pytest -m gpu
    profiles   launches and device time of each kernel in one step
    selection  the k-th largest value compared with topk and a boolean index
    graphs     a small step as launched, and replayed from a CUDA graph: what launching costs
    large      the last image of a batch of more than 2^31 logits, in the batch and alone

Each section runs in its own process, within a time limit, and each result is written at once: a
crash, a hang or an illegal access ends one section only. The exit code is 1 if anything is wrong,
failed or was not started.

Needs torch, torchvision and Triton; the tests need the packages of the `test` extra. If segtrain is
not installed, set PYTHONPATH=. and if git is missing, name the measured commit with --commit.

--dry is a rehearsal: it runs the same sections on the CPU at tiny sizes, in seconds, and writes to
the temporary folder. It has no Triton kernels: tests/losses/kernels runs them interpreted.

Commit the result, benchmarks/results/gpu_check.json, and quote it in benchmarks/README.md. If
`right` is false, fix that bug before you use any figure. In `timings` compare `fused` with
`reference` and with `floor_ms`; if it is slow, `profiles` names the kernels that take the time, and
`graphs` shows how much of it is the host's launches. Use the remaining time for losses.py, train.py
and evaluate.py --device cuda.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import losses
import torch
import torch.nn.functional as F
from losses import FACTOR, IGNORED, LAYOUTS, THRESH, copy_bandwidth, peak_mib, reference, step
from machine import RESULTS, machine
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from segtrain.losses import build_loss
from segtrain.losses.build import Loss
from segtrain.losses.kernels.paths import PATHS_TAKEN, choose_path
from segtrain.losses.pixel_pass import PixelReader, Pixels
from segtrain.losses.selection import DIGITS, digit_counter, kth_largest

ROOT = Path(__file__).parents[1]
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
NCHW, NHWC = torch.contiguous_format, torch.channels_last
VALUE_OFF = 1e-5  # largest relative deviation of a value that is allowed
GRADIENT_OFF = {FP32: 1e-4, BF16: 1e-2, FP16: 3e-3}  # relative to the largest gradient
SCALE = 1024.0  # factor on the loss, like a gradient scaler's: else float16 underflows
REPEATS = 7
LEAST = 10  # seconds: with less time left, a section is not started
FORK = multiprocessing.get_context("fork")  # a fork after CUDA has started would fail
Results = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Visit:
    """Device and time that a section has."""

    device: str
    seconds: float

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds_of(self, function: Callable) -> float:
        self.wait()
        began = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - began

    def median_ms(self, function: Callable) -> float:
        return 1e3 * statistics.median(self.seconds_of(function) for _ in range(REPEATS))


class Case(NamedTuple):
    """Batch of logits as a network passes them to the loss."""

    shape: tuple[int, int, int, int]  # at full size
    upsample: int
    align_corners: bool
    dtype: torch.dtype
    layout: torch.memory_format
    kind: str  # trained or untrained, as in losses.py

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        upsampling = f"x{self.upsample}" + " corners" * self.align_corners
        names = (str(each).removeprefix("torch.") for each in (self.dtype, self.layout))
        return " ".join((size, upsampling, *names, self.kind))

    def fitting(self, visit: Visit) -> Case:
        images, classes, height, width = self.shape
        tiny = max(1, images // 8), classes, height // 32, width // 32
        return self if visit.on_gpu else self._replace(shape=tiny)

    def inputs(self, device: str) -> tuple[Tensor, Tensor]:
        layout = next(name for name, layout in LAYOUTS.items() if layout == self.layout)
        case = losses.Case(self.shape, self.upsample, self.dtype, layout, self.kind)
        return losses.scene(case, device)

    def loss(self, expression: str, device: str) -> Loss:
        loss = build_loss(expression, self.shape[1], IGNORED, thresh=THRESH, n_min_factor=FACTOR)
        return loss.to(device)

    def upsampled(self, logits: Tensor) -> Tensor:
        if self.upsample == 1:
            return logits
        how = {"mode": "bilinear", "align_corners": self.align_corners}
        return F.interpolate(logits, scale_factor=self.upsample, **how)


HEADLINE = Case((16, 19, 1024, 2048), 4, False, FP32, NCHW, "untrained")
DEEPLAB = Case((16, 19, 1024, 2048), 4, True, BF16, NHWC, "trained")  # as `fit` has them
UNET = DEEPLAB._replace(upsample=1, align_corners=False)
BINARY = UNET._replace(shape=(16, 2, 1024, 2048))
MANY = UNET._replace(shape=(16, 150, 512, 512))
FEW_PIXELS = DEEPLAB._replace(shape=(4, 19, 512, 512))  # launches may take longer than kernels
TIMED = [
    HEADLINE,
    HEADLINE._replace(kind="trained"),
    DEEPLAB,
    UNET,
    UNET._replace(dtype=FP32, layout=NCHW),
    BINARY,
    MANY._replace(upsample=4),
    MANY,
    FEW_PIXELS,
]
PROFILED = [(HEADLINE, "ohem"), (DEEPLAB, "ohem"), (DEEPLAB, "ohem+0.5*dice")]
PROFILED += [(UNET, "ohem"), (BINARY, "ohem"), (MANY, "ohem")]


# ---- right?


def value_and_gradient(
    loss: Loss, case: Case, logits: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target, case.upsample, case.align_corners)
    (SCALE * value).backward()
    return value.detach(), leaf.grad


def off(found: Tensor, exact: Tensor) -> float:
    """Return the largest deviation, relative to the largest exact number."""
    exact = exact.double().cpu()
    return ((found.double().cpu() - exact).abs().max() / exact.abs().max()).item()


def correct(visit: Visit) -> Results:
    path, reason = choose_path(torch.device(visit.device), FP32)
    yield "path", {"path": path, "reason": reason, "right": (path == "triton") == visit.on_gpu}
    height, width = (192, 200) if visit.on_gpu else (128, 40)
    # few cases: each compiles its own kernels, about a second each
    for classes, upsample, align_corners, dtype, layout in (
        (19, 4, False, FP32, NCHW),
        (19, 4, True, BF16, NHWC),
        (19, 1, False, BF16, NHWC),
        (2, 1, False, BF16, NHWC),
        (2, 1, False, FP32, NCHW),
        (150, 1, False, BF16, NHWC),
        (150, 4, True, FP32, NCHW),
        (5, 2, False, FP16, NCHW),
    ):
        shape = 2, classes, height, width
        for expression, kind in (
            ("ohem", "trained"),
            ("ohem+0.5*dice", "trained"),
            ("focal", "untrained"),  # trained, its gradients underflow in float16
        ):
            case = Case(shape, upsample, align_corners, dtype, layout, kind)
            yield f"{expression}, {case}", against_float64(case, expression, visit.device)


def against_float64(case: Case, expression: str, device: str) -> dict[str, Any]:
    logits, target = case.inputs(device)
    PATHS_TAKEN.clear()
    (value, gradient), again = (
        value_and_gradient(case.loss(expression, device), case, logits, target) for _ in range(2)
    )
    paths = [f"{path} x{factor}" for path, factor in PATHS_TAKEN]
    # the reference must not come from the CPU's tiles, which are under test, too
    os.environ["SEGTRAIN_KERNELS"] = "0"
    exact = value_and_gradient(
        case.loss(expression, "cpu").double(), case, logits.cpu().double(), target.cpu()
    )
    del os.environ["SEGTRAIN_KERNELS"]
    value_off, gradient_off = off(value, exact[0]), off(gradient, exact[1])
    repeats = torch.equal(value, again[0]) and torch.equal(gradient, again[1])
    return {
        "value_off": value_off,
        "gradient_off": gradient_off,
        "repeats": repeats,
        "paths": paths,
        "right": value_off < VALUE_OFF and gradient_off < GRADIENT_OFF[case.dtype] and repeats,
    }


def large(visit: Visit) -> Results:
    """Compare the last image of a huge batch with itself alone: an offset may overflow 31 bits."""
    shape = (16, 150, 1024, 1024) if visit.on_gpu else (3, 5, 16, 16)
    for upsample, dtype in ((1, BF16), (4, FP32)):
        case = Case(shape, upsample, False, dtype, NCHW, "untrained")
        logits, target = case.inputs(visit.device)
        loss, valid = case.loss("ce", visit.device), target != IGNORED
        _, gradient = value_and_gradient(loss, case, logits, target)
        _, alone = value_and_gradient(loss, case, logits[-1:], target[-1:])
        share = valid[-1].sum() / valid.sum()  # each is a mean over its own pixels
        deviation = off(gradient[-1:], share * alone.float())
        right = deviation < GRADIENT_OFF[dtype]
        yield str(case), {"gradient_off": deviation, "right": right}


def tests(visit: Visit) -> Results:
    files = [f for f in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in f.read_text()]
    options = ["-m", "gpu", "-vv", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
    if not visit.on_gpu:
        options.append("--version")
    elif importlib.util.find_spec("xdist"):
        options += ["-n", "4"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, sorted(files))]
    with tempfile.TemporaryFile("w+") as output:  # keeps the output before a time-out
        try:
            limit = visit.seconds - 5  # ends before the section's own limit
            done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, timeout=limit)
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = None
        output.seek(0)
        lines = [line.rstrip()[:300] for line in output]
    result = {
        "exit_code": code,
        "passed": sum("PASSED" in line for line in lines),
        "failed": [line for line in lines if re.search(r"\b(FAILED|ERROR)\b", line)],
        "last_lines": lines[-3:],
        "right": code == 0,
    }
    yield "pytest", result


# ---- how fast?


def timings(visit: Visit) -> Results:
    # a dry run measures nothing: any number will do
    bandwidth = copy_bandwidth("cuda") if visit.on_gpu else 1e10
    for case in TIMED:
        plain = case == HEADLINE
        yield str(case), time_case(case.fitting(visit), visit.device, bandwidth, plain)


def time_case(case: Case, device: str, bandwidth: float, plain: bool) -> dict[str, Any]:
    logits, target = case.inputs(device)

    def ours(expression: str, kernels: str = "1") -> Callable:
        loss = case.loss(expression, device)

        def value(logits: Tensor, target: Tensor) -> Tensor:
            os.environ["SEGTRAIN_KERNELS"] = kernels
            return loss(logits, target, case.upsample, case.align_corners)

        return value

    def theirs(formula: Callable) -> Callable:
        def value(logits: Tensor, target: Tensor) -> Tensor:
            # as users train in bfloat16: there cross_entropy is computed in float32
            with torch.autocast(device, BF16, enabled=case.dtype != FP32):
                return formula(case.upsampled(logits), target)

        return value

    functions = {
        "reference": theirs(reference),
        "fused": ours("ohem"),
        "F.cross_entropy": theirs(lambda *pair: F.cross_entropy(*pair, ignore_index=IGNORED)),
        "fused ce": ours("ce"),
        "fused, with dice": ours("ohem+0.5*dice"),
    }
    if plain:
        functions["plain"] = ours("ohem", "0")
    seconds, peaks, failed = {}, {}, {}
    for name, function in functions.items():
        try:
            step(function, logits, target)  # compiles its kernels
            peaks[name] = peak_mib(function, logits, target)
            seconds[name] = []
        except RuntimeError as error:  # most likely out of memory
            failed[name] = f"{type(error).__name__}: {error}"[:300]
    for _ in range(REPEATS):
        for name, times in seconds.items():
            times.append(step(functions[name], logits, target)[0])
    moved = 3 * logits.nbytes + 2 * target.nbytes + 2 * 4 * target.numel()  # as in losses.py
    methods = {
        name: {
            "ms": 1e3 * statistics.median(times),
            "ms_spread": [1e3 * min(times), 1e3 * max(times)],
            "peak_mib": peaks[name],
        }
        for name, times in seconds.items()
    }
    result = {"floor_ms": 1e3 * moved / bandwidth, "methods": methods}
    return result | ({"failed": failed, "right": False} if failed else {})


def profiles(visit: Visit) -> Results:
    kind = torch.autograd.DeviceType.CUDA if visit.on_gpu else torch.autograd.DeviceType.CPU
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * visit.on_gpu
    for whole, expression in PROFILED:
        case = whole.fitting(visit)
        logits, target = case.inputs(visit.device)
        loss = case.loss(expression, visit.device)
        value_and_gradient(loss, case, logits, target)  # compiles its kernels
        with profile(activities=activities) as profiler:
            value_and_gradient(loss, case, logits, target)
            visit.wait()
        launches: Counter[str] = Counter()
        microseconds: Counter[str] = Counter()
        for event in profiler.events():
            if event.device_type == kind:
                launches[event.name[:70]] += 1
                microseconds[event.name[:70]] += event.time_range.elapsed_us()
        result = {
            "launches": launches.total(),
            "device_ms": microseconds.total() / 1e3,
            "kernels": {
                name: {"launches": launches[name], "us": round(us, 1)}
                for name, us in microseconds.most_common(15)
            },
        }
        yield f"{expression}, {whole}", result


def selection(visit: Visit) -> Results:
    for kind in ("untrained", "trained"):
        whole = HEADLINE._replace(kind=kind)
        case = whole.fitting(visit)
        pixels = PixelReader(IGNORED).read(*case.inputs(visit.device), case.upsample)
        yield str(whole), select(pixels, visit)


def select(pixels: Pixels, visit: Visit) -> dict[str, Any]:
    values, valid, in_triton = pixels.nll.detach(), pixels.valid, pixels.path == "triton"
    k, digit_counts = valid.sum() // FACTOR, digit_counter(in_triton)
    number, prefix = int(k), torch.zeros(1, dtype=torch.int64, device=visit.device)
    ways: dict[str, Callable] = {
        "kth_largest": lambda: kth_largest(values, valid, k, in_triton=in_triton),
        "one of its rounds": lambda: digit_counts(values, valid, prefix, *DIGITS[0]),
        "topk": lambda: values.flatten().topk(number, sorted=False).values.min(),
        "boolean index": lambda: values[values > 0.35],
    }
    same = bool(ways["kth_largest"]() == ways["topk"]())
    return {"ms": {name: visit.median_ms(way) for name, way in ways.items()}, "right": same}


def graphs(visit: Visit) -> Results:
    for expression in ("ohem", "ohem+0.5*dice"):
        yield f"{expression}, {FEW_PIXELS}", replay(FEW_PIXELS.fitting(visit), expression, visit)


def replay(case: Case, expression: str, visit: Visit) -> dict[str, Any]:
    logits, target = case.inputs(visit.device)
    loss = case.loss(expression, visit.device)
    logits.requires_grad_()

    def train() -> Tensor:
        logits.grad = None
        value = loss(logits, target, case.upsample, case.align_corners)
        value.backward()
        return value.detach()

    expected = train()
    launched = visit.median_ms(train)
    if not visit.on_gpu:
        return {"launched_ms": launched}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capturing asks for a warm-up on another stream
        train()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = train()
    replayed = visit.median_ms(graph.replay)
    same = torch.equal(value, expected)
    return {"launched_ms": launched, "replayed_ms": replayed, "right": same}


# ---- each section in a process of its own

SECTIONS: dict[Callable[[Visit], Results], int] = {  # with the seconds that each may take
    correct: 150,
    timings: 120,
    tests: 180,
    profiles: 60,
    selection: 30,
    graphs: 30,
    large: 30,
}


def serve(section: Callable[[Visit], Results], visit: Visit, connection: Connection) -> None:
    """Send each result of the section, and finally its error or None."""
    if not visit.on_gpu:
        torch.set_num_threads(1)
    try:
        for result in section(visit):
            connection.send(result)
        connection.send(None)
    except Exception:
        connection.send(traceback.format_exc()[-1500:])


def run(section: Callable[[Visit], Results], visit: Visit, note: Callable) -> str | None:
    """Pass each result to `note`; return why the section ended early, None if it did not."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=serve, args=(section, visit, theirs))
    ends = time.monotonic() + visit.seconds
    process.start()
    theirs.close()  # else the end of the process would not end the wait
    try:
        while ours.poll(max(0.0, ends - time.monotonic())):
            message = ours.recv()
            if not isinstance(message, tuple):
                return message
            note(*message)
        return f"not done within {visit.seconds:.0f} s"
    except EOFError:
        process.join()
        return f"its process died with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


@dataclass
class Report:
    """JSON file, rewritten after each result, and progress lines."""

    file: Path
    content: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    wrong: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def note(self, section: str, name: str, result: dict[str, Any]) -> None:
        right = result.get("right", True)
        self.wrong += not right
        self.section(section)["results"][name] = result
        self.write()
        mark = "" if right else "WRONG "
        print(f"[{self.seconds:4.0f} s] {section}: {mark}{name}", flush=True)
        for method, times in result.get("methods", {}).items():
            base = result["methods"].get("reference", times)
            print(
                f"  {method:16} {times['ms']:9.2f} ms {base['ms'] / times['ms']:6.2f}x reference "
                f"{times['ms'] / result['floor_ms']:7.1f} floors {times['peak_mib']:9.1f} MiB",
                flush=True,
            )

    def end(self, section: str, seconds: float, error: str | None) -> None:
        self.wrong += error is not None
        self.section(section).update(seconds=round(seconds, 1), error=error)
        self.write()
        if error:
            print(f"[{self.seconds:4.0f} s] {section}: {error}", flush=True)

    def section(self, name: str) -> dict[str, Any]:
        return self.content["sections"].setdefault(name, {"results": {}})

    def write(self) -> None:
        self.file.write_text(json.dumps(self.content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480, help="for all sections together")
    parser.add_argument("--commit", help="the measured commit, if git is missing")
    parser.add_argument("--dry", action="store_true", help="rehearse on the CPU at tiny sizes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = "cpu" if options.dry else "cuda"
    with FORK.Pool(1) as pool:
        if not options.dry and not pool.apply(torch.cuda.is_available):
            parser.error("torch sees no GPU here; --dry runs the sections on the CPU")
        environment = pool.apply(machine, (device,))
    folder = Path(tempfile.gettempdir()) if options.dry else RESULTS
    command = "python benchmarks/gpu_check.py" + (" --dry" if options.dry else "")
    command += f" --seconds {options.seconds:g}"
    environment["git_commit"] = options.commit or environment["git_commit"]
    environment["packages"]["triton"] = triton_version()
    content = {"command": command, "seed": 0, "environment": environment, "sections": {}}
    report = Report(options.out or folder / "gpu_check.json", content)
    for section, limit in SECTIONS.items():
        name, began = section.__name__, report.seconds
        visit = Visit(device, min(limit, options.seconds - began))
        enough = visit.seconds >= LEAST
        error = run(section, visit, partial(report.note, name)) if enough else "no time was left"
        report.end(name, report.seconds - began, error)
    print(f"{report.file}: {f'{report.wrong} wrong' if report.wrong else 'all right'}")
    sys.exit(1 if report.wrong else 0)


def triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
