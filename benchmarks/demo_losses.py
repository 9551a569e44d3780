"""ce against ohem on the embedded demo: same config, same budget, several seeds.

    python benchmarks/demo_losses.py

Writes benchmarks/results/demo_losses.json, which the README quotes: mIoU after the first epoch and
at the end, and each class's IoU, by loss and seed.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/demo_losses.json"
LOSSES, SEEDS = ("ce", "ohem"), (0, 1, 2)


def fit(config: Path, loss: str, seed: int, out: Path, *more: str) -> Path:
    """Trains in a process of its own; the run's folder."""
    name = f"{loss}-{seed}"
    command = [
        sys.executable,
        "-m",
        "segtrain",
        "fit",
        "--config",
        str(config),
        "--loss",
        loss,
        "--seed",
        str(seed),
        "--out",
        str(out),
        "--name",
        name,
        *more,
    ]
    subprocess.run(command, check=True)
    return out / name


def read(run: Path) -> dict:
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    scores = {key: float(value) for key, value in rows[-1].items() if key.startswith("val_")}
    return {
        "miou_after_epoch_1": float(rows[0]["val_miou"]) if rows[0]["val_miou"] else None,
        "miou": scores["val_miou"],
        "iou": {k.removeprefix("val_iou/"): v for k, v in scores.items() if "/" in k},
        "seconds": sum(float(row["seconds"]) for row in rows),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "min": min(values), "max": max(values)}


def compare(
    command: str, result: Path, config: Path, losses: tuple, seeds: tuple, *more: str
) -> dict:
    """Trains every loss with every seed, one after the other; writes and returns the result."""
    folder = Path(tempfile.mkdtemp())  # left where it is if a run fails: hours may be in it
    runs = {
        (loss, seed): fit(config, loss, seed, folder, *more) for seed in seeds for loss in losses
    }
    results = {loss: {seed: read(runs[loss, seed]) for seed in seeds} for loss in losses}
    environment = json.loads((runs[losses[0], seeds[0]] / "environment.json").read_text())
    shutil.rmtree(folder)
    summary = {}
    for loss, by_seed in results.items():
        found = list(by_seed.values())
        summary[loss] = {
            key: spread([result[key] for result in found])
            for key in ("miou_after_epoch_1", "miou", "seconds")
            if found[0][key] is not None
        }
        summary[loss]["iou"] = {
            name: spread([result["iou"][name] for result in found]) for name in found[0]["iou"]
        }
    for key in ("command", "started"):
        environment.pop(key)
    content = {
        "command": command,
        "seeds": seeds,
        "environment": environment,
        "summary": summary,
        "runs": results,
    }
    result.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return content


if __name__ == "__main__":
    compare("python benchmarks/demo_losses.py", RESULT, ROOT / "configs/demo.yaml", LOSSES, SEEDS)
