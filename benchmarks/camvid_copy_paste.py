"""Copy-paste of rare objects on CamVid; network, loss, budget and seeds are the same.

    python benchmarks/camvid_copy_paste.py FOLDER_OF_CAMVID [CONFIG [FOLDER_OF_THE_SWEEP]]

Trains CONFIG (configs/camvid.yaml) for 8 epochs with and without augment.copy_paste, two seeds
each, and writes results/camvid_copy_paste.json: val mIoU and each class's IoU, above all of the
classes that are pasted: pole, sign, fence, pedestrian and bicyclist. The sweep's own report says
which differences are beyond noise. Trainings that are complete in its folder are not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from machine import RESULTS
from trainings import ROOT, summarise

LOSS = "ce+lovasz"  # ahead of the others after so few epochs, see results/camvid_screening.json
SETTINGS = {"train.epochs": "8", "eval.every": "8", "augment.copy_paste": "0,0.5"}


def main(data: str, config: str = str(ROOT / "configs/camvid.yaml"), out: str = "") -> None:
    options = ["--config", config, "--data", data, "--loss", LOSS, "--seeds", "2"]
    for key, value in SETTINGS.items():
        options += ["--set", f"{key}={value}"]
    summarise(
        f"python benchmarks/camvid_copy_paste.py FOLDER_OF_CAMVID {Path(config).name}",
        RESULTS / "camvid_copy_paste.json",
        "augment.copy_paste",
        Path(out or "sweep-copy-paste"),
        *options,
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
