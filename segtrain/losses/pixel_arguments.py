"""Arguments of the losses of single pixels, and of the mining around them, without torch."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from segtrain.errors import UsageError
from segtrain.losses.argument_types import (
    Alpha,
    Arguments,
    BinCount,
    Count,
    FromMinus1,
    Keep,
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    ShareBelow1,
    Switch,
    Weighting,
)


@dataclass(frozen=True)
class CrossEntropyArguments(Arguments):
    """Mean over valid pixels; with class weights, divided by the sum of the pixels' weights.

    weight: a number for each class, or median-frequency or inverse-sqrt, from the training masks.
    label_smoothing: this share of the truth is spread evenly over all classes.
    """

    formula = "sum(w m) / sum(w), m = -log p_true"
    source = "as torch.nn.functional.cross_entropy"
    per_pixel = True
    weight: Weighting = None
    label_smoothing: Share = 0.0


@dataclass(frozen=True)
class OhemArguments(Arguments):
    """Online hard example mining: the mean over hard pixels only.

    Hard pixels are those whose loss exceeds -log(thresh), so whose true class has a probability
    below thresh. If they are fewer than n_min = max(1, n_valid // n_min_factor), the n_min
    pixels with the largest loss count instead; pixels tied at the n_min-th value share what is
    left of n_min evenly. (mmsegmentation's min_kept is a number for each image, but its pixels are
    chosen from the whole batch, as TorchSeg's are.)

    thresh: a probability, in (0, 1].
    n_min_factor: at least one of this many valid pixels is kept.
    weight: as in ce; has no influence on which pixels are kept.
    per_image: choose in each image by itself, with its own n_min; the mean is over all images'
    chosen pixels. Else over the whole batch.
    """

    formula = "sum(w m) / sum(w) over m > -log(thresh), at least the n_min largest"
    source = (
        "Shrivastava et al. 2016, arXiv:1604.03540, in the form that BiSeNet's code made common "
        "(n_min there may be 0, which gives NaN)"
    )
    mines = wraps = True
    thresh: PositiveShare = 0.7
    n_min_factor: Count = 16
    weight: Weighting = None
    per_image: Switch = False


@dataclass(frozen=True)
class TopKArguments(Arguments):
    """Mean over a fixed share of the valid pixels: those with the largest loss.

    Pixels tied at the k-th value share what is left of k evenly.

    keep: a share of the valid pixels, in (0, 1], or a whole number of pixels; at least one.
    weight: as in ce; has no influence on which pixels are kept.
    per_image: keep that share, or number, of each image; the mean is over all images' kept pixels.
    Else of the whole batch.
    """

    formula = "sum(w m) / sum(w) over the k largest m, k = keep * n_valid"
    source = "Shrivastava et al. 2016, arXiv:1604.03540; Wu et al. 2016, arXiv:1604.04339"
    mines = wraps = True
    keep: Keep = 0.2
    weight: Weighting = None
    per_image: Switch = False


@dataclass(frozen=True)
class FocalArguments(Arguments):
    """Cross entropy that counts a pixel less the more confident its prediction is.

    A mean over valid pixels.

    gamma: how fast the weight of a pixel falls with its probability; 0 is ce.
    alpha: with two classes the weight of class 1, class 0 having 1 - alpha; or one for each class.
    """

    formula = "-alpha_true (1 - p_true)^gamma log p_true"
    source = "Lin et al. 2017, arXiv:1708.02002, over softmax"
    per_pixel = True
    gamma: NonNegative = 2.0
    alpha: Alpha = None

    def check_classes(self, num_classes: int) -> None:
        if isinstance(self.alpha, float) and num_classes != 2:
            numbers = [f"{1 - self.alpha:g}", *[f"{self.alpha:g}"] * (num_classes - 1)]
            if num_classes > 32:
                numbers[2:-1] = ["..."]
            raise UsageError(
                f"loss: focal's alpha={self.alpha:g} is for two classes, and there are "
                f"{num_classes}; give {num_classes} numbers, one for each class, such as "
                f"alpha=[{', '.join(numbers)}], or write {self.alpha:g}*focal to scale the loss"
            )
        super().check_classes(num_classes)


@dataclass(frozen=True)
class GHMArguments(Arguments):
    """Gradient harmonizing: a pixel counts less the more others have a gradient of its size.

    g = 1 - p_true is the size of a pixel's gradient. Each bin's count is a moving average: it
    starts at the first batch's count and changes with each batch in training only. One bin is ce.

    bins: equal parts of g's range 0..1.
    momentum: share of the earlier count that a batch leaves, in [0, 1).
    """

    formula = "sum(w m) / n_valid, w = total count / (count in g's bin * non-empty bins)"
    source = "Li et al. 2019, arXiv:1811.05181"
    per_pixel = True
    bins: BinCount = 10
    momentum: ShareBelow1 = 0.75


@dataclass(frozen=True)
class PolyArguments(Arguments):
    """PolyLoss in its form Poly-1: cross entropy plus a share of the wrong probability.

    Cross entropy is the sum of (1 - p_true)^j / j over all j from 1 on; epsilon is added to the
    factor of the first. Mean over valid pixels, with class weights as in ce. epsilon=0 is ce.

    epsilon: above 0 confident pixels keep a larger gradient; below 0 a smaller one.
    weight: as in ce.
    """

    formula = "sum(w (m + epsilon (1 - p_true))) / sum(w)"
    source = "Leng et al. 2022, arXiv:2204.12511"
    per_pixel = True
    epsilon: FromMinus1 = 1.0
    weight: Weighting = None


@dataclass(frozen=True)
class BorderArguments(Arguments):
    """U-Net's weights: pixels between objects that are near each other count more.

    A pixel's w is w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), with its distances d1 and d2 to the
    nearest two objects of its image, in pixels; d1 is 0 within an object. The loss is the inner
    one's mean with these weights, so the inner loss itself where no two objects are near. An object
    is a set of pixels of one class that touch by side or corner; class 0 is background, and no
    object. Ignored pixels have no weight and are in no object.

    The paper has cells of one class, with background between all of them, and sums without
    dividing. Here objects of two classes may touch, so pixels within objects have the weight, too.
    Labels on a GPU are copied to the host, which waits for that.

    w0: weight of a border in addition to w_c.
    sigma: width of a border, in pixels.
    background: regions of class 0 are objects, too, for data without a background class.
    weight: w_c, as in ce; 1 without.
    """

    formula = "sum(w cost) / sum(w), w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))"
    source = "Ronneberger et al. 2015, arXiv:1505.04597, equation 2"
    wraps = per_pixel = True
    w0: NonNegative = 10.0
    sigma: Positive = 5.0
    background: Switch = False
    weight: Weighting = None
