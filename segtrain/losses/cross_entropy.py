"""Losses that weight the map m of negative log-likelihoods: sum(cost) / sum(weight)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError
from segtrain.losses.arguments import number, numbers, whole_number
from segtrain.losses.base import Term
from segtrain.losses.pixels import Pixels, class_sums
from segtrain.losses.selection import shares_of_largest

BALANCING = ("median-frequency", "inverse-sqrt")


class PixelLoss(Term):
    """A mean over pixels: `costs` says what each adds to its numerator and its denominator."""

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Cost and weight (N,H,W), 0 at ignored pixels; the weight has no gradient, may be bool."""
        raise NotImplementedError

    def value(self, pixels: Pixels) -> Tensor:
        cost, weight = self.costs(pixels)
        return mean(cost, weight, pixels)


def mean(cost: Tensor, weight: Tensor, pixels: Pixels) -> Tensor:
    """sum(cost) / sum(weight) over all devices; 0 where nothing has a weight."""
    total = pixels.total(weight.sum(dtype=cost.dtype))
    return pixels.total(cost.sum()) / total.where(total > 0, 1)


class ClassWeights(nn.Module):
    """A weight a class, or none."""

    def __init__(self, weight: Sequence[float] | None, name: str = "weight"):
        super().__init__()
        self.name = name
        if isinstance(weight, str):
            raise UsageError(
                f"loss: {name} is a list of numbers, one a class, got {weight!r}; segtrain fit "
                f"takes {' and '.join(BALANCING)}, too"
            )
        weight = None if weight is None else torch.tensor(numbers(name, weight, 0))
        if weight is not None and not weight.any():
            raise UsageError(f"loss: {name} is 0 for every class; one at least is above 0")
        self.register_buffer("weight", weight, persistent=False)

    def vector(self, pixels: Pixels) -> Tensor:
        """(C,), on the pixels' device and in their precision."""
        if self.weight is None:
            return pixels.nll.new_ones(pixels.num_classes)
        self.check(pixels.num_classes)
        return self.weight.to(pixels.nll)

    def check(self, num_classes: int) -> None:
        if self.weight is not None and len(self.weight) != num_classes:
            raise UsageError(
                f"loss: {self.name} has {len(self.weight)} numbers for {num_classes} classes; "
                "give one each"
            )

    def times(self, values: Tensor, pixels: Pixels) -> Tensor:
        """A map (N,H,W) times the weight of each pixel's class."""
        return values if self.weight is None else self.vector(pixels)[pixels.ids] * values


class CrossEntropy(PixelLoss):
    """The mean over valid pixels; with class weights divided by the sum of the pixels' weights.

    weight: a number a class, or median-frequency or inverse-sqrt, from the training masks.
    label_smoothing: this share of the truth is spread evenly over all classes.
    """

    formula = "sum(w m) / sum(w), m = -log p_true"
    source = "as torch.nn.functional.cross_entropy"

    def __init__(
        self,
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore)
        self.weights = ClassWeights(weight)
        self.label_smoothing = number("label_smoothing", label_smoothing, 0, 1)
        self.reads_logits = self.label_smoothing > 0

    def check(self, num_classes: int) -> None:
        self.weights.check(num_classes)

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost = self.weights.times(pixels.nll, pixels)
        if self.label_smoothing:
            share = self.weights.vector(pixels) / pixels.num_classes
            spread = (share.view(-1, 1, 1) * -pixels.logits.log_softmax(1)).sum(1)
            cost = torch.lerp(cost, spread.where(pixels.valid, 0), self.label_smoothing)
        return cost, self.weights.times(pixels.valid, pixels)


class Focal(PixelLoss):
    """Cross entropy that counts less the surer a pixel is of its class; a mean over valid pixels.

    gamma: how fast it falls; 0 is ce.
    alpha: with two classes the weight of class 1, class 0 having 1 - alpha; or one a class.
    """

    formula = "-alpha_true (1 - p_true)^gamma log p_true"
    source = "Lin et al. 2017, arXiv:1708.02002, over softmax"

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore)
        self.gamma = number("gamma", gamma, 0)
        if type(alpha) in (int, float):
            alpha = [1 - number("alpha", alpha, 0, 1), alpha]
        self.alpha = ClassWeights(alpha, "alpha")

    def check(self, num_classes: int) -> None:
        self.alpha.check(num_classes)

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost = pixels.nll
        if self.gamma:
            # near p = 1 a power under 1 has no finite slope; there the cost is 0
            wrong = -torch.expm1(-pixels.nll)
            sure = wrong <= torch.finfo(wrong.dtype).tiny  # false for NaN, which is to be seen
            cost = wrong.masked_fill(sure, 1) ** self.gamma * pixels.nll
            cost = cost.masked_fill(sure, 0)
        return self.alpha.times(cost, pixels), pixels.valid


class GHM(PixelLoss):
    """Gradient harmonising: pixels count less the more others have as large a gradient.

    g = 1 - p_true is the size of a pixel's gradient. Its bin's count is a moving one: it starts at
    the first batch's and changes with each batch in training only. One bin is ce.

    bins: equal parts of g's range 0..1.
    momentum: what a batch leaves of the counts before it, in [0, 1).
    """

    formula = "sum(w m) / n_valid, w = total count / (count in g's bin * non-empty bins)"
    source = "Li et al. 2019, arXiv:1811.05181"

    def __init__(self, bins: int = 10, momentum: float = 0.75, lb_ignore: int = 255):
        super().__init__(lb_ignore)
        self.bins = whole_number("bins", bins, 1, 10_000)
        self.momentum = number("momentum", momentum, 0, 1, open_high=True)
        self.register_buffer("counts", torch.zeros(self.bins))

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            weights = self.weights(pixels)
        return weights * pixels.nll, pixels.valid

    def weights(self, pixels: Pixels) -> Tensor:
        """(N,H,W), without gradient; in training the counts move on."""
        gradient = -torch.expm1(-pixels.nll)
        places = (gradient * self.bins).long().clamp(0, self.bins - 1)
        ones = pixels.valid.to(pixels.nll.dtype)
        per_image = class_sums(ones, places, pixels.valid, self.bins).long()
        batch = pixels.total(per_image.sum(0))
        stored = self.counts.to(pixels.nll.dtype)
        if self.training:
            moved = torch.lerp(batch.to(stored), stored, self.momentum)
            moved = moved.where(stored.sum() > 0, batch)
            stored = moved.where(batch.sum() > 0, stored)
            self.counts.copy_(stored)
        counts = stored.where(stored > 0, batch)
        per_bin = counts.sum() / (counts * (batch > 0).sum()).clamp(min=1e-30)
        return per_bin.where(batch > 0, 0)[places].where(pixels.valid, 0)

    def observe(self, pixels: Pixels) -> dict[str, Tensor]:
        return {"bin": self.counts.clone()}


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


def balancing_weights(name: str, pixels: list[int], where_present: list[int]) -> list[float]:
    """A weight a class, from its pixels and those of the images that have it; 0 if it has none.

    median-frequency: median(f) / f, f = pixels / where_present (Eigen and Fergus 2015,
    arXiv:1411.4734); inverse-sqrt: 1 / sqrt(share of all pixels), scaled to a mean of 1.
    """
    if name == "median-frequency":
        share = [count / total if count else 0 for count, total in zip(pixels, where_present)]
        middle = median([f for f in share if f])
        return [middle / f if f else 0.0 for f in share]
    raw = [1 / math.sqrt(count) if count else 0.0 for count in pixels]
    present = [w for w in raw if w]
    return [w * len(present) / sum(present) for w in raw]
