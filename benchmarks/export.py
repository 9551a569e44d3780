"""A run's network in torch, ONNX Runtime and OpenVINO: mIoU and milliseconds an image.

    python benchmarks/export.py RUN

Each format and precision is exported with its proof on the whole validation split, so that its mIoU
is from there. Then all classify the same frames in turns, on one thread, from bytes to class ids.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import openvino
import torch
from machine import RESULTS, machine

from segtrain.commands.requests import request_network
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation.scored_data import open_scored_data
from segtrain.models.checkpoint import load_model
from segtrain.models.exported import CARD, READERS

FRAMES, ROUNDS = 6, 6
VARIANTS = [
    (format, precision) for format in ("onnx", "openvino") for precision in ("32", "16", "int8")
]
Classify = Callable[[np.ndarray], Any]  # uint8 (1,3,H,W) -> class ids


def in_torch(checkpoint: Path) -> Classify:
    model, _ = load_model(checkpoint)
    model = model.to(memory_format=torch.channels_last)

    def classify(image: np.ndarray) -> Any:
        pixels = torch.from_numpy(image).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            return model(pixels).max(1).indices

    return classify


def in_onnxruntime(path: Path) -> Classify:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    return lambda image: session.run(None, {"images": image})


def in_openvino(path: Path) -> Classify:
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(path, "CPU", settings)
    return lambda image: network(image)


def main(run: Path) -> None:
    torch.set_num_threads(1)
    checkpoint = run / "checkpoints/best.safetensors"
    request = request_network(checkpoint, [], {})
    data = open_scored_data(request.meta, request.config.data, request.other_data, "val")
    pairs = Pairs.of(data, "val")
    step = len(pairs) // FRAMES
    frames = [pairs[i][0].unsqueeze(0).contiguous().numpy() for i in range(0, len(pairs), step)]
    rows: dict[str, dict[str, Any]] = {"torch 32": {}}
    programs = {"torch 32": in_torch(checkpoint)}
    for format, precision in VARIANTS:
        path = run / "export" / f"network-{precision}{'.onnx' if format == 'onnx' else '.xml'}"
        options = ["--format", format, "--precision", precision, "--out", str(path)]
        command = [sys.executable, "-m", "segtrain", "export", str(run), *options, "--max-drop=1"]
        if not path.exists():
            subprocess.run(command, check=True)
        card = json.loads(READERS[path.suffix](path)[CARD])
        name = f"{format} {precision}"
        files = [path] + ([path.with_suffix(".bin")] if format == "openvino" else [])
        rows[name] = {"proof": card["proof"], "bytes": sum(f.stat().st_size for f in files)}
        programs[name] = (in_onnxruntime if format == "onnx" else in_openvino)(path)
        rows["torch 32"]["proof"] = {"miou": card["proof"]["miou"]}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(ROUNDS + 1):
        for frame in frames[:FRAMES]:
            for name, classify in programs.items():
                began = time.perf_counter()
                classify(frame)
                if number:  # the first is for warming up
                    seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        rows[name]["ms"] = {"median": 1000 * median(times), "least": 1000 * min(times)}
        print(name, rows[name]["ms"], rows[name]["proof"].get("exported_miou"))
    content = {
        "command": "python benchmarks/export.py RUN",
        "network": f"{request.config.model.arch} {request.config.model.encoder}",
        "size": list(frames[0].shape[2:]),
        "images": len(pairs),
        "threads": 1,
        "environment": machine()
        | {"onnxruntime": onnxruntime.__version__}
        | {"openvino": openvino.__version__},
        "rows": rows,
    }
    (RESULTS / "export.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
