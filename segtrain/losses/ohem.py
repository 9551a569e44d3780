"""Hard example mining: OhemCE, TopK, and the mining of any pixel loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import PixelLoss, Term, TermResult, weighted_mean
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.cross_entropy import inner_loss
from segtrain.losses.kernels.plain import double_device
from segtrain.losses.pixel_arguments import OhemArguments, TopKArguments
from segtrain.losses.pixel_pass import Pixels
from segtrain.losses.selection import select_hardest


class Selection(NamedTuple):
    """Pixels that a mining term keeps, and the NLL that separates them from the others."""

    weight: Tensor  # (N,H,W), 0..1; between for pixels tied at the cutoff
    cutoff: Tensor  # 0-d, or (N,): one for each image


class Mining(Term):
    """Mean of an inner loss over the hard pixels only.

    Pixels are ranked by their NLL, whatever the inner loss is.
    """

    hard_nll = math.inf  # pixels above it are all kept

    def __init__(
        self,
        inner: PixelLoss | None,
        weight: Sequence[float] | str | None,
        per_image: bool,
        lb_ignore: int,
    ):
        inner = inner_loss(inner, lb_ignore)
        super().__init__(lb_ignore, reads_logits=inner.reads_logits)
        self.inner = inner
        self.weights, self.per_image = ClassWeights(weight), per_image

    def count(self, pixels: Pixels) -> Tensor:
        """Return how many of the pixels to keep at least (0-d)."""
        raise NotImplementedError

    def select(self, pixels: Pixels) -> Selection:
        """Select the pixels to keep, in each image or over all devices, without gradient."""
        with torch.no_grad():
            if not self.per_image:
                return self._select(pixels)
            # an empty batch counts as one image without pixels
            weights, cutoffs = zip(*map(self._select, pixels.images()), strict=True)
            return Selection(torch.cat(weights), torch.stack(cutoffs))

    def _select(self, pixels: Pixels) -> Selection:
        # at least one: with few valid pixels the count is 0
        least = self.count(pixels).clamp(min=1)
        return Selection(*select_hardest(pixels, least, self.hard_nll))

    def kept(self, nll: Tensor, target: Tensor) -> Tensor:
        """Return the selection weight (0..1) of each pixel of an NLL map (N,H,W)."""
        # 0 classes: a selection asks for none
        # each process evaluates its own images, so nothing is summed over devices
        valid, path = target != self.lb_ignore, self.reader.path(nll.device, nll.dtype).name
        return self.select(Pixels(nll, target, valid, 0, path, sync=False)).weight

    def value(self, pixels: Pixels) -> Tensor:
        return self.evaluate(pixels).value

    def evaluate(self, pixels: Pixels) -> TermResult:
        selection = self.select(pixels)
        with torch.no_grad():
            kept_weight = self.weights.times(selection.weight, pixels)
        cost, weight = self.inner.costs(pixels)  # the weight is in the cost already
        # the mask of valid pixels changes nothing: kept_weight is 0 at the others
        total_weight = kept_weight if weight is pixels.valid else kept_weight * weight
        value = weighted_mean(kept_weight * cost, total_weight, pixels)
        return TermResult(value, partial(self.observe_selection, pixels, selection))

    def observe_selection(self, pixels: Pixels, selection: Selection) -> dict[str, Tensor]:
        """Return kept and valid pixels of each class (C,), and the threshold as a probability.

        With per_image it is the mean of the images' thresholds. All ranks call it, as it sums over
        devices. The inner loss adds what it reports.
        """
        kept, cutoff = selection
        counted = pixels.valid.reshape(cutoff.numel(), -1).any(1)
        thresholds = torch.exp(-cutoff).where(counted, 0)
        return self.inner.observe() | {
            "kept": pixels.total(pixels.by_class(kept).sum(0)),
            "valid": pixels.total(pixels.by_class(pixels.valid.to(kept.dtype)).sum(0)),
            "threshold": pixels.total(thresholds.sum()) / pixels.total(counted.sum()),
        }


class OhemCE(Mining):
    # rule, ties, formula and source stand with the arguments, which need no torch to be read
    __doc__ = OhemArguments.__doc__

    def __init__(
        self,
        thresh: float = OhemArguments.thresh,
        n_min_factor: int = OhemArguments.n_min_factor,
        weight: Sequence[float] | None = None,
        per_image: bool = OhemArguments.per_image,
        inner: PixelLoss | None = None,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(OhemArguments, thresh, n_min_factor, weight, per_image)
        super().__init__(inner, checked.weight, checked.per_image, lb_ignore)
        self.hard_nll = -math.log(checked.thresh)
        self.n_min_factor = checked.n_min_factor

    def count(self, pixels: Pixels) -> Tensor:
        """Return n_valid // n_min_factor."""
        return pixels.total(torch.count_nonzero(pixels.valid)) // self.n_min_factor


class TopK(Mining):
    __doc__ = TopKArguments.__doc__

    def __init__(
        self,
        keep: float = TopKArguments.keep,
        weight: Sequence[float] | None = None,
        per_image: bool = TopKArguments.per_image,
        inner: PixelLoss | None = None,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(TopKArguments, keep, weight, per_image)
        super().__init__(inner, checked.weight, checked.per_image, lb_ignore)
        self.k = checked.keep

    def count(self, pixels: Pixels) -> Tensor:
        """Return `keep` pixels where it is an int, that share of the valid ones where a float."""
        n_valid = pixels.total(torch.count_nonzero(pixels.valid))
        if isinstance(self.k, int):
            return n_valid.clamp(max=self.k)
        # float32 has no exact counts above 2**24
        count = n_valid.to(double_device(n_valid.device)).double()
        return (count * self.k).round().long().to(n_valid.device)
