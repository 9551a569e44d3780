"""Region losses from sums per class: Tversky, Dice, Jaccard."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import Term
from segtrain.losses.pixel_pass import Pixels
from segtrain.losses.region_arguments import DiceArguments, JaccardArguments, TverskyArguments


class Tversky(Term):
    __doc__ = TverskyArguments.__doc__

    def __init__(
        self,
        alpha: float = TverskyArguments.alpha,
        beta: float = TverskyArguments.beta,
        smooth: float = TverskyArguments.smooth,
        squared: bool = TverskyArguments.squared,
        classes: str = TverskyArguments.classes,
        per_image: bool = TverskyArguments.per_image,
        background: bool = TverskyArguments.background,
        average: str = TverskyArguments.average,
        gamma: float = TverskyArguments.gamma,
        lb_ignore: int = 255,
    ):
        switches = squared, classes, per_image, background, average
        checked = make_arguments(TverskyArguments, alpha, beta, smooth, *switches, gamma)
        super().__init__(lb_ignore, powers=(2,) if checked.squared else (1,))
        self.checked = checked

    def value(self, pixels: Pixels) -> Tensor:
        given = self.checked
        true = pixels.by_class(pixels.valid.to(pixels.nll.dtype))  # (N,C), as all these sums
        overlap = pixels.by_class(torch.exp(-pixels.nll))
        predicted = pixels.mass[self.powers[0]]
        if not given.per_image:
            sums = pixels.total(torch.stack([overlap, predicted, true]).sum(1, keepdim=True))
            overlap, predicted, true = sums
        wrong = given.alpha * (predicted - overlap) + given.beta * (true - overlap)
        counted = counted_classes(true, given.classes, given.background)
        if given.average != "macro":
            weight = rarity(true, counted) if given.average == "generalised" else 1
            overlap, wrong = (
                (weight * sums).where(counted, 0).sum(1, keepdim=True) for sums in (overlap, wrong)
            )
            counted = counted.any(1, keepdim=True)
        # half of smooth: as in dice, where it stands beside 2 sum(p t)
        hit = overlap + given.smooth / 2
        if given.gamma == 1:
            unmatched = 1 - hit / (hit + wrong)
        else:
            unmatched = finite_power((wrong / (hit + wrong)).clamp(min=0), 1 / given.gamma)
        return mean_loss(unmatched, counted, true, given.per_image, pixels)


def counted_classes(true: Tensor, classes: str, background: bool) -> Tensor:
    """Return (N,C) bool: the classes that a loss counts, by their pixels in the truth (N,C)."""
    counted = true > 0 if classes == "present" else torch.ones_like(true, dtype=torch.bool)
    foreground = torch.arange(true.shape[1], device=true.device) > 0
    return counted if background else counted & foreground


def rarity(true: Tensor, counted: Tensor) -> Tensor:
    """Return the weights (N,C) of generalised Dice: 1 / pixels^2, relative to the rarest class.

    Relative, since smooth would outweigh sums of a millionth. An absent class weighs as the rarest.
    """
    present = counted & (true > 0)
    rarest = true.where(present, torch.inf).amin(1, keepdim=True)
    return (rarest / true.where(present, rarest)).where(present, 1) ** 2


def finite_power(base: Tensor, exponent: float) -> Tensor:
    """Return base ** exponent, base >= 0; constant near 0, where the slope may be infinite."""
    tiny = base <= torch.finfo(base.dtype).tiny ** 0.5  # false for NaN, which must show
    return (base.masked_fill(tiny, 1) ** exponent).masked_fill(tiny, 0)


def mean_loss(
    by_class: Tensor, counted: Tensor, true: Tensor, per_image: bool, pixels: Pixels
) -> Tensor:
    """Return the mean of (N,C) over the counted classes, then over the images of all devices.

    An image without a counted class, or without a valid pixel in `true` (N,C), isn't in the mean;
    a batch of such images has the loss 0. Without per_image the one row is of the whole batch.
    """
    by_image = by_class.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1)
    if not per_image:
        return by_image.sum()
    seen = (true.sum(1) > 0) & counted.any(1)
    return pixels.total(by_image.where(seen, 0).sum()) / pixels.total(seen.sum()).clamp(min=1)


class Dice(Tversky):
    __doc__ = DiceArguments.__doc__

    error_weights = 0.5, 0.5  # of false positives and negatives

    def __init__(
        self,
        smooth: float = DiceArguments.smooth,
        squared: bool = DiceArguments.squared,
        classes: str = DiceArguments.classes,
        per_image: bool = DiceArguments.per_image,
        background: bool = DiceArguments.background,
        average: str = DiceArguments.average,
        lb_ignore: int = 255,
    ):
        alpha, beta = self.error_weights
        super().__init__(
            alpha, beta, smooth, squared, classes, per_image, background, average, 1, lb_ignore
        )


class Jaccard(Dice):
    __doc__ = JaccardArguments.__doc__

    error_weights = 1.0, 1.0
