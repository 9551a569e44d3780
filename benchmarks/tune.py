"""segtrain tune of trained runs: what each choice gains on val, cross-fitted, and what is kept.

    python benchmarks/tune.py RUN...

Each run's checkpoint is tuned in a copy, by `segtrain tune --json`, so the runs stay as they are.
CamVid's frames are of one video; its runs are tuned a second time with frames in groups.
Nothing is trained; the seeds of the trainings, and the share of the images held out for val where
the data set has no split of its own, are in the result.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import RESULTS, machine

from segtrain.models.checkpoint import read_meta

BEST = Path("checkpoints/best.safetensors")
FRAMES = {"camvid": r"_\d{4}"}  # frames whose numbers differ in the last digit alone


def tune(run: Path, group_by: str | None) -> dict[str, Any]:
    """Return the choices on the run's val split, and the training that they are for."""
    sets = ["--set", f"data.group_by='{group_by}'"] if group_by else []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / BEST.name
        shutil.copyfile(run / BEST, copy)
        command = [sys.executable, "-m", "segtrain", "tune", str(copy), "--json", "--device", "cpu"]
        done = subprocess.run([*command, *sets], check=True, stdout=subprocess.PIPE)
    found, meta = json.loads(done.stdout), read_meta(run / BEST)
    config = meta.config
    held_out = config.data.val_fraction if "val" not in (config.data.splits or {}) else None
    return {
        "data": Path(found["data"]).name,
        "network": f"{config.model.arch}/{config.model.encoder}",
        "loss": config.loss.expression,
        "seed": config.train.seed,
        "steps": meta.step,
        "trained_at": json.loads((run / "environment.json").read_text())["git_commit"],
        "precision": config.train.precision,
        "val_fraction": held_out,
        "group_by": group_by,
        **{key: found[key] for key in ("weights", "images", "groups", "choices", "tuning")},
    }


def main(runs: list[Path]) -> None:
    rows = []
    for run in runs:
        name = Path(read_meta(run / BEST).config.data.path or "").name
        for group_by in dict.fromkeys((None, FRAMES.get(name))):
            rows.append(tune(run, group_by))
            for choice in rows[-1]["choices"]:
                print(run, group_by, json.dumps(choice), flush=True)
    content = {
        "command": f"python benchmarks/tune.py{' RUN' * len(runs)}",
        "environment": machine(),
        "runs": rows,
    }
    (RESULTS / "tune.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main([Path(run) for run in sys.argv[1:]])
