"""Hard example mining: OhemCE, TopK, and the mining of any pixel loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from segtrain.errors import UsageError
from segtrain.losses.arguments import number, whole_number
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.pixels import Pixels
from segtrain.losses.selection import shares_of_largest


class Mining(PixelLoss):
    """A mean over the hard pixels only. They are chosen by m, whatever the inner loss costs."""

    def __init__(self, inner: PixelLoss | None, weight: Sequence[float] | None, lb_ignore: int):
        super().__init__(lb_ignore)
        if isinstance(inner, Mining) or not isinstance(inner, PixelLoss | None):
            raise UsageError(
                f"loss: {type(inner).__name__} can't be mined; a loss of pixels that mines nothing "
                "itself can"
            )
        self.inner = inner or CrossEntropy(lb_ignore=lb_ignore)
        self.weights = ClassWeights(weight)
        self.reads_logits = self.inner.reads_logits

    def check(self, num_classes: int) -> None:
        self.weights.check(num_classes)
        self.inner.check(num_classes)

    def count(self, pixels: Pixels) -> Tensor:
        """How many pixels to keep over all devices: 0-d, whole, at most the valid ones."""
        raise NotImplementedError

    def keep(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """How far each pixel is kept, 0..1 (N,H,W), and the m from which on they are (0-d)."""
        count = self.count(pixels).clamp(min=1)
        return shares_of_largest(pixels.nll.detach(), pixels.valid, count, pixels.total)

    def kept(self, nll: Tensor, target: Tensor) -> Tensor:
        """How far each pixel of a map m (N,H,W), as read of `target`, is kept, 0..1 (N,H,W)."""
        valid = target != self.lb_ignore
        return self.keep(Pixels(nll, target, valid, 0, {}, None, sync=False))[0]

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            kept = self.weights.times(self.keep(pixels)[0], pixels)
        cost, weight = self.inner.costs(pixels)
        return kept * cost, kept if weight is pixels.valid else kept * weight

    def observe(self, pixels: Pixels) -> dict[str, Tensor]:
        kept, cut = self.keep(pixels)
        return self.inner.observe(pixels) | {
            "kept": pixels.total(pixels.by_class(kept).sum(0)),
            "valid": pixels.total(pixels.by_class(pixels.valid.to(kept.dtype)).sum(0)),
            "threshold": torch.exp(-cut).where(pixels.total(pixels.valid.sum()) > 0, torch.nan),
        }


class OhemCE(Mining):
    """Online hard example mining: the mean over hard pixels only.

    Hard pixels are those whose loss exceeds -log(thresh), so whose true class has a probability
    under thresh. Where they are fewer than n_min = max(1, n_valid // n_min_factor), the n_min
    largest count instead; those tied at the n_min-th value share what is left of n_min evenly.

    thresh: a probability, in (0, 1].
    n_min_factor: at least one in so many of the valid pixels is kept.
    weight: as in ce; chooses nothing.
    """

    formula = "sum(w m) / sum(w) over m > -log(thresh), at least the n_min largest"
    source = (
        "Shrivastava et al. 2016, arXiv:1604.03540, in the form that BiSeNet's code made common "
        "(n_min there may be 0, which gives NaN)"
    )

    def __init__(
        self,
        thresh: float = 0.7,
        n_min_factor: int = 16,
        weight: Sequence[float] | None = None,
        inner: PixelLoss | None = None,
        lb_ignore: int = 255,
    ):
        super().__init__(inner, weight, lb_ignore)
        self.floor = -math.log(number("thresh", thresh, 0, 1, open_low=True))
        self.n_min_factor = whole_number("n_min_factor", n_min_factor, 1)

    def count(self, pixels: Pixels) -> Tensor:
        hard = pixels.total(((pixels.nll > self.floor) & pixels.valid).sum())
        return hard.maximum(pixels.total(pixels.valid.sum()) // self.n_min_factor)

    def keep(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        kept, smallest = super().keep(pixels)
        return kept, smallest.clamp(max=self.floor)


class TopK(Mining):
    """The mean over a fixed share of the valid pixels: those with the largest loss.

    Pixels tied at the k-th value share what is left of k evenly.

    keep: a share of the valid pixels, in (0, 1], or a whole number of pixels; at least one.
    weight: as in ce; chooses nothing.
    """

    formula = "sum(w m) / sum(w) over the k largest m, k = keep * n_valid"
    source = "Shrivastava et al. 2016, arXiv:1604.03540; Wu et al. 2016, arXiv:1604.04339"

    def __init__(
        self,
        keep: float = 0.2,
        weight: Sequence[float] | None = None,
        inner: PixelLoss | None = None,
        lb_ignore: int = 255,
    ):
        super().__init__(inner, weight, lb_ignore)
        if type(keep) is int:
            keep = whole_number("keep, as a count,", keep, 1)
        else:
            keep = number("keep, as a share,", keep, 0, 1, open_low=True)
        self.k = keep

    def count(self, pixels: Pixels) -> Tensor:
        n_valid = pixels.total(pixels.valid.sum())
        if isinstance(self.k, int):
            return n_valid.clamp(max=self.k)
        return (n_valid.double() * self.k).round().long()
