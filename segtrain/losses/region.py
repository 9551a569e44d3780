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
        lb_ignore: int = 255,
    ):
        checked = make_arguments(TverskyArguments, alpha, beta, smooth, squared, classes, per_image)
        super().__init__(lb_ignore, powers=(2,) if checked.squared else (1,))
        self.alpha, self.beta, self.smooth = checked.alpha, checked.beta, checked.smooth
        self.present_only, self.per_image = checked.classes == "present", checked.per_image

    def value(self, pixels: Pixels) -> Tensor:
        true = pixels.by_class(pixels.valid.to(pixels.nll.dtype))  # (N,C), as all these sums
        overlap = pixels.by_class(torch.exp(-pixels.nll))
        predicted = pixels.mass[self.powers[0]]
        if not self.per_image:
            sums = pixels.total(torch.stack([overlap, predicted, true]).sum(1, keepdim=True))
            overlap, predicted, true = sums
        wrong = self.alpha * (predicted - overlap) + self.beta * (true - overlap)
        # half of smooth: as in dice, where it stands beside 2 sum(p t)
        hit = overlap + self.smooth / 2
        unmatched = 1 - hit / (hit + wrong)
        counted = true > 0 if self.present_only else torch.ones_like(true, dtype=torch.bool)
        by_image = unmatched.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1)
        return mean_of_images(by_image, true, pixels) if self.per_image else by_image.sum()


def mean_of_images(by_image: Tensor, true: Tensor, pixels: Pixels) -> Tensor:
    """Return the mean of (N,) over the images, of all devices, with a valid pixel in true (N,C)."""
    seen = true.sum(1) > 0
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
        lb_ignore: int = 255,
    ):
        super().__init__(*self.error_weights, smooth, squared, classes, per_image, lb_ignore)


class Jaccard(Dice):
    __doc__ = JaccardArguments.__doc__

    error_weights = 1.0, 1.0
