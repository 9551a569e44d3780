"""Compare ce and ohem on the embedded demo: same config, same budget, several seeds.

    python benchmarks/demo_losses.py

Writes benchmarks/results/demo_losses.json: mIoU after the first epoch and at the end, and each
class's IoU, by loss and seed.
"""

from __future__ import annotations

from machine import RESULTS
from trainings import ROOT, compare

LOSSES, SEEDS = ("ce", "ohem"), (0, 1, 2)

if __name__ == "__main__":
    compare(
        "python benchmarks/demo_losses.py",
        RESULTS / "demo_losses.json",
        ROOT / "configs/demo.yaml",
        {loss: ["--loss", loss] for loss in LOSSES},
        SEEDS,
    )
