"""Term and PixelLoss: the contract that every family keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segtrain.losses.pixel_pass import PixelReader, Pixels


class TermResult(NamedTuple):
    """One evaluation of a term, from which a report is made where one is asked for."""

    value: Tensor  # 0-d, differentiable
    observe: Callable[[], dict[str, Tensor]]  # how it weighted the batch, by name


class Term(nn.Module):
    """One loss by itself: called with logits (N,C,H,W) and target (N,H,W), it returns a 0-d value.

    A family computes its value from the Pixels of one pixel pass, which the terms of a sum share:
    it declares the powers of softmax whose sums over pixels it needs, and whether it reads the
    logits themselves at full resolution. Without a valid pixel the value and all gradients are 0.
    """

    def __init__(self, lb_ignore: int, powers: tuple[int, ...] = (), reads_logits: bool = False):
        super().__init__()
        self.lb_ignore, self.powers, self.reads_logits = lb_ignore, powers, reads_logits
        self.reader = PixelReader(lb_ignore, powers, reads_logits)

    def value(self, pixels: Pixels) -> Tensor:
        """Return the loss, 0-d and differentiable."""
        raise NotImplementedError

    def evaluate(self, pixels: Pixels) -> TermResult:
        """Return the loss, and what a report needs of the way to it."""
        return TermResult(self.value(pixels), self.observe)

    def observe(self) -> dict[str, Tensor]:
        """Return by name what the term's state tells of its weights: 0-d, or one for each bin."""
        return {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return self.evaluate(self.reader.read(logits, target)).value


class PixelLoss(Term):
    """Mean over pixels, each with a cost in the numerator and a weight in the denominator."""

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Return cost and weight (N,H,W), 0 at ignored pixels.

        The weight has no gradient and may be bool.
        """
        raise NotImplementedError

    def value(self, pixels: Pixels) -> Tensor:
        cost, weight = self.costs(pixels)
        return weighted_mean(cost, weight, pixels)


def weighted_mean(cost: Tensor, weight: Tensor, pixels: Pixels) -> Tensor:
    """Return sum(cost) / sum(weight) over all devices; 0 where nothing has a weight."""
    total = pixels.total(weight.sum(dtype=cost.dtype))
    return pixels.total(cost.sum()) / total.where(total > 0, 1)
