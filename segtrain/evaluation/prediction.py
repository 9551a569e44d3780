"""Predictions of a split by a network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segtrain.config import EvalConfig
from segtrain.data.areas import Area
from segtrain.data.loading.batch import Batch
from segtrain.data.loading.dataset import Pairs, make_image_loader, read_batches
from segtrain.distributed.devices import advise_on_overflow, build_predictor, to_device
from segtrain.distributed.limits import explain_limits
from segtrain.losses.ohem import Mining
from segtrain.metrics.calibration import LogitReader
from segtrain.models.inference import (
    NOT_FINITE,
    Block,
    CheckedPredictor,
    NonFiniteError,
    Predictor,
    advise_on_memory,
    defer_upsampling,
    find_context,
    predict_bands,
    predict_block,
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

    def to_host(self) -> Prediction:
        """Return the same on the host, without what a mining loss keeps."""
        return Prediction(self.index, self.target.cpu(), self.class_ids.cpu())


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

    @property
    def without_tta(self) -> SplitPredictor:
        """The same, as it is scored between epochs."""
        return replace(self, settings=self.settings.model_copy(update={"tta": []}))

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
        wide = add_context(pairs, settings)
        loader = make_image_loader(wide, indices, self.workers, fabric.device.type == "cuda")
        limit = settings.batch_size if wide is pairs else 1  # each area is predicted by itself
        for group in group_by_size(read_batches(loader), limit):
            images = torch.cat([to_device(b.images, fabric, settings.max_pixels) for b in group])
            targets = torch.cat([to_device(b.targets, fabric) for b in group])
            network = CheckedPredictor(predictor)
            with explain_limits(advise_on_memory(images.shape, settings)):
                bands = predict_bands(network, images, settings)
                first = group[0].indices[0]
                area, context = pairs.samples[first].area, wide.samples[first].area
                if area and context:
                    targets = targets[:, *area.within(context)]
                    bands = predict_area(network, images, area, context, settings)
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


def add_context(pairs: Pairs, settings: EvalConfig) -> Pairs:
    """Return the pairs with each area as large as the windows that touch it; the same without."""
    if not any(sample.area for sample in pairs.samples):
        return pairs
    wide = copy.copy(pairs)  # notes what can't be read for both
    wide.samples, wide.cache = [], None
    for sample in pairs.samples:
        if area := sample.area:
            rows, columns = find_context(area.whole, (area.rows, area.columns), settings)
            context = Area(area.whole, rows.start, rows.stop, columns.start, columns.stop)
            sample = replace(sample, area=context)
        wide.samples.append(sample)
    return wide


def predict_area(
    predictor: Predictor, images: Tensor, area: Area, context: Area, settings: EvalConfig
) -> Iterator[tuple[int, Tensor]]:
    """Yield the bands of an area as the prediction of all of its image has them.

    images: (1,K,h,w) of the context; top rows count from the area's.
    """

    def read(rows: slice, columns: slice) -> Tensor:
        window = Area(area.whole, rows.start, rows.stop, columns.start, columns.stop)
        return images[:, :, *window.within(context)]

    block = Block(area.whole, area.left, area.right, area.top)
    for top, logits in predict_block(predictor, read, settings, block):
        yield top - area.top, logits[:, :, : area.bottom - top]
        if top + logits.shape[2] >= area.bottom:  # the next would be of windows below
            return


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
