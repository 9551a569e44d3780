"""report.html from scores and images: one file that loads nothing else."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.console import safe, show_names
from segtrain.files.whole import save_text
from segtrain.render.overlay import ClassColours
from segtrain.render.plots import draw_reliability, draw_training_charts
from segtrain.render.templating import LONGEST_NAME, render_page
from segtrain.render.viewer_images import MAX_SIDE, ViewerImage, make_distinct, repaint_png

MAX_BYTES = 9_500_000  # of a page
MAX_GRID_CLASSES = 40  # classes in the confusion table
MAX_CONFUSED_PAIRS = 8  # in the list of those confused most
COLUMNS = {
    "dice": "Dice",
    "precision": "Precision",
    "recall": "Recall",
    "boundary_iou": "Boundary IoU",
    "share": "Share",
    "kept": "Kept",
}
SECTIONS = [
    ("classes", "Classes"),
    ("images", "Images"),
    ("confusion", "Confusion"),
    ("training", "Training"),
    ("calibration", "Calibration"),
    ("data", "Data"),
    ("provenance", "How it was made"),
]
MEANS = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "fw_iou": "frequency-weighted IoU",
    "boundary_iou": "boundary IoU",
    "miou_absent_as_0": "mIoU with absent classes as 0",
    "ece": "calibration error (ECE)",
}


def write_report(
    path: Path, report: dict[str, Any], pictures: list[ViewerImage], palette: ClassColours
) -> None:
    """Write report.html. Where it would exceed MAX_BYTES, pictures are left out, the best first.

    report: title, headline, metrics, confusion, confused, history, data, provenance, expression.
    """
    report = report | {"metrics": report["metrics"] | {"classes": name_rows(report)}}
    colours = make_distinct(palette[: len(report["metrics"]["classes"])])
    context = build_context(report) | {"colours": colours}
    layered = [add_layers(picture, colours) for picture in pictures]
    order = sorted(range(len(layered)), key=lambda i: (pictures[i].kind == "best", i))
    while True:  # the size is known only of a whole page
        chosen = [layered[i] for i in sorted(order)]
        text = render_page(
            "report.html",
            sections=[s for s in SECTIONS if layered or s[0] != "images"],
            **context,
            **build_viewer_context(chosen),
            pictures=chosen,
            dropped=len(layered) - len(chosen),
            script_data=build_script_data(report, colours, context["grid"]),
        )
        if len(text.encode()) <= MAX_BYTES or not order:
            return save_text(path, text)
        order.pop()


def name_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the classes with their names as the page shows them."""
    rows = report["metrics"]["classes"]
    names = show_names([row["name"] for row in rows], LONGEST_NAME)
    return [row | {"name": name} for row, name in zip(rows, names, strict=True)]


def build_context(report: dict[str, Any]) -> dict[str, Any]:
    """Return what the template reads, besides the pictures."""
    metrics, history = report["metrics"], report["history"]
    mining = any(row.get("kept") is not None for row in metrics["classes"])
    means = {name: metrics[key] for key, name in MEANS.items()}
    if metrics["miou_absent_as_0"] == metrics["miou"]:  # no class is absent: the same number twice
        means.pop(MEANS["miou_absent_as_0"])
    calibration = metrics["calibration"]
    return {
        "report_title": report["title"],
        "headline": report["headline"],
        "metrics": metrics,
        "expression": report["expression"],
        "data_set": report["data"],
        "provenance": report["provenance"],
        "max_side": MAX_SIDE,
        "columns": {key: name for key, name in COLUMNS.items() if key != "kept" or mining},
        "means": [(name, value) for name, value in means.items() if value is not None],
        "absent": [row["name"] for row in metrics["classes"] if row["iou"] is None],
        "sizes": list(metrics["regions"]),
        "grid": build_confusion_grid(report["confusion"]),
        "most_confused": rank_confused_pairs(report),
        "located": bool(report["confused"]),
        "charts": draw_training_charts(history) if history else [],
        "reliability": draw_reliability(calibration) if calibration else None,
    }


def add_layers(picture: ViewerImage, colours: ClassColours) -> dict[str, Any]:
    """Return a picture for the template; its layers are (key, name, data URL, alt text)."""
    truth, prediction = (repaint_png(ids, colours) for ids in (picture.truth, picture.prediction))
    layers = [
        ("image", "Image", "webp", picture.image, "original"),
        ("truth", "Truth", "png", truth, "painted by true class"),
        ("prediction", "Prediction", "png", prediction, "painted by predicted class"),
        ("errors", "Errors", "png", picture.errors, "wrong pixels dark red, correct ones grey"),
    ]
    if picture.hard is not None:
        alt = "pixels that the loss keeps red, easy ones blue"
        layers.append(("hard", "Hard pixels", "webp", picture.hard, alt))
    if picture.confidence is not None:
        alt = "probability of the predicted class, white for 1"
        layers.append(("confidence", "Confidence", "webp", picture.confidence, alt))
    return {
        "name": safe(picture.name),
        "caption": picture.caption,
        "kind": picture.kind,
        "size": picture.size,
        "layers": [
            (key, name, f"data:image/{kind};base64,{b64encode(content).decode()}", alt)
            for key, name, kind, content, alt in layers
        ],
    }


def build_viewer_context(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the viewer's layers, the kinds of all pictures, and whether there are best images."""
    shown = {layer[0] for picture in pictures for layer in picture["layers"]}
    names = {
        "prediction": "Prediction",
        "truth": "Truth",
        "both": "Side by side",
        "errors": "Errors",
    }
    more = {"hard": "Hard pixels", "confidence": "Confidence"}
    names |= {key: name for key, name in more.items() if key in shown}
    best = any(picture["kind"] == "best" for picture in pictures)
    return {"choices": names | {"image": "None"}, "shown": shown, "best": best}


def build_confusion_grid(confusion: list[list[int]]) -> dict[str, Any]:
    """Return class ids, and rows of (pixels, share of the true class), for the confusion table.

    Of more than MAX_GRID_CLASSES classes, those with most confused pixels, true or predicted.
    """
    counts = np.array(confusion, dtype=np.int64)
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    ids = sorted(np.argsort(-wrong, kind="stable")[:MAX_GRID_CLASSES].tolist())
    totals = counts.sum(1).tolist()
    rows = [
        [(n, n / totals[true] if totals[true] else None) for n in counts[true, ids].tolist()]
        for true in ids
    ]
    return {"ids": ids, "rows": rows, "of": len(counts)}


def rank_confused_pairs(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells off the diagonal with most pixels, and the images with most of them."""
    counts = np.array(report["confusion"], dtype=np.int64)
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MAX_CONFUSED_PAIRS].tolist()
    cells = [divmod(flat, len(counts)) for flat in order]
    return [
        {
            "true": true,
            "predicted": predicted,
            "pixels": int(counts[true, predicted]),
            "share": counts[true, predicted] / totals[true],
            "images": [name for name, _ in report["confused"].get((true, predicted), [])][:3],
        }
        for true, predicted in cells
        if counts[true, predicted]
    ]


def build_script_data(
    report: dict[str, Any], colours: ClassColours, grid: dict[str, Any]
) -> dict[str, Any]:
    """Return the data of report.js: classes, their colours, and the images of each table cell.

    Each image is named once; cells hold its number: {"true,predicted": [[number, pixels], ...]}.
    """
    ids = set(grid["ids"])
    cells = {k: v for k, v in report["confused"].items() if ids.issuperset(k) and k[0] != k[1]}
    names = dict.fromkeys(name for images in cells.values() for name, _ in images)
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "classes": [row["name"] for row in report["metrics"]["classes"]],
        "colours": colours,
        "images": [safe(name) for name in names],
        "confused": {
            f"{true},{predicted}": [[numbers[name], pixels] for name, pixels in images]
            for (true, predicted), images in cells.items()
        },
    }
