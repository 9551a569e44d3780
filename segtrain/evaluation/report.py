"""The files of an evaluation: metrics.json, tables, pictures, and report.html."""

from __future__ import annotations

import csv
import os
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segtrain.config.loading import to_yaml
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.pictures import paint_extremes
from segtrain.evaluation.subject import Subject
from segtrain.files import write_csv, write_json
from segtrain.metrics import bootstrap, calibration
from segtrain.metrics.confusion import Scores, score_counts, score_matrix
from segtrain.render.plots import save_confusion
from segtrain.render.report_page import write_report
from segtrain.runs.environment import collect_environment

SIZES = ("small", "medium", "large")


def write(
    subject: Subject, accumulator: Accumulator, groups: list[str], seconds: float
) -> dict[str, Any]:
    """Writes all files; the content of metrics.json. groups: of each image, as groups_of has it."""
    folder, names, images = subject.folder, subject.classes, subject.images
    metrics = metrics_of(subject, accumulator, groups)
    rows = [
        image_row(images[i], groups[i], c, names)
        for i, c in sorted(accumulator.image_counts.items())
    ]
    matrix = accumulator.confusion.matrix.cpu()
    write_json(folder / "metrics.json", metrics)
    write_csv(folder / "per_image.csv", rows)
    write_csv(folder / "confusion.csv", confusion_rows(matrix, names))
    title = f"mIoU {metrics['miou']:.4f} on {subject.split}"
    save_confusion(folder / "confusion.png", matrix, names, title)
    pictures = list(
        paint_extremes(subject, dict(zip(sorted(accumulator.image_counts), rows, strict=True)))
    )
    page = {
        "title": subject.title,
        "headline": metrics["headline"],
        "metrics": metrics,
        "confusion": matrix.tolist(),
        "confused": {
            cell: [(images[i], n) for i, n in found] for cell, found in accumulator.most_confused()
        },
        "history": read_history(subject.history),
        "data": describe_data(subject, accumulator),
        "provenance": provenance(subject, seconds),
        "expression": subject.config.loss.expression if subject.checkpoint else None,
    }
    write_report(folder / "report.html", page, pictures, subject.palette)
    return metrics


def refuse_unwritable(folder: Path) -> None:
    """Raises SegtrainError where a report can't be written, before anything is scored."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise SegtrainError(
            f"cannot write the report to {folder}: {place} is no folder that can be written to; "
            "copy or link what is to be scored to one that can"
        )


def groups_of(images: list[str], pattern: str | None) -> list[str]:
    """What each image is drawn with: the text that the pattern finds in its name, else its name.

    That of the first of its groups which found any, where it has groups. Raises UsageError for a
    name in which it finds nothing.
    """
    if pattern is None:
        return images
    found = [re.search(pattern, name) for name in images]
    missed = [name for name, match in zip(images, found, strict=True) if match is None]
    if missed:
        raise UsageError(
            f"eval.group_by: {pattern!r} finds nothing in {len(missed)} of {len(images)} names, "
            f"such as {missed[0]}; '|(.+)' at its end lets those stand alone"
        )
    return [next(filter(None, match.groups()), match[0]) for match in found if match]


def metrics_of(subject: Subject, accumulator: Accumulator, groups: list[str]) -> dict[str, Any]:
    """The content of metrics.json: fractions, null where undefined; intervals are of 95 %."""
    names = subject.classes
    scores = score_matrix(accumulator.confusion.matrix, names)
    counts = np.stack([accumulator.image_counts[i] for i in sorted(accumulator.image_counts)])
    drawn = bootstrap.sum_by_group(counts, [groups[i] for i in sorted(accumulator.image_counts)])
    mean_ci: list[float] | None = None
    class_cis: list[list[float] | None] = [None] * len(names)
    if len(drawn) > 1:  # of one group nothing can be said
        ious = bootstrap.compute_ious(bootstrap.resample_sums(drawn))
        mean_ci = bootstrap.percentile_interval(bootstrap.compute_mious(ious))
        class_cis = [bootstrap.percentile_interval(ious[:, c]) for c in range(len(names))]
    boundaries = [int(i) / int(u) if u else None for i, u in accumulator.boundary.T]
    pixels = accumulator.confusion.matrix.sum(1).tolist()
    classes = []
    for c, scores_of_class in enumerate(scores.classes):
        row: dict[str, Any] = {
            "name": scores_of_class.name,
            "iou": scores_of_class.iou,
            "iou_ci": class_cis[c],
        }
        row |= asdict(scores_of_class)  # the keys that are there already stay in front
        row |= {"boundary_iou": boundaries[c], "regions": recalls(accumulator.regions[c])}
        if subject.mines:
            row["kept"] = accumulator.kept[c].item() / pixels[c] if pixels[c] else None
        classes.append(row)
    defined = [value for value in boundaries if value is not None]
    bins = accumulator.calibration.matrix if accumulator.calibration else None
    return {
        "miou": scores.miou,
        "miou_ci": mean_ci,
        **{k: v for k, v in asdict(scores).items() if k not in ("miou", "classes")},
        "boundary_iou": sum(defined) / len(defined) if defined else None,
        "ece": None if bins is None else calibration.compute_ece(bins),
        "images": len(counts),
        "groups": len(drawn),
        "headline": headline(scores, mean_ci, subject, len(counts), len(drawn)),
        "classes": classes,
        "regions": recalls(accumulator.regions.sum(0)),
        "calibration": None if bins is None else calibration.tabulate_bins(bins),
    }


def recalls(regions: np.ndarray) -> dict[str, dict[str, Any]]:
    """(3,2) counts of regions and of those found, by size."""
    return {
        size: {"count": count, "found": found, "recall": found / count if count else None}
        for size, (count, found) in zip(SIZES, regions.tolist(), strict=True)
    }


def headline(
    scores: Scores, interval: list[float] | None, subject: Subject, images: int, groups: int
) -> str:
    """The number and what it is of, in one line."""
    absent, spread, without = scores.absent, "", ""
    present = len(scores.classes) - len(absent)
    if interval:
        over = f"{groups} groups of images" if subject.config.eval.group_by else "images"
        spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f} over {over})"
    if absent:
        as_0 = f"as 0 in it: {scores.miou_absent_as_0:.4f}"
        without = f" ({shorten(absent)} absent, in no mean; {as_0})"
    tta = subject.config.eval.tta if subject.checkpoint else []
    views = f", averaged over {', '.join(map(str, tta))}" if tta else ""
    return (
        f"mIoU {scores.miou:.4f} on {subject.split}{spread}: macro over {present} of "
        f"{len(scores.classes)} classes{without}, dataset level, ignore id "
        f"{subject.config.data.lb_ignore}, native size, {images} image{'s' if images > 1 else ''}"
        f"{views}"
    )


def image_row(image: str, group: str, counts: np.ndarray, names: list[str]) -> dict[str, Any]:
    """A row of per_image.csv, from tp, fp and fn of each class (3,C)."""
    scores, (tp, fp, fn) = score_counts(counts.T.tolist(), names), counts.tolist()
    row = {
        "image": image,
        "group": group,
        "miou": scores.miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "pixels": sum(tp) + sum(fn),
    }
    ious = [each.iou for each in scores.classes]
    for kind, values in (("iou", ious), ("tp", tp), ("fp", fp), ("fn", fn)):
        row |= {f"{kind}/{name}": value for name, value in zip(names, values, strict=True)}
    return row


def confusion_rows(matrix: Tensor, names: list[str]) -> list[dict[str, Any]]:
    return [
        {"true \\ predicted": name} | dict(zip(names, row, strict=True))
        for name, row in zip(names, matrix.tolist(), strict=True)
    ]


def read_history(table: Path | None) -> list[dict[str, float | None]] | None:
    """The rows of a run's metrics.csv, if it has one."""
    if table is None or not table.is_file():
        return None
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(v) if v else None for key, v in row.items()} for row in rows]


def describe_data(subject: Subject, accumulator: Accumulator) -> dict[str, Any]:
    sizes = [f"{width}x{height}" for (height, width), _ in accumulator.sizes.most_common(3)]
    more = len(accumulator.sizes) - len(sizes)
    return {
        "path": subject.config.data.path,
        "split": subject.split,
        "layout": subject.layout,
        "images": sum(accumulator.sizes.values()),
        "sizes": ", ".join(sizes) + (f" and {more} more" if more else ""),
        "ignored": accumulator.ignored_share,
    }


def provenance(subject: Subject, seconds: float) -> dict[str, Any]:
    """What it takes to get the same numbers again."""
    found = collect_environment(subject.device)
    return {
        "command": shlex.join(["segtrain", *sys.argv[1:]]),
        "checkpoint": str(subject.checkpoint) if subject.checkpoint else None,
        "config": to_yaml(subject.config),
        "versions": {"python": found["python"]} | found["packages"],
        "hardware": f"{found['device_name']} ({found['device']}, {found['platform']})",
        "precision": subject.config.train.precision,
        "segtrain": found["segtrain"],
        "commit": found["git_commit"],
        "date": found["started"][:16].replace("T", " "),
        "seconds": seconds,
    }
