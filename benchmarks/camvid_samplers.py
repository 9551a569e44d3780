"""Which pairs and crops training sees, on CamVid: the same network, loss, budget and seed for each.

    python benchmarks/camvid_samplers.py FOLDER_OF_CAMVID

Trains configs/camvid.yaml for EPOCHS epochs with each data.sampler and writes
benchmarks/results/camvid_samplers.json: val mIoU and each class's IoU.
"""

from __future__ import annotations

import sys

from trainings import RESULTS, ROOT, compare

SAMPLERS, SEEDS, EPOCHS = ("uniform", "class-balanced", "rare-crop"), (0,), 15

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    compare(
        "python benchmarks/camvid_samplers.py FOLDER_OF_CAMVID",
        RESULTS / "camvid_samplers.json",
        ROOT / "configs/camvid.yaml",
        {sampler: ["--set", f"data.sampler={sampler}"] for sampler in SAMPLERS},
        SEEDS,
        "--data",
        sys.argv[1],
        "--loss",
        "ohem+dice",
        "--epochs",
        str(EPOCHS),
    )
