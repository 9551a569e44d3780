"""Train variants of one config and write their scores; shared by several scripts."""

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


def fit(config: Path, variant: str, seed: int, out: Path, *more: str) -> Path:
    """Train in a separate process and return the run's folder."""
    name = f"{variant}-{seed}"
    command = [
        sys.executable,
        "-m",
        "segtrain",
        "fit",
        "--config",
        str(config),
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
        "epochs": len(rows),
        "miou_after_epoch_1": float(rows[0]["val_miou"]) if rows[0]["val_miou"] else None,
        "miou": scores["val_miou"],
        "iou": {k.removeprefix("val_iou/"): v for k, v in scores.items() if "/" in k},
        "seconds": sum(float(row["seconds"]) for row in rows),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "min": min(values), "max": max(values)}


def compare(
    command: str,
    result: Path,
    config: Path,
    variants: dict[str, list[str]],
    seeds: tuple[int, ...],
    *more: str,
) -> None:
    """Train every variant (its options by name) with every seed, and write the result."""
    folder = Path(tempfile.mkdtemp())  # kept if a run fails: it may hold hours of work
    runs = {
        (variant, seed): fit(config, variant, seed, folder, *options, *more)
        for seed in seeds
        for variant, options in variants.items()
    }
    results = {v: {seed: read(runs[v, seed]) for seed in seeds} for v in variants}
    environment = json.loads((next(iter(runs.values())) / "environment.json").read_text())
    shutil.rmtree(folder)
    summary = {}
    for variant, by_seed in results.items():
        found = list(by_seed.values())
        summary[variant] = {
            key: spread([result[key] for result in found])
            for key in ("miou_after_epoch_1", "miou", "seconds")
            if found[0][key] is not None
        }
        summary[variant]["iou"] = {
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
