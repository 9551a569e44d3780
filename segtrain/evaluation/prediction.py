"""A split's predictions by a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from segtrain.config import EvalConfig
from segtrain.data.loading.dataset import Batch, Pairs, checked, one_by_one
from segtrain.distributed.devices import to_device
from segtrain.distributed.limits import explain_limits
from segtrain.losses.ohem import Mining
from segtrain.losses.pixels import read_pixels
from segtrain.metrics.calibration import Calibration
from segtrain.models.inference import Predict, memory_advice, predict_bands


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
    settings: EvalConfig,
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
        with explain_limits(memory_advice(images.shape, settings)):
            bands = predict_bands(predict, images, settings)
            ids, nll = read_bands(bands, targets, pairs.masks.lb_ignore, mining, calibration)
        for place, batch in enumerate(batches):
            one = slice(place, place + 1)
            kept = mining.kept(nll[one], targets[one])[0] if mining and nll is not None else None
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
        if nll is not None:
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
