"""LossSpec to Loss, a weighted sum of terms; FAMILIES, the table of loss classes by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import isnan
from typing import Any, cast

import torch
from torch import Tensor, nn

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.arguments import VGGArguments
from segtrain.losses.base import Term
from segtrain.losses.border import Border
from segtrain.losses.cldice import ClDice
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.focal import Focal
from segtrain.losses.ghm import GHM
from segtrain.losses.lovasz import Lovasz
from segtrain.losses.ohem import Mining, OhemCE, TopK
from segtrain.losses.perceptual import VGG, load_features
from segtrain.losses.pixel_arguments import OhemArguments
from segtrain.losses.pixel_pass import PixelReader
from segtrain.losses.poly import Poly
from segtrain.losses.region import Dice, Jaccard, Tversky
from segtrain.losses.spec import LossSpec, TermSpec, parse_loss

FAMILIES: dict[str, type[Term]] = {
    "ce": CrossEntropy,
    "ohem": OhemCE,
    "topk": TopK,
    "focal": Focal,
    "ghm": GHM,
    "poly": Poly,
    "border": Border,
    "dice": Dice,
    "tversky": Tversky,
    "jaccard": Jaccard,
    "lovasz": Lovasz,
    "cldice": ClDice,
    "vgg": VGG,
}


class Loss(nn.Module):
    """Sum of weight * term, in float32 whatever the precision around it (float64 stays)."""

    def __init__(
        self, names: list[str], weights: list[float], terms: list[Term], lb_ignore: int, sync: bool
    ):
        super().__init__()
        self.names, self.weights = names, weights
        self.terms = cast(Sequence[Term], nn.ModuleList(terms))  # a ModuleList has no type for them
        self.lb_ignore, self.sync = lb_ignore, sync
        powers = tuple(sorted({power for term in terms for power in term.powers}))
        self.reader = PixelReader(lb_ignore, powers, bool(self.reads_logits), sync)
        # of each observed call a record for each term; read by `report` only, as reading waits for
        # the device
        self.observed: list[dict[str, Tensor]] = []

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
        """Return the loss (0-d) of logits (N,C,h,w), C >= 2, and an integer target (N,H,W).

        The target holds class ids or lb_ignore. H = h * upsample: logits are upsampled (bilinear)
        on the way. With no valid pixel the value and all gradients are 0. With `observe`, a record
        of each term is added to `observed`.
        """
        with torch.autocast(logits.device.type, enabled=False):
            pixels = self.reader.read(logits, target, upsample, align_corners)
            results = [term.evaluate(pixels) for term in self.terms]
            weighted = zip(self.weights, results, strict=True)
            values = [weight * result.value for weight, result in weighted]
            if observe:
                with torch.no_grad():
                    for value, result in zip(values, results, strict=True):
                        self.observed.append({"value": value.detach()} | result.observe())
            return sum(values, start=pixels.nll.new_zeros(()))

    def forget(self, times: int) -> None:
        """Drop the records of the last few observed calls."""
        del self.observed[len(self.observed) - times * len(self.terms) :]

    def report(self, class_names: list[str]) -> dict[str, float | None]:
        """Return means over the observed steps, by "term/quantity", and drop the records.

        Per term: `value` (weight included) and its `share` of the total. For a mining term: `kept`,
        the fraction of valid pixels; `kept/CLASS`; and `threshold`, the probability of the true
        class below which pixels were kept. ghm: `bin/I`, its moving counts. None is undefined.
        """
        count = len(self.terms)
        report: dict[str, float | None] = {}
        total = sum(record["value"] for record in self.observed)
        for position, name in enumerate(number_repeats(self.names)):
            records = self.observed[position::count]
            if not records:  # each of the steps was skipped
                continue
            value = sum(record["value"] for record in records)
            quantities: dict[str, Tensor | float] = {"value": value / len(records)}
            quantities["share"] = value / total
            if "kept" in records[0]:
                kept, valid = (
                    reduce(torch.add, (r[k] for r in records)) for k in ("kept", "valid")
                )
                quantities["kept"] = kept.sum() / valid.sum()
                quantities["threshold"] = torch.stack([r["threshold"] for r in records]).nanmean()
                shares = zip(class_names, (kept / valid).tolist(), strict=True)
                quantities |= {f"kept/{c}": s for c, s in shares}
            if "bin" in records[0]:
                quantities |= {f"bin/{b}": n for b, n in enumerate(records[-1]["bin"].tolist())}
            numbers = {
                f"{name}/{quantity}": float(number) for quantity, number in quantities.items()
            }
            report |= {key: None if isnan(number) else number for key, number in numbers.items()}
        self.observed = []
        return report


def number_repeats(names: list[str]) -> list[str]:
    """Return the names, numbered from the second on where one repeats: ohem, dice, ohem2."""
    counts = [names[:i].count(name) + 1 for i, name in enumerate(names)]
    return [name if n == 1 else f"{name}{n}" for name, n in zip(names, counts, strict=True)]


def build_loss(
    expression: str | LossSpec,
    num_classes: int,
    lb_ignore: int = 255,
    *,
    sync: bool = True,
    palette: Sequence[tuple[int, int, int]] | None = None,
    thresh: float = OhemArguments.thresh,
    n_min_factor: int = OhemArguments.n_min_factor,
) -> Loss:
    """Build the module of a loss expression such as "ohem(thresh=0.7)+0.5*dice", or of its spec.

    `thresh` and `n_min_factor` go to the terms of an expression that take them and don't give their
    own; a spec has them already. `palette`, a colour for each class, is what vgg paints with.
    Without `sync` each device has a loss of its own. Raises UsageError for a name or an argument
    that no family has.
    """
    spec = expression
    if isinstance(spec, str):
        spec = parse_loss(spec, thresh, n_min_factor)
    spec.check_classes(num_classes)
    terms = [_build_term(term, lb_ignore, palette) for term in spec.terms]
    for term in terms:
        if isinstance(term, VGG):
            term.check_palette(num_classes)
    return Loss(spec.names, [term.weight for term in spec.terms], terms, lb_ignore, sync)


def build_mining(spec: LossSpec, num_classes: int, lb_ignore: int = 255) -> Mining | None:
    """Build the first mining term of the spec, to see which pixels it keeps; None without one."""
    if spec.mining is None:
        return None
    spec.check_classes(num_classes)
    # neither class weights nor the inner loss has an influence on the choice
    arguments = make_arguments(
        type(spec.mining.arguments), **vars(spec.mining.arguments) | {"weight": None}
    )
    term = _build_term(replace(spec.mining, arguments=arguments, inner=None), lb_ignore, None)
    return term if isinstance(term, Mining) else None


def load_networks(spec: LossSpec) -> None:
    """Load the fixed networks of a loss, so that missing weights show before data is read."""
    for term in spec.terms:
        if isinstance(term.arguments, VGGArguments):
            load_features(term.arguments)


def _build_term(
    spec: TermSpec, lb_ignore: int, palette: Sequence[tuple[int, int, int]] | None
) -> Term:
    family: Any = FAMILIES[spec.name]
    extras: dict[str, Any] = {"lb_ignore": lb_ignore}
    if spec.inner:
        extras["inner"] = _build_term(spec.inner, lb_ignore, palette)
    if family is VGG:
        extras["palette"] = palette
    return family(**vars(spec.arguments), **extras)
