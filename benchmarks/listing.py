"""Time and memory of listing, pairing and splitting a folder of many pairs.

    python benchmarks/listing.py [PAIRS]

Makes links to one image and one mask in a temporary folder and finds them in a process of its own;
writes benchmarks/results/listing.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from machine import RESULTS, machine
from PIL import Image

RESULT = RESULTS / "listing.json"
REPEATS = 3
FIND = """
import json, resource, sys, time
from pathlib import Path
from segtrain.config import DataConfig
from segtrain.data.layouts.detect import find_pairs
began = time.perf_counter()
found = find_pairs(DataConfig(), Path(sys.argv[1]))
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak_bytes": peak,
                  "pairs": {split: len(pairs) for split, pairs in found.splits.items()}}))
"""


def make_links(folder: Path, pairs: int) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir()
        first = folder / f"{name}.png"
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(first)
        for index in range(pairs):
            os.symlink(first, folder / name / f"frame_{index:07d}.png")


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_links(Path(folder), pairs)
        runs = []
        for _ in range(REPEATS):
            done = subprocess.run(
                [sys.executable, "-c", FIND, folder], check=True, capture_output=True, text=True
            )
            runs.append(json.loads(done.stdout))
    seconds = [run["seconds"] for run in runs]
    found = machine()
    content = {
        "command": f"python benchmarks/listing.py {pairs}",
        "environment": found,
        "pairs": runs[0]["pairs"],
        "seconds": {"median": median(seconds), "spread": [min(seconds), max(seconds)]},
        "peak_bytes": max(run["peak_bytes"] for run in runs),
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps({key: content[key] for key in ("pairs", "seconds", "peak_bytes")}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
