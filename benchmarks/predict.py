"""segtrain predict of a folder against the bare forward passes of its images.

    python benchmarks/predict.py RUN FOLDER

The first 300 images of the folder. Both ways run in turns, in processes of their own, on all cores
and in the precision that predict takes: the command with its decoding, masks and overlays, and the
network's logits of images that are in memory already. The command's time is what it prints, without
the start of Python and the loading of weights, which the other leaves out too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from machine import RESULTS, machine

from segtrain.commands.requests import request_network
from segtrain.data.images import ImageReader
from segtrain.data.loading.dataset import as_tensor
from segtrain.distributed.devices import build_predictor
from segtrain.distributed.fabric import make_fabric
from segtrain.models.checkpoint import load_model
from segtrain.runs.folder import find_checkpoint

FRAMES, ROUNDS = 300, 3


def time_forward(run: str, folder: Path) -> float:
    """Return the images a second of the bare forward passes."""
    request = request_network(find_checkpoint(run, Path("runs")), [], {"train.device": "cpu"})
    model, _ = load_model(request.checkpoint)
    fabric = make_fabric(request.config.train)
    network = build_predictor(model.to(memory_format=torch.channels_last), fabric)
    reader = ImageReader.of(request.config.data, request.config.model.in_channels)
    images = [as_tensor(reader(path)).permute(2, 0, 1)[None] for path in sorted(folder.iterdir())]
    network(images[0])
    began = time.perf_counter()
    for image in images:
        network(image)
    return len(images) / (time.perf_counter() - began)


def time_predict(run: str, folder: Path) -> float:
    """Return the images a second that the command prints."""
    with tempfile.TemporaryDirectory() as out:
        command = ["predict", folder, "--checkpoint", run, "--out", out, "--device", "cpu"]
        done = subprocess.run(
            [sys.executable, "-m", "segtrain", *map(str, command)],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(rf"predicted {FRAMES}, ([\d.]+) images/s", done.stdout)
    assert found, done.stdout
    return float(found[1])


def main() -> None:
    if sys.argv[1] == "--forward":
        print(time_forward(sys.argv[2], Path(sys.argv[3])))
        return
    run, source = sys.argv[1:]
    rates: dict[str, list[float]] = {"forward": [], "predict": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = sorted(path for path in Path(source).iterdir() if path.suffix in (".png", ".jpg"))
        for path in images[:FRAMES]:
            (folder / path.name).symlink_to(path.resolve())
        for _ in range(ROUNDS):
            command = [sys.executable, __file__, "--forward", run, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rates["forward"].append(float(done.stdout))
            rates["predict"].append(time_predict(run, folder))
            print({key: values[-1] for key, values in rates.items()}, flush=True)
    ratios = [p / f for p, f in zip(rates["predict"], rates["forward"], strict=True)]
    content = {
        "command": f"python benchmarks/predict.py RUN {'/'.join(Path(source).parts[-2:])}",
        "environment": machine(),
        "frames": FRAMES,
        "images_per_second": rates,
        "ratio": {"median": median(ratios), "least": min(ratios), "most": max(ratios)},
    }
    (RESULTS / "predict.json").write_text(json.dumps(content, indent=1) + "\n")
    print(content["ratio"])


if __name__ == "__main__":
    main()
