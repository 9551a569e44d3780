"""Hard-example losses on CamVid, compared by `segtrain sweep` at a small budget.

    python benchmarks/camvid_losses.py FOLDER_OF_CAMVID [FOLDER_OF_THE_SWEEP]

FOLDER_OF_CAMVID has train/, trainannot/, val/ and valannot/. Trains configs/camvid.yaml for EPOCHS
epochs with each loss and seed, and writes benchmarks/results/camvid_losses.json: the sweep's own
comparison with the versions, and the commit of each run. Trainings that are complete in
FOLDER_OF_THE_SWEEP are not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from machine import RESULTS
from trainings import ROOT

LOSSES, SEEDS, EPOCHS = "ce,ohem,focal,ghm,ohem+dice", 2, 5


def main(data: str, out: str = "sweep") -> None:
    options = ["--loss", LOSSES, "--seeds", str(SEEDS), "--set", f"train.epochs={EPOCHS}"]
    files = ["--config", str(ROOT / "configs/camvid.yaml"), "--data", data, "--out", out]
    subprocess.run([sys.executable, "-m", "segtrain", "sweep", *options, *files], check=True)
    found = json.loads((Path(out) / "comparison.json").read_text())
    runs = [Path(run) for group in found["contenders"] for run in group.pop("runs")]
    environment = json.loads((runs[0] / "environment.json").read_text())
    for key in ("command", "started", "resumed", "launcher"):
        environment.pop(key, None)
    content = {
        "command": "python benchmarks/camvid_losses.py FOLDER_OF_CAMVID",
        "epochs": EPOCHS,
        "environment": environment,
        "commits": {run["run"].rpartition("/")[2]: run["commit"] for run in found.pop("runs")},
    }
    result = RESULTS / "camvid_losses.json"
    result.write_text(json.dumps(content | found, indent=1) + "\n")
    print(found["headline"])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
