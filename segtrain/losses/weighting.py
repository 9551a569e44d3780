"""Losses that weight the map of pixel_nll: sum(w * nll), with w from the map alone."""

import math

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError
from segtrain.losses.reduce import global_sum


class CrossEntropy(nn.Module):
    """Mean of the pixels' negative log-likelihood over the valid ones; 0 where there is none."""

    def forward(self, nll: Tensor, valid: Tensor) -> Tensor:
        """nll (N,H,W) with 0 at ignored pixels, valid (N,H,W) bool -> 0-d."""
        return global_sum(nll.sum()) / global_sum(valid.sum()).clamp(min=1)


class OhemCE(nn.Module):
    """Online hard example mining: the mean over hard pixels only.

    Hard pixels are those whose loss exceeds -log(thresh), so whose true class has a probability
    under `thresh`. Where they are fewer than n_min = max(1, n_valid // n_min_factor), the n_min
    largest count instead. After Shrivastava et al. 2016 (arXiv:1604.03540), in the form that
    BiSeNet's code made common; n_min there may be 0, which gives NaN.
    """

    def __init__(self, thresh: float = 0.7, n_min_factor: int = 16):
        super().__init__()
        if not 0 < thresh <= 1:
            raise UsageError(f"loss: thresh is a probability in (0, 1], got {thresh}")
        if n_min_factor < 1 or n_min_factor != int(n_min_factor):
            raise UsageError(f"loss: n_min_factor is a whole number from 1, got {n_min_factor}")
        self.floor = -math.log(thresh)
        self.n_min_factor = int(n_min_factor)

    def forward(self, nll: Tensor, valid: Tensor) -> Tensor:
        """nll (N,H,W) with 0 at ignored pixels, valid (N,H,W) bool -> 0-d."""
        with torch.no_grad():
            weights, kept = self.weights(nll.detach(), valid)
        return global_sum((weights * nll).sum()) / kept.clamp(min=1)

    def weights(self, nll: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """How far each pixel is kept (N,H,W), 0..1, and the number kept over all devices (0-d).

        Pixels tied at the n_min-th value share what is left of n_min evenly, so that neither
        value nor gradient depends on an order.
        """
        n_valid = global_sum(valid.sum())
        n_min = (n_valid // self.n_min_factor).clamp(min=1)
        n_hard = global_sum(((nll > self.floor) & valid).sum())
        too_few = n_hard < n_min
        cut = torch.where(too_few, kth_largest(nll, valid, n_min), self.floor)
        above = (nll > cut) & valid
        tied = (nll == cut) & valid & too_few
        left = n_min - global_sum(above.sum())
        share = left / global_sum(tied.sum()).clamp(min=1)
        kept = torch.where(too_few, n_min, n_hard).minimum(n_valid)
        return above + tied * share.to(nll.dtype), kept


def kth_largest(values: Tensor, valid: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of the valid values over all devices, exactly, without a sort or a sync.

    Values are >= 0, so the bits of float32 order as integers: three rounds of a histogram, on 11,
    11 and 10 bits, each narrow the k-th value down to one digit. Histograms add over devices.
    `k` is a 0-d integer tensor; with no valid value the result is 0.
    float64, which only tests use, has no 32-bit key and is sorted (one process).
    """
    if values.dtype == torch.float64:
        descending = values.where(valid, 0).flatten().sort(descending=True).values
        return descending.gather(0, k.reshape(1) - 1).squeeze(0)
    # abs: a loss of -0.0 would have the sign bit set
    bits = values.abs().flatten().view(torch.int32)
    candidate = valid.flatten()
    prefix = torch.zeros(1, dtype=torch.int64, device=values.device)
    for shift, width in ((21, 11), (10, 11), (0, 10)):
        digit = (bits >> shift) & ((1 << width) - 1)
        counts = torch.zeros(1 << width, dtype=torch.int64, device=values.device)
        counts = global_sum(counts.scatter_add_(0, digit.long(), candidate.long()))
        at_least = counts.flip(0).cumsum(0).flip(0)  # how many have this digit or a larger one
        chosen = ((at_least >= k).sum() - 1).clamp(min=0).reshape(1)
        k = k - (at_least - counts).gather(0, chosen)  # gather: an index by tensor would sync
        candidate = candidate & (digit == chosen)
        prefix = (prefix << width) | chosen
    return prefix.to(torch.int32).view(torch.float32).squeeze(0)
