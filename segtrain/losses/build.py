"""Loss expression to Loss, a weighted sum of terms; FAMILIES, the table of losses by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isnan
from typing import Any, cast

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError, did_you_mean
from segtrain.losses.base import PixelLoss, Term
from segtrain.losses.class_weights import BALANCING, balancing_weights
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.expression import Term as Parsed
from segtrain.losses.expression import parse_loss
from segtrain.losses.focal import Focal
from segtrain.losses.ghm import GHM
from segtrain.losses.lovasz import Lovasz
from segtrain.losses.ohem import Mining, OhemCE, TopK
from segtrain.losses.perceptual import VGG
from segtrain.losses.pixels import read_pixels
from segtrain.losses.region import Dice, Jaccard, Tversky

FAMILIES: dict[str, type[Term]] = {
    "ce": CrossEntropy,
    "ohem": OhemCE,
    "topk": TopK,
    "focal": Focal,
    "ghm": GHM,
    "dice": Dice,
    "tversky": Tversky,
    "jaccard": Jaccard,
    "lovasz": Lovasz,
    "vgg": VGG,
}
MINING = [name for name, family in FAMILIES.items() if issubclass(family, Mining)]
MINED = [n for n, family in FAMILIES.items() if issubclass(family, PixelLoss) and n not in MINING]
GIVEN = ("inner", "palette", "lb_ignore")  # not arguments of an expression


class Loss(nn.Module):
    """sum of weight * term, in float32 whatever the precision around it (float64 stays)."""

    def __init__(
        self, names: list[str], weights: list[float], terms: list[Term], lb_ignore: int, sync: bool
    ):
        super().__init__()
        self.names, self.weights = names, weights
        self.terms = cast(Sequence[Term], nn.ModuleList(terms))  # which forgets their type
        self.lb_ignore, self.sync = lb_ignore, sync
        self.powers = tuple(sorted({power for term in terms for power in term.powers}))
        self.observed: list[dict[str, Tensor]] = []  # of the steps that were asked to observe

    @property
    def reads_logits(self) -> list[str]:
        """Names of the terms that need full-resolution logits; with none, upsampling is fused."""
        both = zip(self.names, self.terms, strict=True)
        return [name for name, term in both if term.reads_logits]

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        upsample: int = 1,
        align_corners: bool = False,
        observe: bool = False,
    ) -> Tensor:
        """logits (N,C,h,w) with C >= 2, target (N,H,W) int64 class ids or lb_ignore -> 0-d.

        H = h * upsample: logits are upsampled (bilinear) on the way. With no valid pixel the value
        and all gradients are 0. With `observe`, what each term did is added to `observed`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            pixels = read_pixels(
                logits,
                target,
                self.lb_ignore,
                upsample=upsample,
                align_corners=align_corners,
                powers=self.powers,
                keep_logits=bool(self.reads_logits),
                sync=self.sync,
            )
            weighted = zip(self.weights, self.terms, strict=True)
            values = [weight * term.value(pixels) for weight, term in weighted]
            if observe:
                with torch.no_grad():
                    for value, term in zip(values, self.terms, strict=True):
                        self.observed.append({"value": value.detach()} | term.observe(pixels))
            return _sum(values)

    def forget(self, times: int) -> None:
        """Drops the records of the last few observed calls."""
        del self.observed[len(self.observed) - times * len(self.terms) :]

    def report(self, class_names: list[str]) -> dict[str, float | None]:
        """Means over the observed steps, by "term/what", and an empty record for the next ones.

        Per term: `value` (weight included) and its `share` of the total. Where it mines: `kept`,
        the fraction of valid pixels; `kept/CLASS`; and `threshold`, the probability of the true
        class under which pixels were kept. ghm: `bin/I`, its moving counts. None is undefined.
        """
        count = len(self.terms)
        report: dict[str, float | None] = {}
        total = sum(record["value"] for record in self.observed)
        for place, name in enumerate(unique(self.names)):
            records = self.observed[place::count]
            if not records:  # each of the steps was a bad one
                continue
            value = sum(record["value"] for record in records)
            found: dict[str, Tensor | float] = {"value": value / len(records)}
            found["share"] = value / total
            if "kept" in records[0]:
                kept = _sum(record["kept"] for record in records)
                valid = _sum(record["valid"] for record in records)
                found["kept"] = kept.sum() / valid.sum()
                found["threshold"] = torch.stack([r["threshold"] for r in records]).nanmean()
                shares = zip(class_names, (kept / valid).tolist(), strict=True)
                found |= {f"kept/{c}": s for c, s in shares}
            if "bin" in records[0]:
                found |= {f"bin/{b}": n for b, n in enumerate(records[-1]["bin"].tolist())}
            numbers = {f"{name}/{what}": float(number) for what, number in found.items()}
            report |= {key: None if isnan(number) else number for key, number in numbers.items()}
        self.observed = []
        return report


def _sum(values: Iterable[Tensor]) -> Tensor:
    """The sum of one tensor or more."""
    total = sum(values)
    assert isinstance(total, Tensor)  # without any it would be the number 0
    return total


def unique(names: list[str]) -> list[str]:
    """The names, numbered from the second on where one comes again: ohem, dice, ohem2."""
    seen = [names[:i].count(name) + 1 for i, name in enumerate(names)]
    return [name if n == 1 else f"{name}{n}" for name, n in zip(names, seen, strict=True)]


def build_loss(
    expression: str,
    num_classes: int | None,
    lb_ignore: int = 255,
    *,
    sync: bool = True,
    palette: Sequence[tuple[int, int, int]] | None = None,
    thresh: float = 0.7,
    n_min_factor: int = 16,
) -> Loss:
    """The module of a loss expression such as "ohem(thresh=0.7)+0.5*dice".

    `thresh` and `n_min_factor` go to the terms that take them and don't say otherwise; `palette`,
    a colour a class, is what vgg paints with. Without `sync` each device has a loss of its own.
    Raises UsageError for a name or an argument that no family has. num_classes None, while it is
    not known, checks all else.
    """
    mining = {"thresh": thresh, "n_min_factor": n_min_factor}
    given = {"lb_ignore": lb_ignore, "palette": palette} | mining
    parsed = parse_loss(expression)
    terms = [_build_term(term, given, num_classes) for term in parsed]
    names, weights = [term.name for term in parsed], [term.weight for term in parsed]
    return Loss(names, weights, terms, lb_ignore, sync)


def build_mining(
    expression: str,
    num_classes: int,
    lb_ignore: int = 255,
    *,
    thresh: float = 0.7,
    n_min_factor: int = 16,
) -> Mining | None:
    """The first term of the expression that mines, to see what it keeps; None if none does."""
    given = {"lb_ignore": lb_ignore, "thresh": thresh, "n_min_factor": n_min_factor}
    mining = [term for term in parse_loss(expression) if issubclass(family(term.name), Mining)]
    if not mining:
        return None
    # neither class weights nor what a kept pixel pays chooses anything
    arguments = {key: value for key, value in mining[0].arguments.items() if key != "weight"}
    term = _build_term(replace(mining[0], arguments=arguments, inner=None), given, num_classes)
    assert isinstance(term, Mining)  # as its family is
    return term


def family(name: str) -> type[Term]:
    """The family of that name. Raises UsageError where there is none."""
    if name not in FAMILIES:
        raise UsageError(
            f"loss: there is no {name!r}; losses are {', '.join(FAMILIES)}"
            f"{did_you_mean(name, FAMILIES)}"
        )
    return FAMILIES[name]


def arguments_of(family: type[Term]) -> dict[str, Any]:
    """The arguments that an expression may give, and their defaults."""
    parameters = inspect.signature(family).parameters
    return {key: p.default for key, p in parameters.items() if key not in GIVEN}


def _build_term(term: Parsed, given: dict[str, Any], num_classes: int | None) -> Term:
    if num_classes is not None and num_classes < 2:
        raise UsageError(f"num_classes is {num_classes}; two classes and lb_ignore are the least")
    kind = family(term.name)
    takes = arguments_of(kind)
    for key in term.arguments:
        if key not in takes:
            raise UsageError(
                f"loss: {term.name} has no argument {key!r}; it takes {', '.join(takes)}"
                f"{did_you_mean(key, takes)}"
            )
    arguments = given | term.arguments
    if term.inner:
        _refuse_inner(term.name, term.inner.name)
        arguments["inner"] = _build_term(term.inner, given, num_classes)
    constructor = inspect.signature(kind).parameters
    built = kind(**{key: value for key, value in arguments.items() if key in constructor})
    if num_classes:
        built.check(num_classes)
    return built


def _refuse_inner(outer: str, inner: str) -> None:
    """Raises UsageError unless the one mines and the other can be mined."""
    if outer not in MINING:
        raise UsageError(f"loss: {outer} takes no loss in it; {' and '.join(MINING)} do")
    family(inner)
    if inner not in MINED:
        raise UsageError(f"loss: {outer} can't mine {inner}; it mines {', '.join(MINED)}")


def balanced(expression: str, pixels: list[int], where_present: list[int]) -> str:
    """The expression with weight=median-frequency and inverse-sqrt made numbers.

    `pixels` of each class in the training masks, and `where_present` those of all images that
    have the class.
    """

    def numbers_in(term: Parsed) -> Parsed:
        arguments = dict(term.arguments)
        if arguments.get("weight") in BALANCING:
            found = balancing_weights(arguments["weight"], pixels, where_present)
            arguments["weight"] = [float(f"{weight:.4g}") for weight in found]
        inner = term.inner and numbers_in(term.inner)
        return replace(term, arguments=arguments, inner=inner)

    terms = [numbers_in(term) for term in parse_loss(expression)]
    return " + ".join(map(str, terms)) if terms != parse_loss(expression) else expression
