"""Machine code of the losses' Triton kernels for sm_90, which needs no GPU.

    python benchmarks/kernels_sm90.py [--before PATH] [--triton PATH ...] [--out FILE]

Runs whole losses, forward and backward, on meta tensors of a training's sizes; each launch of a
kernel is compiled only. So the builds are those of a launch: types, strides of 1 and multiples of
16 come from the tensors by the launcher's own rule. Prints a row for each kernel, read from its
SASS by the cuobjdump in Triton's wheel:

    instr     instructions of the whole kernel
    loop      instructions of the longest innermost loop
    regs      registers of a thread
    spilled   bytes of a thread in memory: stack and local
    fences    instructions that wait for memory (MEMBAR)
    loads     loads from global memory: number x bits

Each cell is `before -> now` if `--before` names another checkout of segtrain. `--triton` names
folders with other versions (pip install --no-deps --target FOLDER triton==...); the JSON has them
all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

ROOT = Path(__file__).parents[1]
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
FP32, BF16 = torch.float32, torch.bfloat16
NCHW, NHWC = torch.contiguous_format, torch.channels_last
Row = dict[str, Any]


class Batch(NamedTuple):
    """Logits as a network passes them to the loss."""

    classes: int
    upsample: int
    dtype: torch.dtype
    layout: torch.memory_format
    align_corners: bool = False

    def __str__(self) -> str:
        type_name = {FP32: "fp32", BF16: "bf16"}[self.dtype]
        order = {NCHW: "NCHW", NHWC: "NHWC"}[self.layout]
        corners = " corners" * self.align_corners
        return f"C={self.classes} x{self.upsample}{corners} {type_name} {order}"

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and target of 4 images of 512x1024 pixels, without memory."""
        shape = 4, self.classes, 512 // self.upsample, 1024 // self.upsample
        logits = torch.empty(shape, dtype=self.dtype, device="meta", memory_format=self.layout)
        return logits.requires_grad_(), logits.new_empty((4, 512, 1024), dtype=torch.int64)


COLUMNS = "instr", "loop", "regs", "spilled", "fences", "loads"
LAYOUTS = (FP32, NCHW), (BF16, NHWC)
BATCHES = [Batch(C, S, *layout) for C in (2, 19, 150) for S in (1, 4) for layout in LAYOUTS]
BATCHES += [Batch(19, 1, BF16, NCHW), Batch(19, 4, BF16, NHWC, align_corners=True)]


class Launch(NamedTuple):
    """Kernel as built for a launch."""

    name: str
    options: dict[str, Any]  # constants and number of warps
    cubin: bytes


class Sm90:
    """The part of Triton's driver that builds ask."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -1  # kernels keep their builds by device: these are for none

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiled_launches() -> Iterator[list[Launch]]:
    """Add each launch of a kernel to a list, compiled for sm_90 and not run."""
    launches: list[Launch] = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        launches.append(Launch(kernel.metadata.name, options, kernel.asm["cubin"]))

    with (
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(driver, "_active", Sm90()),
    ):
        yield launches


def launched_by(expression: str, batch: Batch) -> dict[str, Launch]:
    """Return the launches of a loss by name; those of one kernel are numbered."""
    from segtrain.losses import build_loss, pixel_pass
    from segtrain.losses.kernels.paths import KernelPath

    chosen = mock.Mock(return_value=KernelPath("triton", ""))
    with (
        mock.patch.object(pixel_pass, "choose_path", chosen),
        mock.patch.object(torch, "autocast", mock.MagicMock()),  # it knows no meta tensors
        compiled_launches() as launches,
    ):
        loss = build_loss(expression, batch.classes).to("meta")
        loss(*batch.inputs(), batch.upsample, batch.align_corners).backward()
    found: dict[str, Launch] = {}
    for launch in launches:
        same = [each for name, each in found.items() if name.startswith(launch.name)]
        if all(launch.cubin != each.cubin for each in same):
            found[f"{launch.name} {len(same) + 1}" if same else launch.name] = launch
    return found


def describe(cubin: bytes) -> Row:
    """Return counts from the machine code of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run(
                [CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for option in ("-res-usage", "-sass")
        )
    code = [
        (int(address, 16), text)
        for address, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", sass)
        if not text.startswith("NOP")
    ]
    widths = Counter(
        int(width or 32)
        for _, text in code
        for width in re.findall(r"\bLDG\.E(?:\.[SU](?=8|16))?\.?(8|16|64|128)?\b", text)
    )
    registers, *memory = (
        int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK", "LOCAL")
    )
    return {
        "instr": len(code),
        "loop": longest_loop(code),
        "regs": registers,
        "spilled": sum(memory),
        "fences": sum("MEMBAR" in text for _, text in code),
        "loads": " ".join(f"{number}x{width}" for width, number in sorted(widths.items())),
    }


def longest_loop(code: list[tuple[int, str]]) -> int:
    """Return the instructions of the longest loop that contains no other; 0 without a loop."""
    loops = []
    for address, text in code:
        target = re.search(r"\bBRA\b.*\b(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < address:
            loops.append((int(target[1], 16), address))
    lengths = [
        sum(first <= address <= last for address, _ in code)
        for first, last in loops
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops)
    ]
    return max(lengths, default=0)


def measure() -> dict[str, Row]:
    """Return the counts of each kernel, by kernel, loss and batch."""
    rows: dict[str, Row] = {}
    seen: set[bytes] = set()
    for batch in BATCHES:
        for expression in ("ohem", "ohem+0.5*dice") if batch.classes == 19 else ("ohem",):
            for name, launch in launched_by(expression, batch).items():
                if launch.cubin not in seen:
                    seen.add(launch.cubin)
                    rows[f"{name}, {expression}, {batch}"] = describe(launch.cubin)
    return rows


def measure_apart(package: Path, triton_folder: Path | None) -> dict[str, Row]:
    """Return `measure()` of another checkout or another Triton, in a process of its own."""
    folders = [*([triton_folder] if triton_folder else []), package]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(f.resolve()) for f in folders)}
    command = [sys.executable, __file__, "--measure"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def print_table(before: dict[str, Row], now: dict[str, Row]) -> None:
    for name in dict.fromkeys([*before, *now]):
        cells = []
        for column in COLUMNS:
            values = [str(rows[name][column]) if name in rows else "-" for rows in (before, now)]
            cells.append(values[1] if not before else " -> ".join(dict.fromkeys(values)))
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout of segtrain")
    parser.add_argument("--triton", type=Path, nargs="*", default=[], help="folders of versions")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps({"triton": triton.__version__, "rows": measure()}))
        return
    from machine import RESULTS, machine

    command = "python benchmarks/kernels_sm90.py" + " --before CHECKOUT" * bool(options.before)
    command += " --triton FOLDER" * bool(options.triton)
    content: Row = {"command": command, "environment": machine()}
    if options.before:
        ask = ["git", "-C", str(options.before), "rev-parse", "HEAD"]
        commit = subprocess.run(ask, check=True, capture_output=True, text=True)
        content["before"] = commit.stdout.strip()
    for folder in (None, *options.triton):
        found = {}
        for name, package in (("before", options.before), ("now", ROOT)):
            if package:
                result = measure_apart(package, folder)
                found[name] = result["rows"]
        content[f"triton {result['triton']}"] = found
        print(f"\nTriton {result['triton']}\n\n| kernel | {' | '.join(COLUMNS)} |")
        print("| --- " * (1 + len(COLUMNS)) + "|")
        print_table(found.get("before", {}), found["now"])
    file = options.out or RESULTS / "kernels_sm90.json"
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
