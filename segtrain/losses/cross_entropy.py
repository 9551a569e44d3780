"""Cross entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segtrain.losses.arguments import number
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.pixels import Pixels


class CrossEntropy(PixelLoss):
    """The mean over valid pixels; with class weights divided by the sum of the pixels' weights.

    weight: a number a class, or median-frequency or inverse-sqrt, from the training masks.
    label_smoothing: this share of the truth is spread evenly over all classes.
    """

    formula = "sum(w m) / sum(w), m = -log p_true"
    source = "as torch.nn.functional.cross_entropy"

    def __init__(
        self,
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore)
        self.weights = ClassWeights(weight)
        self.label_smoothing = number("label_smoothing", label_smoothing, 0, 1)
        self.reads_logits = self.label_smoothing > 0

    def check(self, num_classes: int) -> None:
        self.weights.check(num_classes)

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost = self.weights.times(pixels.nll, pixels)
        if self.label_smoothing:
            assert pixels.logits is not None  # reads_logits
            share = self.weights.vector(pixels) / pixels.num_classes
            spread = (share.view(-1, 1, 1) * -pixels.logits.log_softmax(1)).sum(1)
            cost = torch.lerp(cost, spread.where(pixels.valid, 0), self.label_smoothing)
        return cost, self.weights.times(pixels.valid, pixels)
