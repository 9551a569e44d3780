"""Time of short commands, each a process of its own, against the imports that all of them need.

    python benchmarks/startup.py [ROUNDS]

Trains a tiny network on painted images first. Then the commands take turns with
`python -c "import torch, timm"`; ratios are within a round. Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import RESULTS, machine
from PIL import Image

from segtrain.data.demo import scene

RESULT = RESULTS / "startup.json"
SEGTRAIN = sys.executable, "-m", "segtrain"
TINY = (
    "--set",
    "model.encoder=tu-test_byobnet",
    "--weights",
    "none",
    "--crop",
    "64",
    "--workers",
    "0",
)
SHORT = "--epochs", "1", "--set", "train.steps_per_epoch=1", "--batch-size", "2", "--device", "cpu"
COMMANDS = {
    "import torch, timm": (sys.executable, "-c", "import torch, timm"),
    "segtrain --version": (*SEGTRAIN, "--version"),
    "segtrain check": (*SEGTRAIN, "check", "set"),
    "segtrain fit --dry-run": (*SEGTRAIN, "fit", "--data", "set", *TINY, *SHORT, "--dry-run"),
    "segtrain fit": (*SEGTRAIN, "fit", "--data", "set", *TINY, *SHORT, "--out", "others"),
    "segtrain eval": (*SEGTRAIN, "eval", "runs/r"),
    "segtrain predict": (*SEGTRAIN, "predict", "set/images/0.png", "--checkpoint", "runs/r"),
}
BARE = next(iter(COMMANDS))


def paint(folder: Path) -> None:
    for index in range(8):
        for name, pixels in zip(("images", "masks"), scene(0, index, (64, 64)), strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def run(command: tuple[str, ...], folder: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return seconds


def summary(values: list[float]) -> dict:
    middle, *ends = (round(value, 3) for value in (median(values), min(values), max(values)))
    return {"median": middle, "spread": ends}


def main(rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTRAIN_CACHE"] = f"{folder}/cache"
        paint(Path(folder) / "set")
        fit = *SEGTRAIN, "fit", "--data", "set", *TINY, *SHORT, "--name", "r"
        run(fit, folder)
        for number in range(rounds + 1):  # the first one warms the disk's cache up
            for name in COMMANDS if number % 2 else reversed(COMMANDS):
                seconds = run(COMMANDS[name], folder)
                if number:
                    taken[name].append(seconds)
    content = {
        "command": f"python benchmarks/startup.py {rounds}",
        "rounds": rounds,
        "environment": machine(),
        "commands": {
            name: {
                "seconds": summary(own),
                "against_bare": summary([a / b for a, b in zip(own, taken[BARE], strict=True)]),
            }
            for name, own in taken.items()
        },
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    for name, found in content["commands"].items():
        print(
            f"{name:24} {found['seconds']['median']:6.2f} s {found['against_bare']['median']:5.2f}x"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
