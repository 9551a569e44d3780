"""Every architecture with 20 encoders, from `fit` to `predict`: what trains, and what is refused.

    python benchmarks/matrix.py

Each combination trains two steps on made-up images and is validated, then it is scored by `eval`,
predicts an image, and takes images of six sizes; or `fit` refuses it in one line before it trains.
results/matrix.json has the outcome of each. Any other outcome is a fault, which the exit code
tells. Weights are random.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from typer.testing import CliRunner

import segtrain
from segtrain.cli.app import app

ENCODERS = [
    *("resnet18", "mobilenet_v2", "efficientnet-b0", "timm-tf_efficientnet_lite0", "mit_b0"),
    *("vgg11_bn", "densenet121", "xception", "mobileone_s0", "timm-skresnet18"),
    *("tu-resnet18", "tu-tf_efficientnet_lite0", "tu-mobilenetv4_conv_small", "tu-convnext_atto"),
    *("tu-hrnet_w18_small", "tu-swin_tiny_patch4_window7_224", "tu-maxvit_rmlp_pico_rw_256"),
    *("tu-vit_tiny_patch16_224", "tu-vit_small_patch14_dinov2", "tu-efficientvit_b0"),
]
SIZES = [(5, 7), (33, 65), (64, 64), (97, 131), (160, 224), (224, 384)]  # height, width
TRAINING = (
    "--weights none --device cpu --precision 32 --workers 0 --crop 64x64 --batch-size 2 --epochs 1"
    " --set train.steps_per_epoch=2"
).split()


def write_pairs(folder: Path) -> Path:
    """Write six images of 80x56 and their masks of two classes."""
    generator = np.random.default_rng(0)
    for name, shape in (("images", (56, 80, 3)), ("masks", (56, 80))):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            values = generator.integers(0, 256 if len(shape) == 3 else 2, shape, dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{index}.png")
    return folder


def try_combination(
    arch: str, encoder: str, data: Path, folder: Path, sizes: list[tuple[int, int]]
) -> dict[str, str]:
    """Train, score and use a combination in an empty folder; return its outcome and any error."""

    def call(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        fault = result.exception
        if fault and not isinstance(fault, SystemExit):
            return -1, f"{type(fault).__name__}: {fault}"
        return result.exit_code, result.stderr.strip()

    run, image = folder / "run", data / "images" / "0.png"
    network = ["--arch", arch, "--encoder", encoder]
    fit = ("fit", "--data", data, *network, *TRAINING, "--out", folder, "--name", "run")
    code, text = call(*fit)
    if code == 2 and text.startswith("error: ") and "\n" not in text and not run.exists():
        return {"outcome": "refused", "error": text.removeprefix("error: ")}
    if code:
        return {"outcome": "fault", "error": f"fit ended with {code}: {text}"}
    for arguments in (
        ("eval", run, "--workers", "0"),
        ("predict", image, "--checkpoint", run, "--out", folder / "predicted"),
    ):
        code, text = call(*arguments)
        if code:
            return {"outcome": "fault", "error": f"{arguments[0]} ended with {code}: {text}"}
    with Image.open(folder / "predicted" / "0_mask.png") as mask:
        if mask.size != (80, 56):
            return {"outcome": "fault", "error": f"the mask has {mask.size}"}
    model, _ = segtrain.load(run / "checkpoints" / "best.safetensors")
    for size in sizes:
        with torch.inference_mode():
            logits = model(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
        if logits.shape != (1, 2, *size) or not logits.isfinite().all():
            return {"outcome": "fault", "error": f"wrong logits for {size}"}
    return {"outcome": "works"}


def try_apart(*arguments: Any) -> dict[str, str]:
    """Try a combination in a process of its own, which a library may crash."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        try:
            return pool.submit(try_combination, *arguments).result()
        except BrokenProcessPool:
            return {"outcome": "fault", "error": "the process crashed"}


def main() -> None:
    from machine import RESULTS, machine

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = write_pairs(Path(temporary) / "data")
        for arch, encoder in product(smp.MODEL_ARCHITECTURES_MAPPING, ENCODERS):
            folder = Path(temporary) / "combination"
            outcome = try_apart(arch, encoder, data, folder, SIZES)
            found.setdefault(arch, {})[encoder] = outcome
            shutil.rmtree(folder, ignore_errors=True)
            print(arch, encoder, *outcome.values(), flush=True)
    outcomes = [
        result["outcome"] for by_encoder in found.values() for result in by_encoder.values()
    ]
    content = {
        "command": "python benchmarks/matrix.py",
        "environment": machine(),
        "sizes": SIZES,
        "outcomes": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "combinations": found,
    }
    (RESULTS / "matrix.json").write_text(json.dumps(content, indent=1) + "\n")
    raise SystemExit("fault" in outcomes)


if __name__ == "__main__":
    main()
