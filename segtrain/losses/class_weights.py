"""Class weights: given as numbers, or balanced by how often each class occurs."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError
from segtrain.losses.arguments import numbers
from segtrain.losses.pixels import Pixels

BALANCING = ("median-frequency", "inverse-sqrt")


class ClassWeights(nn.Module):
    """A weight a class, or none; of an expression it may be given anything, which is checked."""

    weight: Tensor | None

    def __init__(self, weight: Any, name: str = "weight"):
        super().__init__()
        self.name = name
        if isinstance(weight, str):
            raise UsageError(
                f"loss: {name} is a list of numbers, one a class, got {weight!r}; segtrain fit "
                f"takes {' and '.join(BALANCING)}, too"
            )
        given = None if weight is None else torch.tensor(numbers(name, weight, 0))
        if given is not None and not given.any():
            raise UsageError(f"loss: {name} is 0 for every class; one at least is above 0")
        self.register_buffer("weight", given, persistent=False)

    def vector(self, pixels: Pixels) -> Tensor:
        """(C,), on the pixels' device and in their precision."""
        if self.weight is None:
            return pixels.nll.new_ones(pixels.num_classes)
        self.check(pixels.num_classes)
        return self.weight.to(pixels.nll)

    def check(self, num_classes: int) -> None:
        if self.weight is not None and len(self.weight) != num_classes:
            raise UsageError(
                f"loss: {self.name} has {len(self.weight)} numbers for {num_classes} classes; "
                "give one each"
            )

    def times(self, values: Tensor, pixels: Pixels) -> Tensor:
        """A map (N,H,W) times the weight of each pixel's class."""
        return values if self.weight is None else self.vector(pixels)[pixels.ids] * values


def balancing_weights(name: str, pixels: list[int], where_present: list[int]) -> list[float]:
    """A weight a class, from its pixels and those of the images that have it; 0 if it has none.

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
