"""report.html from scores and images: one file, which loads nothing else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.files import write_text
from segtrain.render.overlay import Palette
from segtrain.render.plots import reliability_chart, training_charts
from segtrain.render.templating import page
from segtrain.render.viewer_images import LONGEST, Shown, distinct, repainted

LIMIT = 9_500_000  # bytes of a page
CELLS = 40  # classes in the table of confusions
MIXED_UP = 8  # pairs of classes that are confused most
NUMBERS = {
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
    "fw_iou": "frequency weighted IoU",
    "boundary_iou": "boundary IoU",
    "miou_absent_as_0": "mIoU, absent classes as 0",
    "ece": "calibration error (ECE)",
}


def write_report(
    path: Path, report: dict[str, Any], pictures: list[Shown], palette: Palette
) -> None:
    """report.html. Pictures that would make it larger than LIMIT are left out, the best ones first.

    `report` is what evaluate knows: title, headline, metrics, confusion, confused, history, data,
    provenance, expression.
    """
    colours = distinct(palette[: len(report["metrics"]["classes"])])
    context = contents(report) | {"colours": colours}
    shown = [with_layers(picture, colours) for picture in pictures]
    order = sorted(range(len(shown)), key=lambda i: (pictures[i].kind == "best", i))
    while True:
        chosen = [shown[i] for i in sorted(order)]
        text = page(
            "report.html",
            sections=[s for s in SECTIONS if shown or s[0] != "images"],
            **context,
            **choices(chosen),
            pictures=chosen,
            dropped=len(shown) - len(chosen),
            script_data=for_script(report, colours, context["grid"]),
        )
        if len(text.encode()) <= LIMIT or not order:
            return write_text(path, text)
        order.pop()


def contents(report: dict[str, Any]) -> dict[str, Any]:
    """What report.html says, besides the pictures."""
    metrics, history = report["metrics"], report["history"]
    mining = any(row.get("kept") is not None for row in metrics["classes"])
    means = {name: metrics[key] for key, name in MEANS.items()}
    if metrics["miou_absent_as_0"] == metrics["miou"]:  # no class is absent
        means.pop(MEANS["miou_absent_as_0"])
    calibration = metrics["calibration"]
    return {
        "report_title": report["title"],
        "headline": report["headline"],
        "metrics": metrics,
        "expression": report["expression"],
        "data_set": report["data"],
        "provenance": report["provenance"],
        "longest": LONGEST,
        "columns": {key: name for key, name in NUMBERS.items() if key != "kept" or mining},
        "means": [(name, value) for name, value in means.items() if value is not None],
        "absent": [row["name"] for row in metrics["classes"] if row["iou"] is None],
        "sizes": list(metrics["regions"]),
        "grid": confusion_grid(report["confusion"]),
        "mixed_up": most_mixed_up(report),
        "located": bool(report["confused"]),
        "charts": training_charts(history) if history else [],
        "reliability": reliability_chart(calibration) if calibration else None,
    }


def with_layers(shown: Shown, colours: Palette) -> dict[str, Any]:
    """What the page says and shows of a picture: layers are (key, name, data URL, in words)."""
    truth, prediction = (repainted(ids, colours) for ids in (shown.truth, shown.prediction))
    layers = [
        ("image", "Image", "webp", shown.image, "as it is"),
        ("truth", "Truth", "png", truth, "painted by true class"),
        ("prediction", "Prediction", "png", prediction, "painted by predicted class"),
        ("errors", "Errors", "png", shown.errors, "wrong pixels dark red, right ones light grey"),
    ]
    if shown.hard is not None:
        words = "pixels that the loss keeps red, easy ones blue"
        layers.append(("hard", "Hard pixels", "webp", shown.hard, words))
    return {
        "name": shown.name,
        "caption": shown.caption,
        "kind": shown.kind,
        "size": shown.size,
        "layers": [
            (key, name, f"data:image/{kind};base64,{b64encode(content).decode()}", words)
            for key, name, kind, content, words in layers
        ],
    }


def choices(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """What the viewer can lay over an image."""
    hard = any(layer[0] == "hard" for picture in pictures for layer in picture["layers"])
    named = {
        "prediction": "Prediction",
        "truth": "Truth",
        "both": "Side by side",
        "errors": "Errors",
    }
    named |= {"hard": "Hard pixels"} if hard else {}
    best = any(picture["kind"] == "best" for picture in pictures)
    return {"choices": named | {"image": "None"}, "hard": hard, "best": best}


def confusion_grid(confusion: list[list[int]]) -> dict[str, Any]:
    """What the table of confusions shows: class ids, and rows of (pixels, share of the true class).

    Of more than CELLS classes those with most confused pixels, true or predicted.
    """
    counts = np.array(confusion, dtype=np.int64)
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    ids = sorted(np.argsort(-wrong, kind="stable")[:CELLS].tolist())
    totals = counts.sum(1).tolist()
    rows = [
        [(n, n / totals[true] if totals[true] else None) for n in counts[true, ids].tolist()]
        for true in ids
    ]
    return {"ids": ids, "rows": rows, "of": len(counts)}


def most_mixed_up(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells off the diagonal with most pixels, and the images that have most of them."""
    counts = np.array(report["confusion"], dtype=np.int64)
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    places = np.argsort(-counts, axis=None, kind="stable")[:MIXED_UP].tolist()
    cells = [divmod(place, len(counts)) for place in places]
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


def for_script(report: dict[str, Any], colours: Palette, grid: dict[str, Any]) -> dict[str, Any]:
    """What report.js reads: classes, their colours, and the images of each cell of the table.

    Images are named once, and cells say their numbers: {"true,predicted": [[image, pixels], ...]}.
    """
    ids = set(grid["ids"])
    found = {k: v for k, v in report["confused"].items() if ids.issuperset(k) and k[0] != k[1]}
    names = numbered(name for images in found.values() for name, _ in images)
    return {
        "classes": [row["name"] for row in report["metrics"]["classes"]],
        "colours": colours,
        "images": list(names),
        "confused": {
            f"{true},{predicted}": [[names[name], pixels] for name, pixels in images]
            for (true, predicted), images in found.items()
        },
    }


def numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(dict.fromkeys(names))}
