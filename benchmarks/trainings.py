"""Trainings by `segtrain sweep` and their scores; shared by several scripts."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_sweep(out: Path, *options: str, jobs: int = 1) -> dict[str, Any]:
    """Train and score what the folder lacks; return the sweep's comparison of all in it.

    More than one of `jobs` train side by side, with one thread each.
    """
    command = [sys.executable, "-m", "segtrain", "sweep", *options, "--out", str(out)]
    if jobs > 1:
        listed = subprocess.run([*command, "--dry-run"], check=True, stdout=subprocess.PIPE)
        lines = [line for line in listed.stdout.decode().splitlines() if " fit " in line]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(run_on_one_thread, lines))
    subprocess.run(command, check=True)
    return json.loads((out / "comparison.json").read_text())


def run_on_one_thread(line: str) -> None:
    """Run a line of a sweep's dry run, `segtrain fit ... && segtrain eval ...`."""
    program = f"{shlex.quote(sys.executable)} -m segtrain "
    line = re.sub("(^|&& )segtrain ", lambda found: found[1] + program, line)
    subprocess.run(line, shell=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def describe_environment(run: Path) -> dict[str, Any]:
    """Return versions, device and commit of a run, without what differs from call to call."""
    environment = json.loads((run / "environment.json").read_text())
    own = ("command", "started", "resumed", "launcher")
    return {key: value for key, value in environment.items() if key not in own}


def read(run: Path) -> dict[str, Any]:
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


def summarise(command: str, result: Path, key: str, out: Path, *options: str) -> None:
    """Sweep over the values of a field, and write the scores of the last epochs by its value."""
    groups = run_sweep(out, *options)["contenders"]
    results = {
        group["fields"][key]: {
            seed: read(Path(run)) for seed, run in zip(group["seeds"], group["runs"], strict=True)
        }
        for group in groups
    }
    summary = {}
    for value, by_seed in results.items():
        found = list(by_seed.values())
        summary[value] = {
            name: spread([result[name] for result in found])
            for name in ("miou_after_epoch_1", "miou", "seconds")
            if found[0][name] is not None
        }
        summary[value]["iou"] = {
            name: spread([result["iou"][name] for result in found]) for name in found[0]["iou"]
        }
    content = {
        "command": command,
        "seeds": groups[0]["seeds"],
        "environment": describe_environment(Path(groups[0]["runs"][0])),
        "summary": summary,
        "runs": results,
    }
    result.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
