"""Focal loss: pixels count less the surer the network is of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segtrain.losses.arguments import number
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.pixels import Pixels


class Focal(PixelLoss):
    """Cross entropy that counts less the surer a pixel is of its class; a mean over valid pixels.

    gamma: how fast it falls; 0 is ce.
    alpha: with two classes the weight of class 1, class 0 having 1 - alpha; or one a class.
    """

    formula = "-alpha_true (1 - p_true)^gamma log p_true"
    source = "Lin et al. 2017, arXiv:1708.02002, over softmax"

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore)
        self.gamma = number("gamma", gamma, 0)
        if type(alpha) in (int, float):
            share = number("alpha", alpha, 0, 1)
            alpha = [1 - share, share]
        self.alpha = ClassWeights(alpha, "alpha")

    def check(self, num_classes: int) -> None:
        self.alpha.check(num_classes)

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost = pixels.nll
        if self.gamma:
            # near p = 1 a power under 1 has no finite slope; there the cost is 0
            wrong = -torch.expm1(-pixels.nll)
            sure = wrong <= torch.finfo(wrong.dtype).tiny  # false for NaN, which is to be seen
            cost = wrong.masked_fill(sure, 1) ** self.gamma * pixels.nll
            cost = cost.masked_fill(sure, 0)
        return self.alpha.times(cost, pixels), pixels.valid
