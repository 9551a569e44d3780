"""Loss expressions such as "ohem(thresh=0.7)+0.5*dice", parsed once into a LossSpec without torch.

Parsing never runs what it reads.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import Any, get_args

from segtrain.errors import UsageError, did_you_mean
from segtrain.losses.argument_types import Arguments, Balancing, make_arguments
from segtrain.losses.arguments import ARGUMENTS, INNER, OUTER
from segtrain.losses.pixel_arguments import OhemArguments

# words of an expression, and texts in quotes, which are names of files
WORD = re.compile(r"""'[^']*'|"[^"]*"|[^\W\d]\w*(?:[ -]+[^\W\d]\w*)*""")
WORDS = [
    *{name for family in ARGUMENTS.values() for name in family.defaults()},
    *(
        *ARGUMENTS,
        *get_args(Balancing),
        "all",
        "present",
        "macro",
        "micro",
        "generalised",
        "imagenet",
        "True",
        "False",
    ),
]
EXAMPLE = "write for example ohem, ohem(thresh=0.7), ohem(focal) or ohem+0.5*dice"


@dataclass(frozen=True)
class TermSpec:
    """`weight` times the loss family `name` with checked arguments, around the loss `inner`."""

    weight: float
    name: str
    given: dict[str, Any]  # the arguments as written, which config.yaml repeats
    arguments: Arguments  # all of them
    inner: TermSpec | None = None

    def __str__(self) -> str:
        inside = [str(self.inner)] if self.inner else []
        inside += [f"{key}={value!r}" for key, value in self.given.items()]
        weight = "" if self.weight == 1 else f"{self.weight!r}*"
        return f"{weight}{self.name}" + (f"({', '.join(inside)})" if inside else "")

    def check_classes(self, num_classes: int) -> None:
        """Raise UsageError where class weights don't fit that many classes."""
        self.arguments.check_classes(num_classes)
        if self.inner:
            self.inner.check_classes(num_classes)

    def with_defaults(self, earlier: TermSpec | None) -> TermSpec:
        """Return the term with each default written out that has changed between versions."""
        older = self.arguments.older_defaults
        defaults = older | earlier.given if earlier else vars(self.arguments)
        missing = {key: defaults[key] for key in older if key not in self.given}
        if not missing:
            return self
        arguments = make_arguments(type(self.arguments), **vars(self.arguments) | missing)
        return replace(self, given=self.given | missing, arguments=arguments)

    def with_class_weights(self, pixels: list[int], where_present: list[int]) -> TermSpec:
        """Return the term with its balancing by name replaced by numbers."""
        inner = self.inner and self.inner.with_class_weights(pixels, where_present)
        balancing = getattr(self.arguments, "weight", None)
        if not isinstance(balancing, str):
            return replace(self, inner=inner)
        numbers = balancing_weights(balancing, pixels, where_present)
        # four digits keep the expression in config.yaml short
        weight = {"weight": [float(f"{number:.4g}") for number in numbers]}
        arguments = make_arguments(type(self.arguments), **vars(self.arguments) | weight)
        return replace(self, given=self.given | weight, arguments=arguments, inner=inner)


@dataclass(frozen=True)
class LossSpec:
    """Weighted sum of loss terms; `str` gives an expression that parses to the same spec."""

    expression: str
    terms: tuple[TermSpec, ...]

    def __str__(self) -> str:
        return self.expression

    @property
    def names(self) -> list[str]:
        """Families of the terms, in the order of the expression."""
        return [term.name for term in self.terms]

    @property
    def mining(self) -> TermSpec | None:
        """First hard-example-mining term; None where there is none."""
        return next((term for term in self.terms if term.arguments.mines), None)

    @property
    def one_device(self) -> str | None:
        """Reason why only one device can compute the loss; None where several can."""
        return next((why for term in self.terms if (why := term.arguments.one_device)), None)

    def takes(self, setting: str) -> bool:
        """Return whether a term has an argument of that name."""
        return any(setting in term.arguments.defaults() for term in self.terms)

    def check_classes(self, num_classes: int) -> None:
        """Raise UsageError for fewer than two classes, or class weights of another number."""
        if num_classes < 2:
            raise UsageError(f"loss: num_classes is {num_classes}; it must be at least 2")
        for term in self.terms:
            term.check_classes(num_classes)

    def with_defaults(self, earlier: LossSpec | None = None) -> LossSpec:
        """Return the spec with each default written out that has changed between versions.

        A run's config.yaml keeps it so: where it has no value, the run is older than the change.
        `earlier` is the loss of a run to resume, whose terms have its defaults.
        """
        others: Sequence[TermSpec | None] = [None] * len(self.terms)
        if earlier and earlier.names == self.names:
            others = earlier.terms
        terms = tuple(t.with_defaults(o) for t, o in zip(self.terms, others, strict=True))
        return self if terms == self.terms else LossSpec(" + ".join(map(str, terms)), terms)

    def with_class_weights(self, pixels: list[int], where_present: list[int]) -> LossSpec:
        """Return the spec with weight=median-frequency and inverse-sqrt replaced by numbers.

        `pixels` of each class in the training masks, and `where_present` those of all images that
        have the class.
        """
        terms = tuple(term.with_class_weights(pixels, where_present) for term in self.terms)
        return self if terms == self.terms else LossSpec(" + ".join(map(str, terms)), terms)


def balancing_weights(name: str, pixels: list[int], where_present: list[int]) -> list[float]:
    """Return a weight for each class from pixel counts; 0 for a class without pixels.

    median-frequency: median(f) / f, f = pixels / where_present (Eigen and Fergus 2015,
    arXiv:1411.4734); inverse-sqrt: 1 / sqrt(share of all pixels), scaled to a mean of 1.
    """
    if name == "median-frequency":
        both = zip(pixels, where_present, strict=True)
        share = [count / total if count else 0 for count, total in both]
        middle = median([f for f in share if f])
        return [middle / f if f else 0.0 for f in share]
    raw = [1 / math.sqrt(count) if count else 0.0 for count in pixels]
    present = [w for w in raw if w]
    return [w * len(present) / sum(present) for w in raw]


@lru_cache(maxsize=64)  # resuming reads a run's expression in several places
def parse_loss(
    expression: str,
    thresh: float = OhemArguments.thresh,
    n_min_factor: int = OhemArguments.n_min_factor,
) -> LossSpec:
    """Parse a weighted sum of losses and check every name and argument.

    `thresh` and `n_min_factor` go to the terms that take them and don't give their own. Raises
    UsageError for what is no expression, and for a name or an argument that no family has.
    """
    defaults = {"thresh": thresh, "n_min_factor": n_min_factor}
    # ast and literal_eval also raise TypeError, as for {[]: 1}, and RecursionError for deep nesting
    try:
        terms = _terms(ast.parse(expression.strip(), mode="eval").body, defaults)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"loss: {expression!r} is not a loss expression; {EXAMPLE}") from error
    return LossSpec(expression, tuple(terms))


def find_family(name: str) -> type[Arguments]:
    """Return the arguments of the family of that name. Raise UsageError where there is none."""
    if name not in ARGUMENTS:
        raise UsageError(
            f"loss: there is no {name!r}; losses are {', '.join(ARGUMENTS)}"
            f"{did_you_mean(name, ARGUMENTS)}"
        )
    return ARGUMENTS[name]


def _terms(node: ast.expr, defaults: Mapping[str, Any]) -> list[TermSpec]:
    match node:
        case ast.BinOp(left, ast.Add(), right):
            return _terms(left, defaults) + _terms(right, defaults)
        case ast.BinOp(ast.Constant(weight), ast.Mult(), loss):
            return [_term(loss, _weight(weight), defaults)]
        case ast.BinOp(loss, ast.Mult(), ast.Constant(weight)):
            return [_term(loss, _weight(weight), defaults)]
    return [_term(node, 1.0, defaults)]


def _weight(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e30:  # a bool is an int, too
        raise ValueError(value)
    return float(value)


def _term(node: ast.expr, weight: float, defaults: Mapping[str, Any]) -> TermSpec:
    match node:
        case ast.Name(name):
            return _checked_term(weight, name, {}, None, defaults)
        case ast.Call(ast.Name(name), inner, keywords):
            given = {k.arg: _value(k.value) for k in keywords if k.arg}
            if len(given) == len(keywords) and len(inner) <= 1:  # no duplicates, no **
                mined = _term(inner[0], 1.0, defaults) if inner else None
                return _checked_term(weight, name, given, mined, defaults)
    raise ValueError(ast.unparse(node))


def _value(node: ast.expr) -> Any:
    """Read a literal, or a word without quotes such as present, true or median-frequency."""
    match node:
        case ast.Name(word) if word.lower() in ("true", "false"):
            return word.lower() == "true"
        case ast.Name(word):
            return word
        case ast.BinOp(ast.Name(first), ast.Sub(), ast.Name(second)):
            return f"{first}-{second}"
    return ast.literal_eval(node)


def _checked_term(
    weight: float,
    name: str,
    given: dict[str, Any],
    inner: TermSpec | None,
    defaults: Mapping[str, Any],
) -> TermSpec:
    family = find_family(name)
    takes = family.defaults()
    for key in given:
        if key not in takes:
            raise UsageError(
                f"loss: {name} has no argument {key!r}; it takes {', '.join(takes)}"
                f"{did_you_mean(key, takes)}"
            )
    if inner and not family.wraps:
        raise UsageError(f"loss: {name} takes no inner loss; {', '.join(OUTER)} do")
    if inner and not inner.arguments.per_pixel:
        turned = inner.arguments.wraps and family.per_pixel
        advice = f"; write {inner.name}({name})" if turned else ""
        raise UsageError(
            f"loss: {name} can't go around {inner.name}; it takes {', '.join(INNER)}{advice}"
        )
    given_to_all = {key: value for key, value in defaults.items() if key in takes}
    return TermSpec(weight, name, given, make_arguments(family, **given_to_all | given), inner)
