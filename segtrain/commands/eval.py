"""segtrain eval: scores of a split at the images' own size, of a checkpoint or of any masks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtrain.config import Config
from segtrain.config.loading import load_config
from segtrain.console import progress
from segtrain.data.data_set import DataSet
from segtrain.data.inspection.survey import open_data_set
from segtrain.data.loading.dataset import Pairs, worker_count
from segtrain.data.masks import MaskReader
from segtrain.distributed.fabric import make_fabric
from segtrain.errors import SegtrainError, UsageError
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.external import PredictedMasks, pairs_of_masks, read_split
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.evaluation.report import groups_of, refuse_unwritable, write
from segtrain.evaluation.subject import Subject
from segtrain.losses.build import build_mining
from segtrain.losses.spec import parse_loss
from segtrain.models.checkpoint import load_model
from segtrain.runs.folder import HISTORY, find_checkpoint, find_run

Say = Callable[[str], None]


def evaluate(
    target: Path | None,
    out: Path,
    split: str,
    sets: list[str] = [],
    flags: dict[str, Any] = {},
    masks: Path | None = None,
    file: Path | None = None,
    as_json: bool = False,
) -> Path:
    """The verb: scores a split with a checkpoint, or of the folder `masks` what another tool made
    of it; writes and prints the report; its folder."""
    if file and not masks:
        raise UsageError("--config is for --predictions; a checkpoint has its own")
    if masks and target:
        raise UsageError(f"{target} and --predictions: score one of the two")
    say = partial(print, file=sys.stderr if as_json else sys.stdout)
    began = time.perf_counter()
    if masks:
        subject = of_masks(masks, split, load_config(file, sets, flags), say)
    else:
        subject = of_checkpoint(find_checkpoint(target, out), split, sets, flags, say)
    refuse_unwritable(subject.folder)
    groups = groups_of(subject.images, subject.config.eval.group_by)
    count, lb_ignore = len(subject.classes), subject.config.data.lb_ignore
    everything = range(len(subject.pairs))
    with Accumulator(count, lb_ignore, subject.device, calibrated=not masks) as accumulator:
        predictions = subject.predict(everything, accumulator.calibration)
        for prediction in progress(predictions, "evaluating", len(everything)):
            accumulator.add(prediction)
    if not accumulator.confusion.matrix.any():
        raise SegtrainError(
            f"{subject.config.data.path}: every pixel of {split} is ignored: no score; do "
            "data.classes and data.label_map say what its mask values mean?"
        )
    metrics = write(subject, accumulator, groups, time.perf_counter() - began)
    if as_json:
        print(json.dumps(metrics, indent=2, allow_nan=False))
    else:
        print_scores(metrics, subject)
    if subject.pairs.skipped:
        say(subject.pairs.skipped)
    return subject.folder


def of_checkpoint(
    checkpoint: Path, split: str, sets: list[str], flags: dict[str, Any], say: Say
) -> Subject:
    """A network's predictions of a split."""
    model, meta = load_model(checkpoint)
    config = meta.config_here(checkpoint, sets, flags)
    fabric = make_fabric(config.train)
    data = open_split(config, split, say)
    pairs = Pairs.of(data, split)
    model = model.to(fabric.device).to(memory_format=torch.channels_last)  # as predict has it
    spec = parse_loss(config.loss.expression, config.loss.thresh, config.loss.n_min_factor)
    mining = build_mining(spec, len(meta.classes), config.data.lb_ignore)
    workers = worker_count(config.data.workers, fabric.device.type == "cuda", 1)
    predictor = SplitPredictor(model, fabric, workers, config.eval, mining)
    run = find_run(checkpoint)
    return Subject(
        folder=run / "eval" / split,
        config=config,
        split=split,
        layout=data.layout,
        classes=meta.classes,
        palette=meta.palette,
        pairs=pairs,
        predict=partial(predictor.predict, pairs),
        device=fabric.device,
        mines=mining is not None,
        checkpoint=checkpoint,
        history=run / HISTORY,
    )


def of_masks(folder: Path, split: str, config: Config, say: Say) -> Subject:
    """What another tool predicted of a split, as masks."""
    fabric = make_fabric(config.train)
    data = open_split(config, split, say)
    config = config.model_copy(update={"data": data.config})
    if config.eval.mask_values == "ids":
        count, most = len(data.classes), data.config.max_pixels
        ids = MaskReader(count, {}, data.lb_ignore, data.palette, max_pixels=most)
        hint = "; if masks of --predictions have the data set's values, --set eval.mask_values=own"
        reader = PredictedMasks(ids, hint)
    else:
        reader = PredictedMasks(data.masks, "")
    pairs = Pairs.of(data, split)
    of_tool = pairs_of_masks(folder, pairs.samples, reader, data.masks)
    workers = worker_count(config.data.workers, False, 1)
    return Subject(
        folder=folder / "eval" / split,
        config=config,
        split=split,
        layout=data.layout,
        classes=data.classes,
        palette=data.palette,
        pairs=pairs,
        predict=lambda indices, _: read_split(of_tool, indices, fabric, workers),
        device=fabric.device,
    )


def open_split(config: Config, split: str, say: Say) -> DataSet:
    """The data set, which has the split; says where it is."""
    data = open_data_set(config.data, config.model.in_channels)
    pairs = len(data.split(split))
    for note in data.notes:
        say(str(note))
    say(f"{split}: {pairs} pairs")
    return data


def print_scores(metrics: dict[str, Any], subject: Subject) -> None:
    """The table, the means and the headline, within 80 columns; colours on a terminal only."""
    console = Console(highlight=False, markup=False)  # names are text, whatever they hold
    columns = {
        "IoU": "iou",
        "95 % interval": "iou_ci",
        "Dice": "dice",
        "prec.": "precision",
        "recall": "recall",
        "bound.": "boundary_iou",
        "share": "share",
    }
    columns |= {"kept": "kept"} if subject.mines else {}
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("class", max_width=20, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row, colour in zip(metrics["classes"], subject.palette, strict=True):
        name = Text(row["name"])
        if console.is_terminal:
            name = Text.assemble(("■ ", f"rgb({colour[0]},{colour[1]},{colour[2]})"), name)
        table.add_row(name, *(_cell(row[key]) for key in columns.values()))
    console.print(table)
    sizes = metrics["regions"]
    means = {
        "mIoU": "miou",
        "pixel accuracy": "pixel_accuracy",
        "mean accuracy": "mean_accuracy",
        "fw IoU": "fw_iou",
        "boundary IoU": "boundary_iou",
        "calibration error": "ece",
    }
    parts = [f"{name} {_cell(metrics[key])}" for name, key in means.items()]
    found = (f"{size} {_cell(r['recall'])} of {r['count']}" for size, r in sizes.items())
    for line in ("  ".join(parts[:3]), "  ".join(parts[3:]), f"regions found: {', '.join(found)}"):
        console.print(line, soft_wrap=True)
    console.print(metrics["headline"], soft_wrap=True)
    console.print(f"report: {subject.folder / 'report.html'}", soft_wrap=True)


def _cell(value: float | list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else f"{value[0]:.3f}-{value[1]:.3f}"
