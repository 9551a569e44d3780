"""Arguments of the losses of whole regions: overlaps and surrogates of the IoU, without torch."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from segtrain.losses.argument_types import (
    Arguments,
    Classes,
    NonNegative,
    Positive,
    Switch,
)


@dataclass(frozen=True)
class DiceArguments(Arguments):
    """1 - the Dice coefficient of softmax and one-hot truth; ignored pixels are in no sum.

    A class that occurs nowhere counts as matched by smooth / (sum(p) + smooth).

    smooth: keeps the fraction defined where a class occurs nowhere.
    squared: sum p^2 instead of sum p below.
    classes: the mean is over all classes, or over those present in the truth.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    """

    formula = "1 - mean over classes of (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)"
    source = "Milletari et al. 2016, arXiv:1606.04797, without squares unless squared"
    smooth: Positive = 1e-5
    squared: Switch = False
    classes: Classes = "all"
    per_image: Switch = False


@dataclass(frozen=True)
class TverskyArguments(Arguments):
    """Overlap of prediction and truth, with a weight for false positives and false negatives.

    p is the softmax probability and t the one-hot truth; ignored pixels are in no sum.
    alpha=beta=0.5 is dice, alpha=beta=1 is jaccard.

    alpha: weight of false positives.
    beta: weight of false negatives.
    smooth: counts as a true positive's 2 p t in both parts of the fraction; half of it, here.
    squared: sum p^2 instead of sum p.
    classes: the mean is over all classes, or over those present in the truth.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    """

    formula = (
        "1 - mean over classes of (I + s/2) / (I + alpha (P - I) + beta (T - I) + s/2), "
        "I = sum(p t), P = sum(p), T = sum(t)"
    )
    source = "Salehi et al. 2017, arXiv:1706.05721"
    alpha: NonNegative = 0.3
    beta: NonNegative = 0.7
    smooth: Positive = 1e-5
    squared: Switch = False
    classes: Classes = "all"
    per_image: Switch = False


@dataclass(frozen=True)
class JaccardArguments(DiceArguments):
    """1 - the soft IoU of softmax and one-hot truth; ignored pixels are in no sum.

    smooth: keeps the fraction defined where a class occurs nowhere; half of it counts in each part.
    squared: sum p^2 instead of sum p below.
    classes: the mean is over all classes, or over those present in the truth.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    """

    formula = "1 - mean over classes of sum(p t) / (sum(p) + sum(t) - sum(p t)), smoothed"
    source = "Rahman and Wang 2016, doi:10.1007/978-3-319-50835-1_22"


@dataclass(frozen=True)
class LovaszArguments(Arguments):
    """Lovász-softmax: a convex surrogate of the IoU, from the sorted errors.

    classes: the mean is over the classes present in an image, or over all.
    per_image: each image by itself, then a mean over images; else the batch as one image, on one
    device only.
    """

    formula = "mean over classes of sum_i e_(i) (J_i - J_(i-1)), e = |t - p| in falling order"
    source = "Berman et al. 2018, arXiv:1705.08790"
    classes: Classes = "present"
    per_image: Switch = True

    @property
    def one_device(self) -> str | None:
        return None if self.per_image else "lovasz(per_image=False) sorts all pixels of the batch"
