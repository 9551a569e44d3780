"""segtrain eval: scores of a split at the images' own size, of a network or of any masks."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from segtrain.commands.requests import MasksRequest, NetworkRequest
from segtrain.console import (
    Note,
    progress,
    show_names,
    terminal,
    write,
    write_json,
    write_notes,
    write_rows,
    write_table,
)
from segtrain.data.inspection.survey import open_data_set
from segtrain.data.loading.dataset import Pairs, worker_count
from segtrain.data.masks import MaskReader
from segtrain.distributed.devices import choose_layout
from segtrain.distributed.fabric import make_fabric
from segtrain.errors import SegtrainError, shorten
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.evaluation import Evaluation, ScoredCheckpoint
from segtrain.evaluation.external import (
    MaskPredictor,
    PredictedMasks,
    find_masks,
    refuse_other_palettes,
)
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.evaluation.report import (
    read_history,
    refuse_unwritable,
    write_evaluation,
)
from segtrain.evaluation.score_record import list_score_changes, name_changes
from segtrain.evaluation.scored_data import open_scored_data
from segtrain.losses.build import build_mining
from segtrain.losses.spec import parse_loss
from segtrain.models.runtimes import load_network
from segtrain.render.fonts import explain_missing_fonts
from segtrain.runs.folder import HISTORY, find_run_of


def evaluate_network(request: NetworkRequest, split: str, as_json: bool = False) -> Path:
    """Score a network's predictions of a split; write and print the report, return its folder."""
    began = time.perf_counter()
    return score_split(prepare_network(request, split, as_json), began, as_json)


def prepare_network(
    request: NetworkRequest, split: str, as_json: bool = False, mining: bool = True
) -> Evaluation:
    """Return a network's evaluation on a split, with all that predicting it takes.

    With `mining`, its predictions hold what a mining loss keeps.
    """
    checkpoint, config = request.checkpoint, request.config
    model, meta, weights = load_network(checkpoint, config.predict.tuned)
    changes = list_score_changes(request.own, config)
    if not request.meta.tuning:  # the field changes nothing
        changes = [key for key in changes if key != "predict.tuned"]
    scored = ScoredCheckpoint(checkpoint, weights, meta.epoch, meta.step)
    fabric = make_fabric(config.train)
    data = open_scored_data(meta, config.data, request.other_data, split)
    config = config.model_copy(update={"data": data.config})
    pairs = Pairs.of(data, split)
    write_notes(data.notes, stderr=as_json)  # stdout is for the JSON alone
    # as `predict` has it: another memory format rounds differently
    model = model.to(fabric.device).to(memory_format=choose_layout(fabric.device))
    spec = parse_loss(config.loss.expression, config.loss.thresh, config.loss.n_min_factor)
    mined = build_mining(spec, len(meta.classes), data.lb_ignore) if mining else None
    workers = worker_count(config.data.workers, fabric.device.type != "cpu", 1)
    predictor = SplitPredictor(model, fabric, workers, config.eval, mined)
    run = find_run_of(checkpoint)
    return Evaluation(
        folder=run / "eval" / split,
        config=config,
        data=data,
        split=split,
        classes=meta.classes,
        palette=meta.palette,
        pairs=pairs,
        predict=partial(predictor.predict, pairs),
        device=fabric.device,
        mining=mined is not None,
        checkpoint=scored,
        history=read_history(run / HISTORY),
        changes=name_changes(changes, checkpoint, meta.config.data.path, data.config.path),
        tuning=meta.tuning,
    )


def evaluate_masks(request: MasksRequest, split: str, as_json: bool = False) -> Path:
    """Score masks that another tool predicted of a split, as `evaluate_network` does a network."""
    began = time.perf_counter()
    folder, config = request.folder, request.config
    fabric = make_fabric(config.train)
    data = open_data_set(config.data, config.model.in_channels, split)
    pairs = Pairs.of(data, split)
    write_notes(data.notes, stderr=as_json)
    # tools write class ids; data sets may have other values, colours or a label map
    if config.eval.mask_values == "ids":
        options = replace(data.masks.options, grey_ids=True)
        ids = MaskReader(len(data.classes), {}, data.lb_ignore, data.palette, options=options)
        hint = "; if masks of --predictions have the data set's values, --set eval.mask_values=own"
        reader = PredictedMasks(ids, hint)
    else:
        reader = PredictedMasks(data.masks)
    workers = worker_count(config.data.workers, False, 1)
    masks = find_masks(folder, pairs.samples)
    refuse_other_palettes(masks, reader.masks, data.masks)
    predictor = MaskPredictor(masks, reader, data.masks, fabric.device, workers)
    evaluation = Evaluation(
        folder=folder / "eval" / split,
        config=config.model_copy(update={"data": data.config}),
        data=data,
        split=split,
        classes=data.classes,
        palette=data.palette,
        pairs=pairs,
        predict=predictor.predict,
        device=fabric.device,
    )
    return score_split(evaluation, began, as_json)


def score_split(evaluation: Evaluation, began: float, as_json: bool) -> Path:
    """Predict and score the split; write and print the report, return its folder.

    began: when the command started, by time.perf_counter().
    """
    refuse_unwritable(evaluation.folder)
    groups = evaluation.image_groups
    # masks of another tool have no probabilities
    indices, calibrated = range(len(evaluation.pairs)), evaluation.checkpoint is not None
    tuning = evaluation.tuning
    if tuning and evaluation.config.eval.tta:  # of averaged views it can't be undone
        tuning = None
    accumulator = Accumulator(
        len(evaluation.classes),
        evaluation.data.lb_ignore,
        evaluation.device,
        calibrated,
        tuning,
    )
    with accumulator:
        predictions = evaluation.predict(indices, accumulator if calibrated else None)
        for prediction in progress(predictions, "evaluating", len(indices)):
            accumulator.add(prediction)
    if not accumulator.confusion.matrix.any():  # before empty tables are written
        raise SegtrainError(
            f"{evaluation.data.config.path}: every pixel of {evaluation.split} is ignored; "
            "check data.classes and data.label_map against its mask values"
        )
    notes = [*evaluation.pairs.skipped_notes(), *explain_missing_fonts(evaluation.classes)]
    if evaluation.changes:
        folder = evaluation.folder
        folder = folder.with_name(f"{folder.name}-{evaluation.record(accumulator).short_hash}")
        evaluation = replace(evaluation, folder=folder)
        reasons = shorten(evaluation.changes, 5)
        text = f"apart from the run's own scores, for {reasons}: {folder}; compare takes it, too"
        notes = [*notes, Note(text, "note")]
    metrics = write_evaluation(evaluation, accumulator, groups, time.perf_counter() - began)
    if as_json:
        write_json(metrics)
    else:
        print_scores(metrics, evaluation)
    write_notes(notes, stderr=as_json)
    return evaluation.folder


def print_scores(metrics: dict[str, Any], evaluation: Evaluation) -> None:
    """Print a table within 80 columns, the means and the headline; colours on a terminal only."""
    columns = {
        "IoU": "iou",
        "95 % interval": "iou_ci",
        "Dice": "dice",
        "prec.": "precision",
        "recall": "recall",
        "bound.": "boundary_iou",
        "share": "share",
    }
    columns |= {"kept": "kept"} if evaluation.mining else {}
    in_colour = terminal().is_terminal
    rows: list[list[str | Text]] = []
    names = show_names([row["name"] for row in metrics["classes"]], 18 if in_colour else 20)
    for row, shown, colour in zip(metrics["classes"], names, evaluation.palette, strict=True):
        square = ("■ " if in_colour else "", f"rgb({','.join(map(str, colour))})")
        numbers = (format_cell(row[key]) for key in columns.values())
        rows.append([Text.assemble(square, shown), *numbers])
    last_first = range(len(columns), 1, -1)  # of the scores, IoU stays
    write_rows(["class", *columns], rows, drop=last_first)
    means = {
        "mIoU": "miou",
        "pixel accuracy": "pixel_accuracy",
        "mean accuracy": "mean_accuracy",
        "fw IoU": "fw_iou",
        "boundary IoU": "boundary_iou",
        "calibration error": "ece",
    }
    parts = [f"{name} {format_cell(metrics[key])}" for name, key in means.items()]
    write_table("  ".join(parts[:3]))
    write_table("  ".join(parts[3:]))
    regions = metrics["regions"].items()
    recalls = (f"{size} {format_cell(row['recall'])} of {row['count']}" for size, row in regions)
    write(f"regions found: {', '.join(recalls)}")
    if before := metrics.get("before_tuning"):
        miou, ece = map(format_cell, before.values())
        write(f"before tuning: mIoU {miou}  calibration error {ece}")
    write(metrics["headline"])
    write(f"report: {evaluation.folder / 'report.html'}")


def format_cell(value: float | list[float] | None) -> str:
    """Return a score or an interval with three digits, '-' where it is undefined."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value[0]:.3f}-{value[1]:.3f}"
