"""Predictions of a split: a network's, or masks that another tool made; and validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from segtrain.config import Eval
from segtrain.data.images import SUFFIXES
from segtrain.data.layouts.pairing import Sample
from segtrain.data.loading.dataset import Batch, Pairs, checked, one_by_one
from segtrain.data.masks import MaskReader
from segtrain.distributed.devices import max_over_ranks, predictor, to_device
from segtrain.distributed.launch import Watch
from segtrain.errors import SegtrainError, UsageError, listing
from segtrain.losses.cross_entropy import Mining
from segtrain.losses.pixels import read_pixels
from segtrain.metrics.calibration import Calibration
from segtrain.metrics.confusion import Confusion, Scores, score
from segtrain.models.inference import Predict, memory_advice, predict_bands
from segtrain.models.segmentation import SegmentationModel
from segtrain.training.nonfinite import StopWish, limits_explained

MASK_SUFFIXES = SUFFIXES - {".jpg", ".jpeg"}


@dataclass(frozen=True)
class Predicted:
    """One image of a split after prediction, on the device; H and W are its own."""

    index: int
    target: Tensor  # (H,W) class ids and lb_ignore, in the dtype of the masks
    prediction: Tensor  # (H,W) class ids, in the same
    kept: Tensor | None = None  # (H,W), 0..1: how far a loss that mines keeps each pixel


def predict_split(
    predict: Predict,
    pairs: Pairs,
    indices: range,
    fabric: Fabric,
    workers: int,
    settings: Eval,
    mining: Mining | None = None,
    calibration: Calibration | None = None,
) -> Iterator[Predicted]:
    """Predicts the pairs of `indices`, each at its own size.

    Up to eval.batch_size images that follow each other and have one size are forwarded together.
    `mining` chooses among each image's pixels as if it was a batch; `calibration` sees them all.
    """
    loader = one_by_one(pairs, indices, workers, fabric.device.type == "cuda")
    for batches in of_one_size(checked(loader), settings.batch_size):
        most = settings.max_pixels
        images = torch.cat([to_device(batch.images, fabric, most) for batch in batches])
        targets = torch.cat([to_device(batch.targets, fabric) for batch in batches])
        with limits_explained(memory_advice(images.shape, settings)):
            bands = predict_bands(predict, images, settings)
            ids, nll = read_bands(bands, targets, pairs.masks.lb_ignore, mining, calibration)
        for place, batch in enumerate(batches):
            one = slice(place, place + 1)
            kept = mining.kept(nll[one], targets[one])[0] if mining else None
            yield Predicted(batch.indices[0], targets[place], ids[place], kept)


def read_bands(
    bands: Iterator[tuple[int, Tensor]],
    targets: Tensor,
    lb_ignore: int,
    mining: Mining | None,
    calibration: Calibration | None,
) -> tuple[Tensor, Tensor | None]:
    """Class ids (N,H,W) of bands of logits, and with `mining` -log p of the true class (N,H,W)."""
    ids = torch.empty_like(targets)
    nll = torch.empty(targets.shape, device=targets.device) if mining else None
    for top, logits in bands:
        rows = slice(top, top + logits.shape[2])
        ids[:, rows] = logits.max(1).indices.to(ids.dtype)  # argmax is 3 times slower on CPU
        if mining or calibration:
            truth = targets[:, rows].long()
        if calibration:
            calibration.update(logits, truth, lb_ignore)
        if mining:
            nll[:, rows] = read_pixels(logits, truth, lb_ignore).nll
    return ids, nll


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
    settings: Eval,
    wish: StopWish,
    watch: Watch,
) -> Scores | None:
    """Scores over all pairs, each counted once whatever the number of processes.

    None on all ranks where one left early because somebody wishes to stop.
    """
    confusion = Confusion(len(names), pairs.masks.lb_ignore, fabric.device)
    mine = range(fabric.global_rank, len(pairs), fabric.world_size)
    plainly = settings.model_copy(update={"tta": []})
    predict = predictor(model.eval(), fabric)
    for predicted in predict_split(predict, pairs, mine, fabric, workers, plainly):
        watch.check()
        if wish.signum:
            break
        confusion.update(predicted.prediction, predicted.target)
    left = torch.tensor(wish.signum, device=fabric.device)
    if max_over_ranks(left):
        return None
    return score(fabric.all_reduce(confusion.matrix, reduce_op="sum"), names)


class PredictedMasks:
    """Reads masks that a tool predicted, in the place of images: (H,W,1) class ids."""

    def __init__(self, masks: MaskReader, hint: str):
        self.masks, self.hint = masks, hint

    def __call__(self, path: Path) -> np.ndarray:
        try:
            return self.masks(path)[..., None]
        except SegtrainError as error:
            raise SegtrainError(f"{error}{self.hint}") from error


def pairs_of_masks(
    folder: Path, samples: list[Sample], predicted: PredictedMasks, truth: MaskReader
) -> Pairs:
    """Pairs of a predicted mask, STEM_mask.png or STEM.png below `folder`, and the true one.

    Raises SegtrainError where one is not there, or which one is meant is not clear.
    """
    if not folder.is_dir():
        raise UsageError(f"--predictions {folder}: no such folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES and folder / "eval" not in path.parents:
            found.setdefault(path.stem, []).append(path)
    of_each = [found.get(f"{s.name}_mask") or found.get(s.name) or [] for s in samples]
    missing = [sample.name for sample, paths in zip(samples, of_each) if not paths]
    if missing:
        raise SegtrainError(
            f"{folder}: no mask for {len(missing)} of {len(samples)} images: {listing(missing)}; "
            f"expected {missing[0]}.png or {missing[0]}_mask.png"
        )
    chosen = [_only(paths, sample, folder) for sample, paths in zip(samples, of_each)]
    first: dict[Path, Sample] = {}
    for path, sample in zip(chosen, samples):
        if path in first:
            raise SegtrainError(
                f"{path} would be the prediction of both {first[path].image} and {sample.image}; "
                "put masks into folders that are named as those of the images"
            )
        first[path] = sample
    masks = [replace(sample, image=path) for sample, path in zip(samples, chosen)]
    return Pairs(masks, predicted, truth)


def _only(paths: list[Path], sample: Sample, folder: Path) -> Path:
    """Of several masks of one name, the one below folders that are named as the image's."""
    around = set(sample.image.parent.parts)
    alike = [len(around & set(path.relative_to(folder).parent.parts)) for path in paths]
    paths = [path for path, names in zip(paths, alike) if names == max(alike)]
    if len(paths) > 1:
        raise SegtrainError(
            f"two masks for {sample.image}: {paths[0]} and {paths[1]}; remove one, or put them "
            "into folders that are named as those of the images"
        )
    return paths[0]


def read_split(pairs: Pairs, indices: range, fabric: Fabric, workers: int) -> Iterator[Predicted]:
    """The masks of `pairs_of_masks`. Raises SegtrainError where one names no class at a pixel."""
    lb_ignore, hint = pairs.masks.lb_ignore, pairs.images.hint
    for batch in checked(one_by_one(pairs, indices, workers)):
        index, target, ids = batch.indices[0], batch.targets[0], batch.images[0, 0]
        blank = int(((ids == lb_ignore) & (target != lb_ignore)).sum())
        if blank:
            raise SegtrainError(
                f"{pairs.samples[index].image}: {blank} pixels of {lb_ignore}, which is no class, "
                f"where the truth has one; a prediction names a class at each pixel{hint}"
            )
        yield Predicted(index, target.to(fabric.device), ids.to(fabric.device))
