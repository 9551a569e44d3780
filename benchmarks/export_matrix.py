"""Each architecture in each export format: parity with torch at five sizes, or the refusal.

    python benchmarks/export_matrix.py

Networks have random weights and random statistics of their batch norms, and 5 classes. Encoders are
resnet18, or where an architecture takes none such, a small one of its own, and a few of timm's in
unet. results/export_matrix.json has for each format the seconds of the export, and the largest
difference of logits over the sizes as a share of the largest logit. What it has is not exported
again.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine
from torch import nn

from segtrain.commands.export import Export
from segtrain.commands.requests import ExportOptions
from segtrain.config import Config, ModelConfig
from segtrain.errors import SegtrainError
from segtrain.export.proof import SIZES, LogitDifference
from segtrain.models.checkpoint import Meta
from segtrain.models.encoders import ARCHITECTURES
from segtrain.models.exported import SUFFIXES
from segtrain.models.runtimes import load_exported
from segtrain.models.segmentation import SegmentationModel, build_model

RESULT = RESULTS / "export_matrix.json"
ENCODERS = {"dpt": "tu-vit_tiny_patch16_224", "segformer": "mit_b0"}
MORE = {
    "unet": [
        "tu-tf_efficientnet_lite0",
        "tu-convnext_atto",
        "tu-mobilenetv4_conv_small",
        "tu-tf_efficientnetv2_b0",
        "mobilenet_v2",
        "tu-pvt_v2_b0",
        "tu-mobilevit_xxs",
        "tu-coatnet_nano_rw_224",
        "tu-swin_tiny_patch4_window7_224",
    ],
    "fpn": ["tu-hrnet_w18_small"],
    "deeplabv3plus": ["tu-regnety_002"],
}
CLASSES = 5


def make(arch: str, encoder: str) -> tuple[SegmentationModel, Config]:
    torch.manual_seed(0)
    config = Config(model=ModelConfig(arch=arch, encoder=encoder, weights="none"))
    model = build_model(config.model, CLASSES).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model, config


def export(model: SegmentationModel, config: Config, format: str, folder: Path) -> dict[str, Any]:
    names = [str(i) for i in range(CLASSES)]
    palette = [(i, i, i) for i in range(CLASSES)]
    meta = Meta.of(model, config, classes=names, palette=palette, epoch=0, miou=None)
    job = Export(None, ExportOptions(format, None), model, meta)
    path = folder / f"network{SUFFIXES[format]}"
    began = time.perf_counter()
    try:
        (save,) = job.convert(folder / "log")
        save(path, job.describe())
        seconds = time.perf_counter() - began
        exported, _ = load_exported(path)
        shares = {}
        for count, height, width in SIZES:
            if model.find_size_error([(height, width)]):
                continue
            images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
            difference = LogitDifference()
            with torch.inference_mode():
                difference.add(model(images), exported(images))
            difference.refuse(f"{height}x{width}")
            shares[f"{count}x{height}x{width}"] = difference.share
        return {"seconds": seconds, "difference": max(shares.values()), "sizes": shares}
    except SegtrainError as error:
        return {"refused": str(error).replace(f"{folder}/", "")}


def main() -> None:
    torch.set_num_threads(1)
    content: dict[str, Any] = {"command": "python benchmarks/export_matrix.py"}
    content |= {"environment": machine(), "rows": {}}
    if RESULT.exists():
        content["rows"] = json.loads(RESULT.read_text())["rows"]
    for arch in ARCHITECTURES:
        for encoder in [ENCODERS.get(arch, "resnet18"), *MORE.get(arch, [])]:
            if f"{arch} {encoder}" in content["rows"]:
                continue
            model, config = make(arch, encoder)
            row = content["rows"][f"{arch} {encoder}"] = {}
            for format in SUFFIXES:
                with tempfile.TemporaryDirectory() as folder:
                    row[format] = export(model, config, format, Path(folder))
                print(arch, encoder, format, row[format], flush=True)
            RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
