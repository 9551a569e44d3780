"""Focal loss: confident predictions count less."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.pixel_arguments import FocalArguments
from segtrain.losses.pixel_pass import Pixels


class Focal(PixelLoss):
    __doc__ = FocalArguments.__doc__

    def __init__(
        self,
        gamma: float = FocalArguments.gamma,
        alpha: float | Sequence[float] | None = None,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(FocalArguments, gamma, alpha)
        super().__init__(lb_ignore)
        self.gamma, self.check_classes = checked.gamma, checked.check_classes
        weight = checked.alpha
        if isinstance(weight, float):
            weight = (1 - weight, weight)
        self.alpha = ClassWeights(weight, "alpha")

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        self.check_classes(pixels.num_classes)
        cost = pixels.nll
        if self.gamma:
            # near p = 1 a power under 1 has no finite slope; there the cost is 0
            wrong = -torch.expm1(-pixels.nll)
            certain = wrong <= torch.finfo(wrong.dtype).tiny  # false for NaN, which must show
            cost = wrong.masked_fill(certain, 1) ** self.gamma * pixels.nll
            cost = cost.masked_fill(certain, 0)
        return self.alpha.times(cost, pixels), pixels.valid
