"""Training steps on an idle and on a busy machine, by how OpenMP's threads wait for each other.

    python benchmarks/busy.py [--load PROCESSES] [--rounds N] [--out FILE]

`segtrain` sets GOMP_SPINCOUNT=3000 (300,000 is the default), and OMP_WAIT_POLICY=PASSIVE for other
implementations, unless either is set. Each variant is the loop of `fit` on ready batches, as in
train.py, in a process of its own: `spinning` without these variables, `passive` with the policy
alone, `segtrain` with what it sets, and `one thread`. They take turns of one step, in one order and
then in reverse; ratios are between the turns of one round. First nothing else runs, then as many
processes as --load says, each of which keeps a core busy. It takes about four minutes on two cores;
whatever else the machine does counts as load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from machine import RESULTS, machine
from train import BATCH_SIZES, CLASSES, CROPS, SEED, Case, LoopProcess, ratios, summary

from segtrain.__main__ import ENVIRONMENT

RESULT = RESULTS / "busy.json"
VARIANTS = {
    "spinning": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "segtrain": ENVIRONMENT,
    "one thread": {},
}
VARIABLES = {name for environment in VARIANTS.values() for name in environment}
# until the process that started it ends
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: 0"
MODEL = "unet/resnet18"
ROUNDS = {"idle": 14, "busy": 2}
GOALS = {"idle": 0.97, "busy": 3.0}  # the least speed of segtrain against spinning


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(case: Case, variant: str) -> LoopProcess:
    """Start the process of a variant; it reads its environment as it imports torch."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(VARIANTS[variant])
    threads = 1 if variant == "one thread" else case.threads
    return LoopProcess(replace(case, threads=threads), "segtrain", None)


def measure(processes: dict[str, LoopProcess], case: Case, rounds: int) -> dict:
    """Return images per second of each variant, and ratios; the first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        for name in processes if number % 2 else reversed(processes):
            seconds[name].append(processes[name].turn()["seconds"])
    taken = {name: values[1:] for name, values in seconds.items()}
    images = case.batch_size * case.steps
    return {
        "load": [round(value, 1) for value in os.getloadavg()][:1],
        "rounds": rounds,
        "images_per_second": {
            name: summary([images / s for s in values], 2) for name, values in taken.items()
        },
        "against_spinning": {
            name: ratios(taken["spinning"], values) for name, values in taken.items()
        },
    }


def main() -> None:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=int, default=4 * cores + 1, help="busy processes")
    parser.add_argument("--rounds", type=int, help="instead of 14 idle and 2 busy ones")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    side, threads = CROPS["cpu"], torch.get_num_threads()
    case = Case(
        MODEL, BATCH_SIZES["cpu"][MODEL], (side, side), CLASSES, "cpu", "32", "off", threads, 1, ()
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        os.environ["SEGTRAIN_CACHE"] = folder
        processes = {name: start(case, name) for name in VARIANTS}
        for process in processes.values():
            ends.callback(process.end)
        results = {}
        for state, load in {"idle": 0, "busy": options.load}.items():
            with busy_processes(load):
                found = measure(processes, case, options.rounds or ROUNDS[state])
            speed = found["against_spinning"]["segtrain"]["median"]
            goal = {"goal": GOALS[state], "found": speed, "met": speed >= GOALS[state]}
            results[state] = {"busy_processes": load} | found | goal
            print(f"{state}: {json.dumps(results[state])}", flush=True)
    content = {
        "command": f"python benchmarks/busy.py --load {options.load}",
        "seed": SEED,
        "environment": machine(),
        "cores": cores,
        "case": asdict(case),
        "results": results,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
