"""Arguments of the losses of whole regions: overlaps, skeletons, the IoU, without torch."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from segtrain.losses.argument_types import (
    Arguments,
    Average,
    Classes,
    Exponent,
    Iterations,
    NonNegative,
    Positive,
    Switch,
)


@dataclass(frozen=True)
class DiceArguments(Arguments):
    """1 - the Dice coefficient of softmax and one-hot truth; ignored pixels are in no sum.

    A class that is absent from the truth counts only with classes=all, and then as matched by
    smooth / (sum(p) + smooth): without a gradient, unless smooth is large.

    smooth: keeps the fraction defined where a class occurs nowhere.
    squared: sum p^2 instead of sum p below.
    classes: those present in the truth, of the batch or image, or all.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    background: False leaves out class 0.
    average: macro, a mean over classes; micro, of sums over classes; generalised, of sums weighted
    by 1 / sum(t)^2, an absent class as the rarest present one.
    """

    formula = "1 - mean over classes of (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)"
    source = (
        "Milletari et al. 2016, arXiv:1606.04797, without squares unless squared; generalised: "
        "Sudre et al. 2017, arXiv:1707.03237, with weights relative to the rarest class"
    )
    older_defaults = {"classes": "all"}
    smooth: Positive = 1e-5
    squared: Switch = False
    classes: Classes = "present"
    per_image: Switch = False
    background: Switch = True
    average: Average = "macro"


@dataclass(frozen=True)
class TverskyArguments(Arguments):
    """Overlap of prediction and truth, with a weight for false positives and false negatives.

    p is the softmax probability and t the one-hot truth; ignored pixels are in no sum.
    alpha=beta=0.5 is dice, alpha=beta=1 is jaccard; gamma=4/3 is the paper's focal Tversky loss.

    alpha: weight of false positives.
    beta: weight of false negatives.
    smooth: counts as a true positive's 2 p t in both parts of the fraction; half of it, here.
    squared: sum p^2 instead of sum p.
    classes: those present in the truth, of the batch or image, or all.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    background: False leaves out class 0.
    average: macro, micro or generalised, as in dice.
    gamma: above 1, classes that are matched badly count more; the power of each is 1 / gamma.
    """

    formula = (
        "mean over classes of (1 - (I + s/2) / (I + alpha (P - I) + beta (T - I) + s/2))^(1/gamma),"
        " I = sum(p t), P = sum(p), T = sum(t)"
    )
    source = "Salehi et al. 2017, arXiv:1706.05721; gamma: Abraham and Khan 2018, arXiv:1810.07842"
    older_defaults = {"classes": "all"}
    alpha: NonNegative = 0.3
    beta: NonNegative = 0.7
    smooth: Positive = 1e-5
    squared: Switch = False
    classes: Classes = "present"
    per_image: Switch = False
    background: Switch = True
    average: Average = "macro"
    gamma: Exponent = 1.0


@dataclass(frozen=True)
class JaccardArguments(DiceArguments):
    """1 - the soft IoU of softmax and one-hot truth; ignored pixels are in no sum.

    smooth: keeps the fraction defined where a class occurs nowhere; half of it counts in each part.
    squared: sum p^2 instead of sum p below.
    classes: those present in the truth, of the batch or image, or all.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    background: False leaves out class 0.
    average: macro, micro or generalised, as in dice.
    """

    formula = "1 - mean over classes of sum(p t) / (sum(p) + sum(t) - sum(p t)), smoothed"
    source = "Rahman and Wang 2016, doi:10.1007/978-3-319-50835-1_22"


@dataclass(frozen=True)
class LovaszArguments(Arguments):
    """Lovász-softmax: a convex surrogate of the IoU, from the sorted errors.

    classes: the mean is over the classes present in an image, or over all.
    per_image: each image by itself, then a mean over images; else the batch as one image, on one
    device only.
    background: False leaves out class 0.
    """

    formula = "mean over classes of sum_i e_(i) (J_i - J_(i-1)), e = |t - p| in falling order"
    source = "Berman et al. 2018, arXiv:1705.08790"
    classes: Classes = "present"
    per_image: Switch = True
    background: Switch = True

    @property
    def one_device(self) -> str | None:
        return None if self.per_image else "lovasz(per_image=False) sorts all pixels of the batch"


@dataclass(frozen=True)
class ClDiceArguments(Arguments):
    """Centerline Dice, for thin structures such as vessels, roads and cracks.

    The skeleton of the prediction should lie in the truth, and that of the truth in the prediction.
    S(x) is the soft skeleton of a class's probabilities p or one-hot truth t, by min- and
    max-pooling: a cross of 5 pixels and a square of 9. An ignored pixel counts as one beyond the
    border of the image: it is in no minimum, no maximum and no sum. Says little about widths, so
    add dice or ce.

    iterations: of thinning; at least half the width of the widest structure, in pixels.
    smooth: is added to both parts of both fractions.
    classes: those present in the truth, of the batch or image, or all.
    per_image: sums over each image, then a mean over images; else over the whole batch.
    background: True takes class 0 in, whose skeleton seldom means anything.
    """

    formula = (
        "1 - mean over classes of 2 A B / (A + B), A = sum(S(p) t) / sum(S(p)), "
        "B = sum(S(t) p) / sum(S(t)), smoothed"
    )
    source = "Shit et al. 2021, arXiv:2003.07311"
    iterations: Iterations = 3
    smooth: Positive = 1.0
    classes: Classes = "present"
    per_image: Switch = False
    background: Switch = False
