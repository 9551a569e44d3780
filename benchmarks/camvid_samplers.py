"""Samplers of training pairs and crops on CamVid; network, loss, budget and seed are the same.

    python benchmarks/camvid_samplers.py FOLDER_OF_CAMVID frames|crops [FOLDER_OF_THE_SWEEP]

Trains configs/camvid.yaml with each data.sampler and writes results/camvid_samplers_*.json: val
mIoU and each class's IoU. `frames` is the config as it is, whose crops show a quarter of a frame to
all of it; with `crops`, a fifteenth to a quarter, the centre of a crop matters more. Trainings that
are complete in the folder are not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from machine import RESULTS
from trainings import ROOT, summarise

SAMPLERS = "uniform,class-balanced,rare-crop"
VIEWS = {
    "frames": {"train.epochs": "15"},
    "crops": {"train.epochs": "20", "augment.crop": "160x160", "augment.scale": "[0.75, 1.5]"},
}


def main(data: str, view: str, out: str | None = None) -> None:
    options = ["--config", str(ROOT / "configs/camvid.yaml"), "--data", data, "--loss", "ohem+dice"]
    for key, value in (VIEWS[view] | {"data.sampler": SAMPLERS}).items():
        options += ["--set", f"{key}={value}"]
    summarise(
        f"python benchmarks/camvid_samplers.py FOLDER_OF_CAMVID {view}",
        RESULTS / f"camvid_samplers_{view}.json",
        "data.sampler",
        Path(out or f"sweep-{view}"),
        *options,
    )


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[2] not in VIEWS:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
