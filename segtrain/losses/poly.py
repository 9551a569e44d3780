"""PolyLoss: cross entropy with another weight of its first polynomial term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.pixel_arguments import PolyArguments
from segtrain.losses.pixel_pass import Pixels


class Poly(PixelLoss):
    __doc__ = PolyArguments.__doc__

    def __init__(
        self,
        epsilon: float = PolyArguments.epsilon,
        weight: Sequence[float] | None = None,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(PolyArguments, epsilon, weight)
        super().__init__(lb_ignore)
        self.epsilon, self.weights = checked.epsilon, ClassWeights(checked.weight)

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost = pixels.nll - self.epsilon * torch.expm1(-pixels.nll)
        return self.weights.times(cost, pixels), self.weights.times(pixels.valid, pixels)
