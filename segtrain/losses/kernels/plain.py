"""Pixel pass in plain torch: the reference, and the path under torch.compile."""

import math

import torch
from torch import Tensor


def double_device(device: torch.device) -> torch.device:
    """Return where values of a device are computed in float64: the host for MPS, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def full_precision(logits: Tensor) -> Tensor:
    """Return logits in float32, or float64 as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def masked_logits(logits: Tensor, valid: Tensor, wrong: Tensor | None = None) -> Tensor:
    """Return logits (N,C,H,W) in float32 at least, with 0 where valid (N,H,W) is false.

    The 0 is selected, not multiplied in: a product with 0 would pass on a NaN or an infinity. Where
    `wrong` (N,H,W) is true, at labels that are no class, they are NaN.
    """
    logits = full_precision(logits)
    if wrong is None:
        return logits.where(valid.unsqueeze(1), 0)
    instead = logits.new_zeros(valid.shape).masked_fill(wrong, math.nan)
    return logits.where((valid & ~wrong).unsqueeze(1), instead.unsqueeze(1))


def plain_pixels(
    logits: Tensor, ids: Tensor, valid: Tensor, powers: tuple[int, ...]
) -> tuple[Tensor, list[Tensor]]:
    """Return the NLL map (N,H,W) and, for each power k, sums of p ** k (N,C).

    Logits (N,C,H,W) are masked already, ids (N,H,W) are 0 at ignored pixels. With
    d = x - x_true and M = max(0, max d): nll = M + log1p(sum over others of exp(d - M) +
    expm1(-M)), which keeps the digits of easy pixels, where log-sum-exp minus x_true loses them.
    """
    index = ids.long().unsqueeze(1)
    margin = logits - logits.gather(1, index)
    top = margin.detach().amax(1, keepdim=True)  # at least 0, the true class's own margin
    others = (margin - top).exp().scatter(1, index, 0).sum(1, keepdim=True)
    nll = top + torch.log1p(others + torch.expm1(-top))
    mass = []
    if powers:
        probs = (margin - nll).exp().where(valid.unsqueeze(1), 0)
        mass = [(probs if k == 1 else probs**k).sum((2, 3)) for k in powers]
    return nll.squeeze(1).where(valid, 0), mass
