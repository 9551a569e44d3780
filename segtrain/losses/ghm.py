"""Gradient harmonizing: pixels with common gradient sizes count less."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import PixelLoss
from segtrain.losses.pixel_arguments import GHMArguments
from segtrain.losses.pixel_pass import Pixels


class GHM(PixelLoss):
    __doc__ = GHMArguments.__doc__

    counts: Tensor

    def __init__(
        self,
        bins: int = GHMArguments.bins,
        momentum: float = GHMArguments.momentum,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(GHMArguments, bins, momentum)
        super().__init__(lb_ignore)
        self.bins, self.momentum = checked.bins, checked.momentum
        self.register_buffer("counts", torch.zeros(self.bins))

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            weights = self.weights(pixels)
        return weights * pixels.nll, pixels.valid

    def weights(self, pixels: Pixels) -> Tensor:
        """Return (N,H,W), without gradient; in training the counts are updated."""
        gradient = -torch.expm1(-pixels.nll)
        bin_ids = (gradient * self.bins).long().clamp(0, self.bins - 1)
        ones = pixels.valid.to(pixels.nll.dtype)
        # as integers, whose sum over devices is exact
        per_image = pixels.sum_by(bin_ids, ones, self.bins).long()
        batch = pixels.total(per_image.sum(0))
        stored = self.counts.to(pixels.nll.dtype)
        if self.training:
            moved = torch.lerp(batch.to(stored), stored, self.momentum)
            moved = moved.where(stored.sum() > 0, batch)
            stored = moved.where(batch.sum() > 0, stored)
            self.counts.copy_(stored)
        counts = stored.where(stored > 0, batch)
        per_bin = counts.sum() / (counts * (batch > 0).sum()).clamp(min=1e-30)
        return per_bin.where(batch > 0, 0)[bin_ids].where(pixels.valid, 0)

    def observe(self) -> dict[str, Tensor]:
        return {"bin": self.counts.clone()}
