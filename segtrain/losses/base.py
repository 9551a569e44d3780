"""Term and PixelLoss: the contract that every family keeps."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from segtrain.losses.pixels import Pixels, read_pixels


class Term(nn.Module):
    """A loss by itself: called with logits (N,C,H,W) and target (N,H,W), it returns a 0-d value.

    Families say what they read of a batch and compute `value` from it; several terms of a sum
    share one reading. Without a valid pixel the value and all gradients are 0.
    """

    formula: ClassVar[str]
    source: ClassVar[str]
    powers: tuple[int, ...] = ()  # of softmax, whose sums over pixels it reads
    reads_logits: bool = False  # itself, at full resolution: such a term can't be fused
    one_device: str | None = None  # why it can't be computed over several, if so

    def __init__(self, lb_ignore: int = 255):
        super().__init__()
        self.lb_ignore = lb_ignore

    def check(self, num_classes: int) -> None:
        """Raises UsageError where an argument doesn't fit that many classes."""

    def value(self, pixels: Pixels) -> Tensor:
        raise NotImplementedError

    def observe(self, pixels: Pixels) -> dict[str, Tensor]:
        """What is worth seeing of how it weights the batch, by name: 0-d, or one a class or bin."""
        return {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            pixels = read_pixels(
                logits,
                target,
                self.lb_ignore,
                powers=self.powers,
                keep_logits=self.reads_logits,
            )
            return self.value(pixels)


class PixelLoss(Term):
    """A mean over pixels: `costs` says what each adds to its numerator and its denominator."""

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Cost and weight (N,H,W), 0 at ignored pixels; the weight has no gradient, may be bool."""
        raise NotImplementedError

    def value(self, pixels: Pixels) -> Tensor:
        cost, weight = self.costs(pixels)
        return mean(cost, weight, pixels)


def mean(cost: Tensor, weight: Tensor, pixels: Pixels) -> Tensor:
    """sum(cost) / sum(weight) over all devices; 0 where nothing has a weight."""
    total = pixels.total(weight.sum(dtype=cost.dtype))
    return pixels.total(cost.sum()) / total.where(total > 0, 1)
