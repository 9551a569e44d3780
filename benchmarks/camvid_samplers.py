"""Samplers of training pairs and crops on CamVid; network, loss, budget and seed are the same.

    python benchmarks/camvid_samplers.py FOLDER_OF_CAMVID frames|crops

Trains configs/camvid.yaml with each data.sampler and writes results/camvid_samplers_*.json: val
mIoU and each class's IoU. `frames` is the config as it is, whose crops show a quarter of a frame to
all of it; with `crops`, a fifteenth to a quarter, the centre of a crop matters more.
"""

from __future__ import annotations

import sys

from machine import RESULTS
from trainings import ROOT, compare

SAMPLERS, SEEDS = ("uniform", "class-balanced", "rare-crop"), (0,)
VIEWS = {
    "frames": ["--epochs", "15"],
    "crops": ["--epochs", "20", "--crop", "160x160", "--set", "augment.scale=[0.75, 1.5]"],
}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in VIEWS:
        raise SystemExit(__doc__)
    view = sys.argv[2]
    compare(
        f"python benchmarks/camvid_samplers.py FOLDER_OF_CAMVID {view}",
        RESULTS / f"camvid_samplers_{view}.json",
        ROOT / "configs/camvid.yaml",
        {sampler: ["--set", f"data.sampler={sampler}"] for sampler in SAMPLERS},
        SEEDS,
        "--data",
        sys.argv[1],
        "--loss",
        "ohem+dice",
        *VIEWS[view],
    )
