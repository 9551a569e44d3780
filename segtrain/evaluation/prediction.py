"""Predictions of a split by a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segtrain.config import EvalConfig
from segtrain.data.loading.dataset import Batch, Pairs, make_image_loader, read_batches
from segtrain.distributed.devices import advise_on_overflow, build_predictor, to_device
from segtrain.distributed.limits import explain_limits
from segtrain.losses.ohem import Mining
from segtrain.metrics.calibration import LogitReader
from segtrain.models.inference import (
    NOT_FINITE,
    CheckedPredictor,
    NonFiniteError,
    advise_on_memory,
    defer_upsampling,
    predict_bands,
)

Check = tuple[list[int], Tensor]  # indices of images, and for each whether its logits are broken
UNREAD = 32  # checks of a GPU that are read at once


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image of a split, on the device, at the image's own size."""

    index: int
    target: Tensor  # (H,W) class ids and lb_ignore, in the dtype of the masks
    class_ids: Tensor  # (H,W), in the same dtype
    kept: Tensor | None = None  # (H,W), 0..1: how far a mining loss keeps each pixel


@dataclass(frozen=True)
class SplitPredictor:
    """A network and all that predicting a split with it takes, besides the pairs.

    With `mining` each prediction holds what it keeps of the image, chosen as if the image was a
    batch.
    """

    model: nn.Module
    fabric: Fabric
    workers: int
    settings: EvalConfig
    mining: Mining | None = None

    def predict(
        self, pairs: Pairs, indices: range, reader: LogitReader | None = None
    ) -> Iterator[Prediction]:
        """Yield the predictions of the pairs at `indices`; `reader` is shown their logits.

        Consecutive images of one size are forwarded together, up to eval.batch_size. Raise
        NonFiniteError, on a GPU up to UNREAD images later, for logits that are not finite.
        """
        fabric, settings, lb_ignore = self.fabric, self.settings, pairs.masks.lb_ignore
        predictor = build_predictor(defer_upsampling(self.model.eval()), fabric)
        checks: list[Check] = []
        loader = make_image_loader(pairs, indices, self.workers, fabric.device.type == "cuda")
        for group in group_by_size(read_batches(loader), settings.batch_size):
            images = torch.cat([to_device(b.images, fabric, settings.max_pixels) for b in group])
            targets = torch.cat([to_device(b.targets, fabric) for b in group])
            network = CheckedPredictor(predictor)
            with explain_limits(advise_on_memory(images.shape, settings)):
                bands = predict_bands(network, images, settings)
                ids, nll = join_bands(bands, targets, lb_ignore, self.mining, reader)
            checks.append(([batch.indices[0] for batch in group], network.broken))
            # reading them makes the host wait for a GPU
            if fabric.device.type == "cpu" or len(checks) == UNREAD:
                self._refuse_broken(pairs, checks)
            for position, batch in enumerate(group):
                kept = None
                if self.mining and nll is not None:
                    one = slice(position, position + 1)
                    kept = self.mining.kept(nll[one], targets[one])[0]
                yield Prediction(batch.indices[0], targets[position], ids[position], kept)
        self._refuse_broken(pairs, checks)

    def _refuse_broken(self, pairs: Pairs, checks: list[Check]) -> None:
        """Read and clear the checks. Raise NonFiniteError."""
        broken = [flag for _, flags in checks for flag in flags.tolist()]
        indices = [index for group, _ in checks for index in group]
        checks.clear()
        if any(broken):
            image = pairs.samples[indices[broken.index(True)]].image
            raise NonFiniteError(f"{image}: {NOT_FINITE}; {advise_on_overflow(self.fabric)}")


def join_bands(
    bands: Iterator[tuple[int, Tensor]],
    targets: Tensor,
    lb_ignore: int,
    mining: Mining | None,
    reader: LogitReader | None,
) -> tuple[Tensor, Tensor | None]:
    """Return class ids (N,H,W) of bands of logits and, with `mining`, the NLL map (N,H,W).

    bands: (top row, logits (N,C,h,W)) from top to bottom; `reader` is shown them all.
    """
    ids = torch.empty_like(targets)
    nll = torch.empty(targets.shape, device=targets.device) if mining else None
    for top, logits in bands:
        rows = slice(top, top + logits.shape[2])
        ids[:, rows] = logits.max(1).indices.to(ids.dtype)  # argmax is 3 times slower on CPU
        if mining or reader:
            truth = targets[:, rows].long()
        if reader:
            reader.update(logits, truth, lb_ignore)
        if mining and nll is not None:
            nll[:, rows] = mining.reader.read(logits, truth).nll
    return ids, nll


def group_by_size(batches: Iterable[Batch], limit: int) -> Iterator[list[Batch]]:
    """Yield groups of consecutive batches whose images have one shape, at most `limit` each."""
    group: list[Batch] = []
    for batch in batches:
        if len(group) == limit or group and batch.images.shape != group[0].images.shape:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group
