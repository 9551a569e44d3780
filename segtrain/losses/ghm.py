"""Gradient harmonising: pixels count less the more others have as large a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.losses.arguments import number, whole_number
from segtrain.losses.base import PixelLoss
from segtrain.losses.pixels import Pixels, class_sums


class GHM(PixelLoss):
    """Gradient harmonising: pixels count less the more others have as large a gradient.

    g = 1 - p_true is the size of a pixel's gradient. Its bin's count is a moving one: it starts at
    the first batch's and changes with each batch in training only. One bin is ce.

    bins: equal parts of g's range 0..1.
    momentum: what a batch leaves of the counts before it, in [0, 1).
    """

    formula = "sum(w m) / n_valid, w = total count / (count in g's bin * non-empty bins)"
    source = "Li et al. 2019, arXiv:1811.05181"
    counts: Tensor

    def __init__(self, bins: int = 10, momentum: float = 0.75, lb_ignore: int = 255):
        super().__init__(lb_ignore)
        self.bins = whole_number("bins", bins, 1, 10_000)
        self.momentum = number("momentum", momentum, 0, 1, open_high=True)
        self.register_buffer("counts", torch.zeros(self.bins))

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            weights = self.weights(pixels)
        return weights * pixels.nll, pixels.valid

    def weights(self, pixels: Pixels) -> Tensor:
        """(N,H,W), without gradient; in training the counts move on."""
        gradient = -torch.expm1(-pixels.nll)
        places = (gradient * self.bins).long().clamp(0, self.bins - 1)
        ones = pixels.valid.to(pixels.nll.dtype)
        per_image = class_sums(ones, places, pixels.valid, self.bins).long()
        batch = pixels.total(per_image.sum(0))
        stored = self.counts.to(pixels.nll.dtype)
        if self.training:
            moved = torch.lerp(batch.to(stored), stored, self.momentum)
            moved = moved.where(stored.sum() > 0, batch)
            stored = moved.where(batch.sum() > 0, stored)
            self.counts.copy_(stored)
        counts = stored.where(stored > 0, batch)
        per_bin = counts.sum() / (counts * (batch > 0).sum()).clamp(min=1e-30)
        return per_bin.where(batch > 0, 0)[places].where(pixels.valid, 0)

    def observe(self, pixels: Pixels) -> dict[str, Tensor]:
        return {"bin": self.counts.clone()}
