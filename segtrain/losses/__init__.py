"""Losses by name. A loss is a weighted sum of terms; a term is a family of FAMILIES."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError, did_you_mean
from segtrain.losses.nll import pixel_nll
from segtrain.losses.region import Dice
from segtrain.losses.weighting import CrossEntropy, OhemCE
from segtrain.lossexpr import parse_loss

# pixel families weight the map of pixel_nll, region families read logits and target themselves
PIXEL_FAMILIES = {"ce": CrossEntropy, "ohem": OhemCE}
REGION_FAMILIES = {"dice": Dice}
FAMILIES = PIXEL_FAMILIES | REGION_FAMILIES


class Loss(nn.Module):
    """sum of weight * term, in float32 whatever the precision around it (float64 stays)."""

    def __init__(self, weights: list[float], terms: list[nn.Module], lb_ignore: int):
        super().__init__()
        self.weights = weights
        self.terms = nn.ModuleList(terms)
        self.lb_ignore = lb_ignore

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (N,C,H,W) with C >= 2, target (N,H,W) int64 class ids or lb_ignore -> 0-d.

        With no valid pixel the value and all gradients are 0.
        """
        with torch.autocast(logits.device.type, enabled=False):
            weights_map = [type(term) in PIXEL_FAMILIES.values() for term in self.terms]
            valid = target != self.lb_ignore
            nll = pixel_nll(logits, target, self.lb_ignore) if any(weights_map) else None
            values = [
                term(nll, valid) if on_map else term(logits, target)
                for term, on_map in zip(self.terms, weights_map)
            ]
            return sum(weight * value for weight, value in zip(self.weights, values))


def build_loss(expression: str, num_classes: int, lb_ignore: int = 255, **defaults: Any) -> Loss:
    """The module of a loss expression such as "ohem(thresh=0.7)+0.5*dice".

    `defaults` (thresh, n_min_factor) go to the terms that take them and don't say otherwise.
    Raises UsageError for a name or an argument that no family has.
    """
    if num_classes < 2:
        raise UsageError(f"num_classes is {num_classes}; two classes and lb_ignore are the least")
    parsed = parse_loss(expression)
    given = {"num_classes": num_classes, "lb_ignore": lb_ignore, **defaults}
    terms = [_build_term(term.name, term.arguments, given) for term in parsed]
    return Loss([term.weight for term in parsed], terms, lb_ignore)


def _build_term(name: str, arguments: dict[str, Any], given: dict[str, Any]) -> nn.Module:
    if name not in FAMILIES:
        raise UsageError(
            f"loss: there is no {name!r}; losses are {', '.join(FAMILIES)}"
            f"{did_you_mean(name, FAMILIES)}"
        )
    # a family without a constructor of its own has nn.Module's, which takes anything
    takes = inspect.signature(FAMILIES[name].__init__).parameters
    takes = [key for key in takes if key not in ("self", "args", "kwargs")]
    own = [key for key in takes if key not in ("num_classes", "lb_ignore")]
    for key, value in arguments.items():
        if key not in own:
            allowed = f"it takes {', '.join(own)}" if own else "it takes none"
            raise UsageError(f"loss: {name} has no argument {key!r}; {allowed}")
        if type(value) not in (int, float) or not math.isfinite(value):
            raise UsageError(f"loss: {name}'s {key} is a number, got {value!r}")
    return FAMILIES[name](**({k: v for k, v in given.items() if k in takes} | arguments))
