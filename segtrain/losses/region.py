"""Region losses from sums per class: Tversky, Dice, Jaccard."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.losses.arguments import choice, number, switch
from segtrain.losses.base import Term
from segtrain.losses.pixels import Pixels

CLASSES = ("all", "present")


class Tversky(Term):
    """Overlap of prediction and truth, with prices for false positives and false negatives.

    p is the softmax probability and t the one-hot truth; ignored pixels are out of every sum.
    alpha=beta=0.5 is dice, alpha=beta=1 is jaccard.

    alpha: price of false positives.
    beta: price of false negatives.
    smooth: counts as a true positive's 2 p t in both parts of the fraction; half of it, here.
    squared: sum p^2 in place of sum p.
    classes: the mean is over all classes, or over those present in the truth.
    per_image: sums over each image, and a mean over images; else over the whole batch.
    """

    formula = (
        "1 - mean over classes of (I + s/2) / (I + alpha (P - I) + beta (T - I) + s/2), "
        "I = sum(p t), P = sum(p), T = sum(t)"
    )
    source = "Salehi et al. 2017, arXiv:1706.05721"

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1e-5,
        squared: bool = False,
        classes: str = "all",
        per_image: bool = False,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore)
        self.alpha, self.beta = number("alpha", alpha, 0), number("beta", beta, 0)
        self.smooth = number("smooth", smooth, 0, open_low=True)
        self.powers = (2,) if switch("squared", squared) else (1,)
        self.present_only = choice("classes", classes, CLASSES) == "present"
        self.per_image = switch("per_image", per_image)

    def value(self, pixels: Pixels) -> Tensor:
        true = pixels.by_class(pixels.valid.to(pixels.nll.dtype))  # (N,C), as all these sums
        overlap = pixels.by_class(torch.exp(-pixels.nll))
        predicted = pixels.mass[self.powers[0]]
        if not self.per_image:
            sums = pixels.total(torch.stack([overlap, predicted, true]).sum(1, keepdim=True))
            overlap, predicted, true = sums
        wrong = self.alpha * (predicted - overlap) + self.beta * (true - overlap)
        hit = overlap + self.smooth / 2
        price = 1 - hit / (hit + wrong)
        counted = true > 0 if self.present_only else torch.ones_like(true, dtype=torch.bool)
        by_image = price.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1)
        return mean_of_images(by_image, true, pixels) if self.per_image else by_image.sum()


def mean_of_images(by_image: Tensor, true: Tensor, pixels: Pixels) -> Tensor:
    """The mean of (N,) over the images, of all devices, that have a valid pixel: a true (N,C)."""
    seen = true.sum(1) > 0
    return pixels.total(by_image.where(seen, 0).sum()) / pixels.total(seen.sum()).clamp(min=1)


class Dice(Tversky):
    """1 - the Dice coefficient of softmax and one-hot truth; ignored pixels are out of every sum.

    A class that is nowhere counts as matched by smooth / (sum(p) + smooth).

    smooth: keeps the fraction defined where a class is nowhere.
    squared: sum p^2 in place of sum p below.
    classes: the mean is over all classes, or over those present in the truth.
    per_image: sums over each image, and a mean over images; else over the whole batch.
    """

    formula = "1 - mean over classes of (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)"
    source = "Milletari et al. 2016, arXiv:1606.04797, without squares unless squared"
    prices = 0.5, 0.5  # of false positives and negatives

    def __init__(
        self,
        smooth: float = 1e-5,
        squared: bool = False,
        classes: str = "all",
        per_image: bool = False,
        lb_ignore: int = 255,
    ):
        super().__init__(*self.prices, smooth, squared, classes, per_image, lb_ignore)


class Jaccard(Dice):
    """1 - the soft IoU of softmax and one-hot truth; ignored pixels are out of every sum.

    smooth: keeps the fraction defined where a class is nowhere; half of it counts in each part.
    squared: sum p^2 in place of sum p below.
    classes: the mean is over all classes, or over those present in the truth.
    per_image: sums over each image, and a mean over images; else over the whole batch.
    """

    formula = "1 - mean over classes of sum(p t) / (sum(p) + sum(t) - sum(p t)), smoothed"
    source = "Rahman and Wang 2016, doi:10.1007/978-3-319-50835-1_22"
    prices = 1, 1
