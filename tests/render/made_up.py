"""A report of made-up scores and scenes, as `eval` would hand it to write_report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from segtrain.render.viewer_images import ImageMaps, ViewerImage

NAMES = ["road", "building", "pole", "car", "sky"]
PALETTE = [(128, 64, 128), (70, 70, 70), (40, 40, 220), (40, 40, 220), (70, 130, 180)]  # 2 are one
SIZES = ("small", "medium", "large")


def made_up_report(names: list[str] = NAMES, images: int = 4, **changes: Any) -> dict[str, Any]:
    """The report's content; `changes` replace its keys."""
    rng, count = np.random.default_rng(len(names)), len(names)
    matrix = rng.integers(0, 90, (count, count)) * rng.integers(0, 2, (count, count))
    matrix += np.diag(rng.integers(500, 5000, count))
    files = [f"val/{i:03d}.png" for i in range(images)]
    classes = [made_up_class(name, *rng.uniform(0.1, 0.9, 8)) for name in names]
    miou = float(np.mean([row["iou"] for row in classes]))
    regions = {s: {"count": 40 * count, "found": 30 * count, "recall": 0.75} for s in SIZES}
    metrics = {
        "miou": miou,
        "miou_ci": [miou - 0.0321, miou + 0.0234],
        "miou_absent_as_0": miou,
        "pixel_accuracy": 0.8123,
        "mean_accuracy": 0.5678,
        "fw_iou": 0.7654,
        "boundary_iou": 0.3456,
        "ece": 0.0432,
        "images": images,
        "groups": images,
        "headline": f"mIoU {miou:.4f} on val: macro over {count} of {count} classes",
        "classes": classes,
        "regions": regions,
        "calibration": [
            {
                "low": i / 15,
                "high": (i + 1) / 15,
                "pixels": 100 * i * i,
                "confidence": (i + 0.5) / 15 if i else None,
                "accuracy": (i + 0.2) / 15 if i else None,
            }
            for i in range(15)
        ],
    }
    confused = {
        (true, other): [(files[(true + other) % images], int(matrix[true, other]))]
        for true in range(count)
        for other in range(count)
        if true != other and matrix[true, other]
    }
    return {
        "title": "unet, ohem+0.5*dice: val of a set",
        "headline": metrics["headline"],
        "metrics": metrics,
        "confusion": matrix.tolist(),
        "confused": confused,
        "history": made_up_history(12),
        "data": {
            "path": "shared/a set",
            "split": "val",
            "images": images,
            "layout": "pairs in folders of the splits",
            "ignored": 0.0833,
            "sizes": "160x120",
        },
        "provenance": {
            "command": "segtrain eval runs/one --split val --set 'eval.tta=[hflip]'",
            "config": "loss:\n  expression: ohem+0.5*dice\n",
            "versions": {"torch": "2.15.0", "timm": None},
            "hardware": "a processor of 2 cores",
            "precision": "bf16",
            "seconds": 187.4,
            "date": "2026-11-22 16:20",
            "segtrain": "0.5.0",
            "commit": "4f1c2d9a7be0",
            "checkpoint": "runs/one/checkpoints/best.safetensors",
        },
        "expression": "ohem+0.5*dice",
    } | changes


def made_up_class(name: str, iou: float, *numbers: float) -> dict[str, Any]:
    keys = ("dice", "precision", "recall", "share", "boundary_iou", "kept")
    found = {s: {"count": 40, "found": int(40 * n), "recall": n}
             for s, n in zip(SIZES, numbers, strict=False)}  # fmt: skip
    interval = [iou - 0.0512, iou + 0.0487]
    scores = dict(zip(keys, numbers, strict=False))  # more are drawn than are named
    return {"name": name, "iou": iou, "iou_ci": interval, "regions": found} | scores


def made_up_history(epochs: int) -> list[dict[str, float | None]]:
    """Rows as those of metrics.csv; every other epoch is validated."""
    return [
        {
            "epoch": float(epoch),
            "train_loss": 2.0 / epoch + 0.5,
            "val_miou": 0.6 - 0.5 / epoch if epoch % 2 else None,
            "loss/ohem/value": 1.5 / epoch + 0.4,
            "loss/dice/value": 0.5 / epoch + 0.1,
            "loss/ohem/kept": 0.9 / epoch,
            "loss/ohem/kept/road": 0.1,
        }
        for epoch in range(1, epochs + 1)
    ]


def made_up_masks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction (120,160): a column of 32 pixels a class; the first 10 rows ignored.

    From row 60 on, class 2 is predicted as 3.
    """
    truth = np.broadcast_to((np.arange(160) // 32 + seed) % 5, (120, 160)).copy()
    prediction = truth.copy()
    prediction[60:][truth[60:] == 2] = 3
    truth[:10] = 255
    return truth, prediction


def made_up_pictures(count: int = 4, names: list[str] | None = None) -> list[ViewerImage]:
    """Three of four are among the worst."""
    pictures = []
    for seed in range(count):
        truth, prediction = map(torch.from_numpy, made_up_masks(seed))
        image = torch.full((3, 120, 160), 25 * seed, dtype=torch.uint8)
        kept = (truth != prediction).float()
        kind = "best" if seed % 4 == 3 else "worst"
        name = names[seed] if names else f"val/{seed:03d}.png"
        caption = f"mIoU 0.{seed + 1}00"
        maps = ImageMaps(image, truth, prediction, kept, confidence=1 - kept)
        pictures.append(ViewerImage.encode(name, caption, kind, maps, 255, len(NAMES)))
    return pictures
