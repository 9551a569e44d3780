"""Types and checks of loss arguments, without torch; what every family of losses has."""

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


def _require_positive(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if not any(numbers):
        raise ValueError
    return numbers


# strict: True is no number; up to 1e30: products of larger numbers leave float32
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
NonNegative = Annotated[Number, Field(ge=0, le=1e30, description="a number from 0 to 1e30")]
Positive = Annotated[Number, Field(gt=0, le=1e30, description="a number above 0, up to 1e30")]
FromMinus1 = Annotated[Number, Field(ge=-1, le=1e30, description="a number from -1 to 1e30")]
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
Average = Annotated[
    Literal["macro", "micro", "generalised"],
    Field(description="macro, micro or generalised"),
]
Iterations = Annotated[Whole, Field(ge=1, le=100, description="a whole number from 1 to 100")]
Exponent = Annotated[Number, Field(ge=0.1, le=10, description="a number from 0.1 to 10")]
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
    PerClass | Share | None,
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
    wraps: ClassVar[bool] = False  # takes an inner loss, of single pixels
    per_pixel: ClassVar[bool] = False  # a mean over pixels, which can be an inner loss
    # of arguments whose default has changed: what it was before config.yaml had it written out
    older_defaults: ClassVar[dict[str, Any]] = {}

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
