"""Time and memory of `segtrain predict` on one large image.

    python benchmarks/large_image.py [--size PIXELS] [--out FILE]

Paints a square image of coloured blocks in a temporary folder, saves it as PNG, and predicts it in
a process of its own, with a small U-Net of random weights and the default windows: as it is, and
with everything else that predict can write (legend, probabilities). The peak is that of the whole
process, from its imports to the last file.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import RESULTS, machine
from PIL import Image

from segtrain.config import Config
from segtrain.models.checkpoint import Meta, save_model
from segtrain.models.inference import choose_window, place_windows
from segtrain.models.segmentation import build_model

RESULT = RESULTS / "large_image.json"
SEED, CLASSES, BLOCK = 0, 11, 8
GOAL = 4_000_000_000  # bytes
OPTIONS = {"decoder_channels": [32, 16, 16, 8, 8]}
CASES = {"default": [], "all files": ["--legend", "--set", "predict.save_probs=true"]}
PREDICT = """
import resource, sys
from segtrain.cli.app import app
try:
    app(["predict", *sys.argv[1:]])
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak_bytes={peak}", file=sys.stderr)
"""


def write_image(path: Path, size: int) -> None:
    blocks = np.random.default_rng(SEED).integers(
        256, size=(-(-size // BLOCK), -(-size // BLOCK), 3), dtype=np.uint8
    )
    small = Image.fromarray(blocks)
    box = (0, 0, size / BLOCK, size / BLOCK)
    small.resize((size, size), Image.Resampling.NEAREST, box).save(path, compress_level=1)


def write_checkpoint(path: Path) -> Config:
    torch.manual_seed(SEED)
    names = [f"class {number}" for number in range(CLASSES)]
    palette = np.random.default_rng(SEED).integers(256, size=(CLASSES, 3)).tolist()
    config = Config(
        data={"classes": names, "palette": palette}, model={"weights": "none", "options": OPTIONS}
    )
    model = build_model(config.model, CLASSES)
    meta = Meta.of(model, config, classes=names, palette=palette, epoch=0, miou=None)
    save_model(path, model, meta)
    return config


def measure(folder: Path, options: list[str]) -> dict:
    files = [folder / "image.png", "--checkpoint", folder / "model.safetensors"]
    command = [*files, "--out", folder / "out", "--device", "cpu", *options]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PREDICT, *command], stderr=subprocess.PIPE)
    seconds = time.perf_counter() - began
    messages = done.stderr.decode()
    if done.returncode:
        sys.exit(messages)
    written = {file.name: file.stat().st_size for file in sorted((folder / "out").iterdir())}
    for name in written:
        (folder / "out" / name).unlink()
    return {
        "options": options,
        "seconds": round(seconds, 1),
        "peak_bytes": int(re.search(r"peak_bytes=(\d+)", messages)[1]),
        "bytes_written": written,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=12_000, help="the image's side in pixels")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_checkpoint(folder / "model.safetensors")
        write_image(folder / "image.png", options.size)
        image_bytes = (folder / "image.png").stat().st_size
        cases = {}
        for case, more in CASES.items():
            cases[case] = measure(folder, more)
            print(f"{case}: {json.dumps(cases[case])}", flush=True)
    window = choose_window(options.size, options.size, config.eval)
    rows, columns = (len(place_windows(options.size, side, config.eval.overlap)) for side in window)
    found = machine()
    content = {
        "command": f"python benchmarks/large_image.py --size {options.size}",
        "seed": SEED,
        "environment": found,
        "image": {"size": [options.size, options.size], "png_bytes": image_bytes},
        "model": config.model.model_dump(include={"arch", "encoder", "options"})
        | {"classes": CLASSES},
        "windows": {"size": window, "overlap": config.eval.overlap, "count": rows * columns},
        "goal_bytes": GOAL,
        "cases": cases,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
