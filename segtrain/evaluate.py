"""segtrain eval: one confusion matrix over a split, at the images' own resolution."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segtrain.checkpoint import Meta, load_model
from segtrain.config import Config
from segtrain.data.dataset import Batch, Pairs, checked, one_by_one, worker_count
from segtrain.data.findings import raise_errors
from segtrain.data.formats import find_pairs
from segtrain.data.locate import image_reader, locate, mask_reader, root_of
from segtrain.data.meaning import fill_in
from segtrain.devices import make_fabric, max_over_ranks
from segtrain.errors import SegtrainError, UsageError
from segtrain.inference import predict_logits
from segtrain.losses import Mining, build_mining
from segtrain.metrics import Confusion, Scores, score
from segtrain.model import SegmentationModel
from segtrain.progress import bar
from segtrain.ranks import Watch
from segtrain.render.overlay import (
    blend,
    colour_table,
    error_map,
    kept_map,
    panels,
    save_image,
    to_image,
    visible,
)
from segtrain.render.plots import save_confusion
from segtrain.runlog import find_checkpoint, run_of, write_csv, write_json
from segtrain.survive import StopWish, limits_explained


@dataclass(frozen=True)
class Predicted:
    """One image of a split after prediction, on the device; H and W are its own."""

    index: int
    image: Tensor  # uint8 (3,H,W), as it is looked at
    target: Tensor  # int64 (H,W)
    prediction: Tensor  # int64 (H,W)
    kept: Tensor | None  # (H,W), 0..1: how far a loss that mines keeps each pixel


def predict_split(
    model: SegmentationModel,
    pairs: Pairs,
    indices: range,
    fabric: Fabric,
    workers: int,
    mining: Mining | None = None,
    batch_size: int = 1,
) -> Iterator[Predicted]:
    """Predicts the pairs of `indices`, each at its own size.

    Up to batch_size images that follow each other and have one size are forwarded together.
    `mining` chooses among each image's pixels as if it was a batch.
    """
    model.eval()
    loader = one_by_one(pairs, indices, workers, fabric.device.type == "cuda")
    for batches in of_one_size(checked(loader), batch_size):
        images = torch.cat([batch.images for batch in batches])
        images = images.to(fabric.device, memory_format=torch.channels_last)
        height, width = images.shape[2:]
        advice = f"{len(images)} x {height}x{width} pixels at once are too much; " + (
            "set eval.batch_size=1" if len(images) > 1 else "make the images of that split smaller"
        )
        with fabric.autocast(), limits_explained(advice):
            many = predict_logits(model, images)
        for batch, image, logits in zip(batches, images, many.split(1)):
            targets = batch.targets.to(fabric.device).long()
            kept = mining.kept(logits, targets)[0] if mining else None
            prediction = logits.argmax(1)[0]
            yield Predicted(batch.indices[0], visible(image), targets[0], prediction, kept)


def of_one_size(batches: Iterable[Batch], most: int) -> Iterator[list[Batch]]:
    """Batches that follow each other and whose images have one shape, up to `most` together."""
    together: list[Batch] = []
    for batch in batches:
        shape = together and together[0].images.shape
        if len(together) == most or together and batch.images.shape != shape:
            yield together
            together = []
        together.append(batch)
    if together:
        yield together


def validate(
    model: SegmentationModel,
    pairs: Pairs,
    names: list[str],
    fabric: Fabric,
    workers: int,
    batch_size: int,
    wish: StopWish,
    watch: Watch,
) -> Scores | None:
    """Scores over all pairs, each counted once whatever the number of processes.

    None on all ranks where one left early because somebody wishes to stop.
    """
    confusion = Confusion(len(names), pairs.masks.lb_ignore, fabric.device)
    mine = range(fabric.global_rank, len(pairs), fabric.world_size)
    for predicted in predict_split(model, pairs, mine, fabric, workers, batch_size=batch_size):
        watch.check()
        if wish.signum:
            break
        confusion.update(predicted.prediction, predicted.target)
    left = torch.tensor(wish.signum, device=fabric.device)
    if max_over_ranks(left):
        return None
    return score(fabric.all_reduce(confusion.matrix, reduce_op="sum"), names)


def evaluate(
    target: Path | None,
    out: Path,
    split: str,
    sets: list[str] = [],
    flags: dict[str, Any] = {},
) -> Path:
    """The verb: scores a split with a checkpoint, writes and prints the report; its folder."""
    checkpoint = find_checkpoint(target, out)
    model, meta = load_model(checkpoint)
    config = meta.config_here(checkpoint, sets, flags)
    fabric = make_fabric(config.train)
    model = model.to(fabric.device, memory_format=torch.channels_last)
    pairs = split_of(config, split)
    workers = worker_count(config.data.workers, fabric.device.type == "cuda", 1)

    mining = build_mining(
        config.loss.expression,
        len(meta.classes),
        config.data.lb_ignore,
        thresh=config.loss.thresh,
        n_min_factor=config.loss.n_min_factor,
    )
    confusion = Confusion(len(meta.classes), config.data.lb_ignore, fabric.device)
    per_image, kept = {}, torch.zeros(len(meta.classes), dtype=torch.float64)
    everything, together = range(len(pairs)), config.eval.batch_size
    predictions = predict_split(model, pairs, everything, fabric, workers, mining, together)
    for predicted in bar(predictions, "evaluating", len(pairs)):
        matrix = confusion.update(predicted.prediction, predicted.target)
        image = pairs.samples[predicted.index].image
        per_image[predicted.index] = image_row(image, matrix, meta.classes)
        if mining:
            kept += kept_by_class(predicted, len(meta.classes))

    scores = score(confusion.matrix, meta.classes)
    if mining:
        add_kept_shares(scores, kept, confusion.matrix)
    if scores.miou is None:
        raise SegtrainError(
            f"{config.data.path}: every pixel of {split} is ignored: no score; do "
            "data.classes and data.label_map say what its mask values mean?"
        )
    folder = run_of(checkpoint) / "eval" / split
    title = f"mIoU {scores.miou:.4f} on {split}"
    write_report(folder, scores, confusion.matrix, list(per_image.values()), title)
    for pictures in ("worst", "hard_pixels"):
        shutil.rmtree(folder / pictures, ignore_errors=True)  # those of an earlier evaluation
    worst = worst_indices(per_image, config.eval.worst)
    for rank, index in enumerate(worst, 1):
        predicted = next(predict_split(model, pairs, range(index, index + 1), fabric, 0, mining))
        name = f"{rank:02d}_{pairs.samples[index].name}.png"
        caption = f"{pairs.samples[index].name}: mIoU {per_image[index]['miou']:.3f}"
        save_image(folder / "worst" / name, picture(predicted, meta, config, caption))
        if mining:
            page = hard_picture(predicted, meta, config, caption)
            save_image(folder / "hard_pixels" / name, page)
    print_scores(scores, f"{title}: {describe(scores, len(per_image), config)}", folder)
    if pairs.skipped:
        print(pairs.skipped)
    return folder


def kept_by_class(predicted: Predicted, num_classes: int) -> Tensor:
    """(C,) on the CPU: how many pixels of each true class a loss that mines kept."""
    counted = predicted.kept > 0  # none of the ignored pixels is
    weights = predicted.kept[counted].double()
    return torch.bincount(predicted.target[counted], weights, num_classes).cpu()


def add_kept_shares(scores: Scores, kept: Tensor, matrix: Tensor) -> None:
    """Adds to each class the share of its pixels that a loss that mines kept; None without any."""
    for row, sum_kept, pixels in zip(scores.classes, kept.tolist(), matrix.sum(1).tolist()):
        row["kept"] = sum_kept / pixels if pixels else None


def split_of(config: Config, split: str) -> Pairs:
    """The untouched pairs of one split; says where they are."""
    data, where = locate(config.data)
    found = find_pairs(data, root_of(data))
    if split not in found.splits:
        raise UsageError(f"--split {split}: {data.path} has {', '.join(found.splits)}")
    raise_errors(found.findings)
    data, said = fill_in(data, found)
    for line in said:
        print(line)
    print(f"{where}; {split}: {len(found.splits[split])} pairs; {found.layout}")
    images = image_reader(data, config.model.in_channels)
    return Pairs(found.splits[split], images, mask_reader(data), on_error=data.on_error)


def image_row(image: Path, matrix: Tensor, names: list[str]) -> dict[str, Any]:
    scores = score(matrix, names)
    row = {"image": image.name, "miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
    return (
        row | {"pixels": int(matrix.sum())} | {f"iou/{c['name']}": c["iou"] for c in scores.classes}
    )


def worst_indices(per_image: dict[int, dict[str, Any]], most: int) -> list[int]:
    scored = [i for i, row in per_image.items() if row["miou"] is not None]
    return sorted(scored, key=lambda i: per_image[i]["miou"])[:most]


def describe(scores: Scores, images: int, config: Config) -> str:
    """What the number is of, in one line."""
    present = len(scores.classes) - len(scores.absent)
    absent = f" ({', '.join(scores.absent)} absent, in no mean)" if scores.absent else ""
    return (
        f"macro over {present} of {len(scores.classes)} classes{absent}, dataset level, "
        f"ignore id {config.data.lb_ignore}, native size, {images} images"
    )


def write_report(
    folder: Path, scores: Scores, matrix: Tensor, per_image: list[dict[str, Any]], title: str
) -> None:
    write_json(folder / "metrics.json", metrics(scores, len(per_image)))
    write_csv(folder / "per_image.csv", per_image)
    names = [c["name"] for c in scores.classes]
    save_confusion(folder / "confusion.png", matrix, names, title)


def metrics(scores: Scores, images: int) -> dict[str, Any]:
    """The content of metrics.json: fractions, null where undefined."""
    return {key: value for key, value in asdict(scores).items() if key != "classes"} | {
        "images": images,
        "classes": scores.classes,
    }


def picture(predicted: Predicted, meta: Meta, config: Config, title: str):
    """Image, truth, prediction and errors side by side."""
    colours = colour_table(meta.palette, predicted.image.device)
    opacity = config.predict.opacity
    truth = blend(predicted.image, predicted.target, colours, opacity)
    shown = {
        "image": predicted.image,
        "truth": truth,
        "prediction": blend(predicted.image, predicted.prediction, colours, opacity),
        "errors (red)": error_map(predicted.prediction, predicted.target, config.data.lb_ignore),
    }
    return panels({name: to_image(rgb) for name, rgb in shown.items()}, title)


def hard_picture(predicted: Predicted, meta: Meta, config: Config, title: str):
    """Image, truth, and what a loss that mines keeps, side by side."""
    colours = colour_table(meta.palette, predicted.image.device)
    ignored = predicted.target == config.data.lb_ignore
    share = float(predicted.kept.sum() / (~ignored).sum().clamp(min=1))
    shown = {
        "image": predicted.image,
        "truth": blend(predicted.image, predicted.target, colours, config.predict.opacity),
        "kept (red), easy (blue), ignored (white)": kept_map(
            predicted.image, predicted.kept, ignored
        ),
    }
    title = f"{title}; {config.loss.expression} keeps {share:.1%} of its pixels"
    return panels({name: to_image(rgb) for name, rgb in shown.items()}, title)


def print_scores(scores: Scores, headline: str, folder: Path) -> None:
    console = Console()
    columns = ["IoU", "Dice", "precision", "recall", "share"]
    columns += ["kept"] if "kept" in scores.classes[0] else []
    table = Table("class", *columns, box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for c in scores.classes:
        table.add_row(c["name"], *(_cell(c[column.lower()]) for column in columns))
    console.print(table)
    means = (
        ("mIoU", scores.miou),
        ("pixel accuracy", scores.pixel_accuracy),
        ("mean accuracy", scores.mean_accuracy),
        ("fw IoU", scores.fw_iou),
    )
    console.print("  ".join(f"{name} {_cell(value)}" for name, value in means), highlight=False)
    console.print(headline, highlight=False, soft_wrap=True)
    console.print(f"report: {folder}", highlight=False, soft_wrap=True)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
