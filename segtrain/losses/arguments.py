"""Arguments of every loss family: types, ranges, defaults and descriptions, without torch."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from segtrain.errors import UsageError

# ---- types and ranges; a description completes "loss: NAME is ..." where a value is refused


def _as_int(value: Any) -> Any:
    # strict integers would refuse 16.0 and 1e4
    return int(value) if type(value) is float and value.is_integer() else value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_pair(value: Any) -> Any:
    """Return the weight of class 1 as weights of both classes, anything else unchanged."""
    return (1 - value, value) if type(value) in (int, float) and 0 <= value <= 1 else value


def _require_positive(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if not any(numbers):
        raise ValueError
    return numbers


# strict: True is no number; up to 1e30: products of larger numbers leave float32
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0, le=1e30, description="a number from 0 to 1e30")]
Positive = Annotated[Number, Field(gt=0, le=1e30, description="a number above 0, up to 1e30")]
Share = Annotated[Number, Field(ge=0, le=1, description="a number in [0, 1]")]
PositiveShare = Annotated[Number, Field(gt=0, le=1, description="a number in (0, 1]")]
ShareBelow1 = Annotated[Number, Field(ge=0, lt=1, description="a number in [0, 1)")]
Whole = Annotated[int, Field(strict=True), BeforeValidator(_as_int)]
Count = Annotated[
    Whole, Field(ge=1, le=2**31 - 1, description="a whole number from 1 to 2147483647")
]
BinCount = Annotated[Whole, Field(ge=1, le=10_000, description="a whole number from 1 to 10000")]
Layers = Annotated[
    tuple[Annotated[Whole, Field(ge=0, le=36)], ...],
    BeforeValidator(_as_tuple),
    Field(strict=True, min_length=1, description="a list of whole numbers from 0 to 36"),
]
Switch = Annotated[bool, Field(strict=True, description="True or False")]
Classes = Annotated[Literal["all", "present"], Field(description="all or present")]
WeightsFile = Annotated[str, Field(strict=True, description="imagenet, none or a file")]
PerClass = Annotated[
    tuple[NonNegative, ...],
    Field(strict=True),
    BeforeValidator(_as_tuple),
    AfterValidator(_require_positive),
]
Balancing = Literal["median-frequency", "inverse-sqrt"]
Weighting = Annotated[
    PerClass | Balancing | None,
    Field(
        description="median-frequency, inverse-sqrt or a list of numbers from 0 to 1e30, one for "
        "each class, not all 0"
    ),
]
Alpha = Annotated[
    PerClass | None,
    BeforeValidator(_as_pair),
    Field(
        description="a number in [0, 1] (two classes) or a list of numbers from 0 to 1e30, one for "
        "each class, not all 0"
    ),
]
# no Whole: 1.0 is a share, 1 a count
Keep = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | PositiveShare,
    Field(description="a share in (0, 1] or a whole number from 1 to 2147483647"),
]


# ---- families


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of one loss family; its docstring, formula and source document the loss.

    Each subclass's docstring ends in a paragraph with a line `argument: description` for each.
    """

    formula: ClassVar[str]
    source: ClassVar[str]
    mines: ClassVar[bool] = False  # averages over hard pixels of an inner loss
    per_pixel: ClassVar[bool] = False  # a mean over pixels, which can be mined

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of each argument, by name."""
        return {field.name: field.default for field in fields(cls)}

    @property
    def one_device(self) -> str | None:
        """Reason why the loss can't be computed over several devices; None where it can."""
        return None

    def check_classes(self, num_classes: int) -> None:
        """Raise UsageError where class weights are not one for each class."""
        for name in ("weight", "alpha"):
            numbers = getattr(self, name, None)
            if isinstance(numbers, tuple):
                require_one_per_class(name, len(numbers), num_classes)


def require_one_per_class(name: str, count: int, num_classes: int) -> None:
    """Raise UsageError where there are more or fewer numbers than classes."""
    if count != num_classes:
        raise UsageError(
            f"loss: {name} has {count} numbers for {num_classes} classes; give one for each class"
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
    left of n_min evenly.

    thresh: a probability, in (0, 1].
    n_min_factor: at least one of this many valid pixels is kept.
    weight: as in ce; has no influence on which pixels are kept.
    """

    formula = "sum(w m) / sum(w) over m > -log(thresh), at least the n_min largest"
    source = (
        "Shrivastava et al. 2016, arXiv:1604.03540, in the form that BiSeNet's code made common "
        "(n_min there may be 0, which gives NaN)"
    )
    mines = True
    thresh: PositiveShare = 0.7
    n_min_factor: Count = 16
    weight: Weighting = None


@dataclass(frozen=True)
class TopKArguments(Arguments):
    """Mean over a fixed share of the valid pixels: those with the largest loss.

    Pixels tied at the k-th value share what is left of k evenly.

    keep: a share of the valid pixels, in (0, 1], or a whole number of pixels; at least one.
    weight: as in ce; has no influence on which pixels are kept.
    """

    formula = "sum(w m) / sum(w) over the k largest m, k = keep * n_valid"
    source = "Shrivastava et al. 2016, arXiv:1604.03540; Wu et al. 2016, arXiv:1604.04339"
    mines = True
    keep: Keep = 0.2
    weight: Weighting = None


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


@dataclass(frozen=True)
class VGGArguments(Arguments):
    """Mean squared distance of VGG-19 features of the soft and the true mask, both painted.

    A pixel of the soft mask has the mean of the classes' colours, weighted by their probabilities.
    Ignored pixels are black in both. The network is fixed.

    layers: indices into VGG-19's features; the loss is the mean over them.
    weights: imagenet, none (random, for tests), or a file of VGG-19's state dict.
    palette: an RGB colour 0..255 for each class; else hues at equal distances.
    """

    formula = "mean over layers of mean((F(sum_c p_c colour_c) - F(colour_true))^2)"
    source = "Johnson et al. 2016, arXiv:1603.08155; features: Simonyan and Zisserman 2014"
    layers: Layers = (3, 8, 13, 22, 31)  # the second ReLU of each block
    weights: WeightsFile = "imagenet"


ARGUMENTS: dict[str, type[Arguments]] = {
    "ce": CrossEntropyArguments,
    "ohem": OhemArguments,
    "topk": TopKArguments,
    "focal": FocalArguments,
    "ghm": GHMArguments,
    "dice": DiceArguments,
    "tversky": TverskyArguments,
    "jaccard": JaccardArguments,
    "lovasz": LovaszArguments,
    "vgg": VGGArguments,
}
MINING = [name for name, family in ARGUMENTS.items() if family.mines]
MINED = [name for name, family in ARGUMENTS.items() if family.per_pixel]

Family = TypeVar("Family", bound=Arguments)


def make_arguments(family: type[Family], *values: Any, **given: Any) -> Family:
    """Check arguments by position or name; the others get their defaults. Raises UsageError."""
    given |= dict(zip(family.defaults(), values, strict=False))
    try:
        return family(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = first["loc"]
        got = f"{given[str(name)]!r:.40}"
        if any(isinstance(step, int) for step in inside):  # the list may be too long to show
            got = f"{first['input']!r:.40} in the list"
        allowed = TypeAdapter(family).json_schema()["properties"][name]["description"]
        raise UsageError(f"loss: {name} is {allowed}, got {got}") from error
