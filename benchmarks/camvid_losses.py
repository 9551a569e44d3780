"""Hard-example losses on CamVid: the same network, small budget and seed for each.

    python benchmarks/camvid_losses.py FOLDER_OF_CAMVID

FOLDER has train/, trainannot/, val/ and valannot/. Trains configs/camvid.yaml for EPOCHS epochs
with each loss and writes benchmarks/results/camvid_losses.json: val mIoU and each class's IoU.
"""

from __future__ import annotations

import sys

from trainings import RESULTS, ROOT, compare

LOSSES, SEEDS, EPOCHS = ("ce", "ohem", "focal", "ghm", "ohem+dice"), (0,), 10

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    compare(
        "python benchmarks/camvid_losses.py FOLDER_OF_CAMVID",
        RESULTS / "camvid_losses.json",
        ROOT / "configs/camvid.yaml",
        {loss: ["--loss", loss] for loss in LOSSES},
        SEEDS,
        "--data",
        sys.argv[1],
        "--epochs",
        str(EPOCHS),
    )
