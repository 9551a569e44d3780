"""Losses and precisions on CamVid, compared by `segtrain sweep`, with the rare classes' IoU.

    python benchmarks/camvid_losses.py FOLDER_OF_CAMVID STAGE [FOLDER_OF_THE_SWEEP [JOBS]]

FOLDER_OF_CAMVID has train/, trainannot/, val/ and valannot/. Each stage trains configs/camvid.yaml
and writes the sweep's own comparison, with versions and the commit of each run:

screening  all LOSSES for 8 epochs, one seed: results/camvid_screening.json
full       ce, ohem and the best four of the screening for 45 epochs, two seeds: camvid_losses.json
precision  ce in float32 and bf16 for 8 epochs, two seeds: camvid_precision.json

Trainings that are complete in FOLDER_OF_THE_SWEEP (default: sweep-STAGE) are not repeated; others
in it are compared as well. JOBS trainings run side by side, with one thread each; by default one
after the other, with all threads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from machine import RESULTS
from trainings import ROOT, describe_environment, read, run_sweep

from segtrain.config.sweep_values import split_values

LOSSES = [
    *("ce", "ohem", "focal", "ohem+dice", "topk", "ce+lovasz", "poly", "border(ce)"),
    *("ce+tversky(alpha=0.3, beta=0.7, gamma=1.33)", "ce+cldice"),
]
RESULT = {"screening": "camvid_screening", "full": "camvid_losses", "precision": "camvid_precision"}
EPOCHS = {"screening": 8, "full": 45, "precision": 8}
SEEDS = {"screening": 1, "full": 2, "precision": 2}
ALWAYS = ["ce", "ohem"]  # in a full training: the baseline and the default
BEST = 4  # of the screening
# less than a quarter of an even share of the training pixels, as data.sampler has it
RARE = ["pole", "sign", "fence", "pedestrian", "bicyclist"]


def list_options(stage: str) -> list[str]:
    """Return the options of the sweep in which a stage's trainings differ."""
    if stage == "precision":
        return ["--loss", "ce", "--set", "train.precision=32,bf16"]
    if stage == "screening":
        return ["--loss", ",".join(LOSSES)]
    screened = json.loads((RESULTS / f"{RESULT['screening']}.json").read_text())
    # as they were given: a run's own expression has its defaults written out
    scores = {
        loss: group["miou"]
        for loss, group in zip(screened["losses"], screened["contenders"], strict=False)
        if loss not in ALWAYS
    }
    best = sorted(scores, key=scores.__getitem__)[: -BEST - 1 : -1]
    return ["--loss", ",".join([*ALWAYS, *best])]


def list_rare(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return IoU of the rare classes, with intervals, and differences from the first run group."""
    against = {row["name"]: row["classes"] for row in comparison["differences"]}
    rows = []
    for group in comparison["contenders"]:
        found = {row["name"]: row for row in group["classes"] if row["name"] in RARE}
        for row in against.get(group["name"], []):
            if row["name"] in found:
                found[row["name"]] = found[row["name"]] | {"difference": row}
        means = mean(row["iou"] for row in found.values())
        rows.append({"name": group["name"], "mean_iou": means, "classes": list(found.values())})
    return rows


def main(data: str, stage: str, out: str | None = None, jobs: str = "1") -> None:
    options = ["--config", str(ROOT / "configs/camvid.yaml"), "--data", data]
    options += ["--set", f"train.epochs={EPOCHS[stage]}", "--seeds", str(SEEDS[stage])]
    varied = list_options(stage)
    found = run_sweep(Path(out or f"sweep-{stage}"), *options, *varied, jobs=int(jobs))
    runs = {Path(row["run"]).name: row for row in found.pop("runs")}
    places = [Path(run) for group in found["contenders"] for run in group.pop("runs")]
    content = {
        "command": f"python benchmarks/camvid_losses.py FOLDER_OF_CAMVID {stage}",
        "epochs": EPOCHS[stage],
        "losses": split_values(varied[1]),
        "environment": describe_environment(places[0]),
        "commits": {name: row["commit"] for name, row in runs.items()},
        "seconds": {run.name: read(run)["seconds"] for run in places},
        "rare": list_rare(found),
    }
    result = RESULTS / f"{RESULT[stage]}.json"
    result.write_text(json.dumps(content | found, indent=1) + "\n")
    print(found["headline"])


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5) or sys.argv[2] not in RESULT:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
