"""Compare ce and ohem on the embedded demo: same config, same budget, several seeds.

    python benchmarks/demo_losses.py [FOLDER_OF_THE_SWEEP]

Writes benchmarks/results/demo_losses.json: mIoU after the first epoch and at the end, and each
class's IoU, by loss and seed. Trainings that are complete in the folder are not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

from machine import RESULTS
from trainings import ROOT, summarise

LOSSES, SEEDS = "ce,ohem", 3

if __name__ == "__main__":
    summarise(
        "python benchmarks/demo_losses.py",
        RESULTS / "demo_losses.json",
        "loss.expression",
        Path(*sys.argv[1:2] or ["sweep-demo"]),
        *["--config", str(ROOT / "configs/demo.yaml"), "--loss", LOSSES, "--seeds", str(SEEDS)],
    )
