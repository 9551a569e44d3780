"""The files of an evaluation: metrics.json, tables, pictures and report.html."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segtrain.config.loading import to_yaml
from segtrain.errors import SegtrainError, first_line, shorten, translate_errors
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.evaluation import Evaluation
from segtrain.evaluation.pictures import HARD, WORST, paint_extremes
from segtrain.evaluation.score_record import SCORED, digest_images
from segtrain.files.tables import read_csv, save_csv
from segtrain.files.whole import save_json, whole_folder
from segtrain.metrics import bootstrap, calibration
from segtrain.metrics.confusion import Scores, score_counts, score_matrix
from segtrain.render.plots import save_confusion
from segtrain.render.report_page import write_report
from segtrain.runs.environment import collect_environment

SIZES = ("small", "medium", "large")
REPORT_FILES = {
    *("metrics.json", "per_image.csv", "confusion.csv", "confusion.png", "report.html"),
    *(WORST, HARD),
}


def write_evaluation(
    evaluation: Evaluation, accumulator: Accumulator, groups: list[str], seconds: float
) -> dict[str, Any]:
    """Write all files, or none, and return the content of metrics.json.

    groups: of each image, from `image_groups`; seconds: how long the evaluation took.
    """
    metrics = build_metrics(evaluation, accumulator, groups)
    with whole_folder(evaluation.folder, REPORT_FILES) as folder:
        _write_files(replace(evaluation, folder=folder), accumulator, metrics, groups, seconds)
    return metrics


def _write_files(
    evaluation: Evaluation,
    accumulator: Accumulator,
    metrics: dict[str, Any],
    groups: list[str],
    seconds: float,
) -> None:
    folder, names, images = evaluation.folder, evaluation.classes, evaluation.image_names
    rows = {
        i: build_image_row(images[i], groups[i], counts, names)
        | {"truth": f"{accumulator.truths[i]:08x}"}
        for i, counts in sorted(accumulator.image_counts.items())
    }
    matrix = accumulator.confusion.matrix.cpu()
    save_json(folder / "metrics.json", metrics)
    save_csv(folder / "per_image.csv", list(rows.values()))
    save_csv(folder / "confusion.csv", build_confusion_rows(matrix, names))
    title = f"mIoU {metrics['miou']:.4f} on {evaluation.split}"
    save_confusion(folder / "confusion.png", matrix, names, title)
    pictures = list(paint_extremes(evaluation, rows))
    page = {
        "title": evaluation.title,
        "headline": metrics["headline"],
        "metrics": metrics,
        "confusion": matrix.tolist(),
        "confused": {
            cell: [(images[i], pixels) for i, pixels in ranked]
            for cell, ranked in accumulator.most_confused()
        },
        "history": evaluation.history,
        "data": describe_data(evaluation, accumulator),
        "provenance": describe_provenance(evaluation, seconds)
        | {"scored": evaluation.record(accumulator).describe()},
        "expression": evaluation.config.loss.expression if evaluation.checkpoint else None,
    }
    write_report(folder / "report.html", page, pictures, evaluation.palette)


def refuse_unwritable(folder: Path) -> None:
    """Raise SegtrainError where a report can't be written, before anything is scored."""
    places = folder.resolve().parents  # the report's folder is replaced whole
    existing = folder if folder.is_file() else next(path for path in places if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise SegtrainError(
            f"cannot write the report to {folder}: {existing} is not a writable folder; copy or "
            "link the checkpoint or the masks to a folder that is"
        )


def build_metrics(
    evaluation: Evaluation, accumulator: Accumulator, groups: list[str]
) -> dict[str, Any]:
    """Return the content of metrics.json: fractions, null where undefined; 95 % intervals."""
    names = evaluation.classes
    scores = score_matrix(accumulator.confusion.matrix, names)
    order = sorted(accumulator.image_counts)
    counts = np.stack([accumulator.image_counts[i] for i in order])
    sums = bootstrap.sum_by_group(counts, [groups[i] for i in order])
    miou_interval: list[float] | None = None
    intervals: list[list[float] | None] = [None] * len(names)
    if len(sums) > 1:  # one group has no spread
        ious = bootstrap.compute_ious(bootstrap.resample_sums(sums))
        miou_interval = bootstrap.percentile_interval(bootstrap.compute_mious(ious))
        intervals = [bootstrap.percentile_interval(column) for column in ious.T]
    boundary = [int(i) / int(u) if u else None for i, u in accumulator.boundary.T]
    pixels = accumulator.confusion.matrix.sum(1).tolist()
    classes: list[dict[str, Any]] = []
    for c, each in enumerate(scores.classes):
        # the order of keys that readers of metrics.json know: each interval beside its score
        row = {"name": each.name, "iou": each.iou, "iou_ci": intervals[c], **asdict(each)}
        row |= {"boundary_iou": boundary[c], "regions": build_recalls(accumulator.regions[c])}
        if evaluation.mining:
            row["kept"] = accumulator.kept[c].item() / pixels[c] if pixels[c] else None
        classes.append(row)
    defined = [value for value in boundary if value is not None]
    bins = accumulator.calibration.matrix if accumulator.calibration else None
    return {
        "miou": scores.miou,
        "miou_ci": miou_interval,
        "miou_absent_as_0": scores.miou_absent_as_0,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "fw_iou": scores.fw_iou,
        "boundary_iou": sum(defined) / len(defined) if defined else None,
        "ece": None if bins is None else calibration.compute_ece(bins),
        "images": len({evaluation.pairs.samples[i].image for i in order}),
        "groups": len(sums),
        "headline": compose_score_headline(scores, miou_interval, evaluation, order, len(sums))
        + describe_tuning(evaluation, accumulator),
        "classes": classes,
        "regions": build_recalls(accumulator.regions.sum(0)),
        "calibration": None if bins is None else calibration.tabulate_bins(bins),
        SCORED: evaluation.record(accumulator).model_dump(mode="json"),
    } | describe_before(accumulator, names)


def describe_before(accumulator: Accumulator, names: list[str]) -> dict[str, Any]:
    """Return the scores that tuning has changed, as they were without it; {} where nothing is."""
    if not accumulator.tuning:
        return {}
    before = score_matrix(accumulator.confusion_before.matrix, names)
    ece = calibration.compute_ece(accumulator.calibration_before.matrix)
    return {"before_tuning": {"miou": before.miou, "ece": ece}}


def build_recalls(regions: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return count, found and recall by size, of (3,2) counts of regions and of those found."""
    return {
        size: {"count": count, "found": found, "recall": found / count if count else None}
        for size, (count, found) in zip(SIZES, regions.tolist(), strict=True)
    }


def compose_score_headline(
    scores: Scores,
    interval: list[float] | None,
    evaluation: Evaluation,
    scored: list[int],
    groups: int,
) -> str:
    """Return the mIoU and its protocol in one line; `scored` are the indices of samples."""
    images = len({evaluation.pairs.samples[index].image for index in scored})
    counted = f"{images} image{'s' if images > 1 else ''}"
    counted += f" in {len(scored)} areas" if len(scored) > images else ""
    absent, spread, without = scores.absent, "", ""
    present = len(scores.classes) - len(absent)
    if interval:
        over = f"{groups} groups of images" if evaluation.group_by else "images"
        spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f} over {over})"
    if absent:
        as_0 = f"{scores.miou_absent_as_0:.4f} if counted as 0"
        without = f" ({shorten(absent)} absent, in no mean; {as_0})"
    tta = evaluation.config.eval.tta if evaluation.checkpoint else []
    views = f", test-time augmentation {', '.join(map(str, tta))}" if tta else ""
    return (
        f"mIoU {scores.miou:.4f} on {evaluation.split}{spread}: macro over {present} of "
        f"{len(scores.classes)} classes{without}, dataset level, ignore id "
        f"{evaluation.data.lb_ignore}, native size, {counted}{views}"
    )


def describe_tuning(evaluation: Evaluation, accumulator: Accumulator) -> str:
    """Return which images a tuned network was tuned on, '' for any other."""
    if not evaluation.tuning:
        return ""
    same = evaluation.tuning.truth == digest_images(accumulator.truths)
    return f", tuned on {'this split' if same else 'a split that may have some of these images'}"


def build_image_row(image: str, group: str, counts: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return a row of per_image.csv, from tp, fp and fn of each class (3,C)."""
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


def build_confusion_rows(matrix: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Return the rows of confusion.csv."""
    return [
        {"true \\ predicted": name} | dict(zip(names, row, strict=True))
        for name, row in zip(names, matrix.tolist(), strict=True)
    ]


def read_history(table: Path) -> list[dict[str, float | None]] | None:
    """Return the rows of a run's metrics.csv, None without the file. Raise where it is damaged."""
    if not table.is_file():
        return None
    with translate_errors(
        lambda error: (
            f"{table}: damaged ({first_line(error)}); restore it, or remove it for a report "
            "without training curves"
        )
    ):
        rows = read_csv(table)
        return [
            {key: float(text) if text else None for key, text in row.items()}
            | {"epoch": int(row["epoch"])}  # curves are drawn over it
            for row in rows
        ]


def describe_data(evaluation: Evaluation, accumulator: Accumulator) -> dict[str, Any]:
    """Return the page's facts about the data."""
    sizes = [f"{width}x{height}" for (height, width), _ in accumulator.sizes.most_common(3)]
    others = len(accumulator.sizes) - len(sizes)
    return {
        "path": evaluation.data.config.path,
        "split": evaluation.split,
        "layout": evaluation.data.layout,
        "images": sum(accumulator.sizes.values()),
        "sizes": ", ".join(sizes) + (f" and {others} more" if others else ""),
        "ignored": accumulator.ignored_share,
    }


def describe_provenance(evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    """Return the page's facts that are needed to reproduce its numbers."""
    facts = collect_environment(evaluation.device)
    return {
        "command": shlex.join(["segtrain", *sys.argv[1:]]),
        "checkpoint": str(evaluation.checkpoint.path) if evaluation.checkpoint else None,
        "config": to_yaml(evaluation.config),
        "versions": {"python": facts["python"]} | facts["packages"],
        "hardware": f"{facts['device_name']} ({facts['device']}, {facts['platform']})",
        "precision": evaluation.precision,
        "segtrain": facts["segtrain"],
        "commit": facts["git_commit"],
        "date": facts["started"][:16].replace("T", " "),
        "seconds": seconds,
    }
