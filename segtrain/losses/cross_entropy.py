"""Cross entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segtrain.errors import UsageError
from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.pixel_arguments import CrossEntropyArguments
from segtrain.losses.pixel_pass import Pixels


class CrossEntropy(PixelLoss):
    __doc__ = CrossEntropyArguments.__doc__

    def __init__(
        self,
        weight: Sequence[float] | None = None,
        label_smoothing: float = CrossEntropyArguments.label_smoothing,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(CrossEntropyArguments, weight, label_smoothing)
        super().__init__(lb_ignore, reads_logits=checked.label_smoothing > 0)
        self.weights = ClassWeights(checked.weight)
        self.label_smoothing = checked.label_smoothing

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost = self.weights.times(pixels.nll, pixels)
        if self.label_smoothing:
            # as in F.cross_entropy, each class's part of the spread truth has that class's weight
            share = self.weights.vector(pixels) / pixels.num_classes
            spread = (share.view(-1, 1, 1) * -pixels.full_logits.log_softmax(1)).sum(1)
            cost = torch.lerp(cost, spread.where(pixels.valid, 0), self.label_smoothing)
        return cost, self.weights.times(pixels.valid, pixels)


def inner_loss(inner: PixelLoss | None, lb_ignore: int) -> PixelLoss:
    """Return the loss that another goes around: `inner`, or cross entropy. Raises UsageError."""
    if inner is None:
        return CrossEntropy(lb_ignore=lb_ignore)
    if not isinstance(inner, PixelLoss):
        raise UsageError(
            "loss: inner is a loss of single pixels such as CrossEntropy, Focal or GHM, got "
            f"{type(inner).__name__}"
        )
    return inner
