"""Pixel pass for two classes on the CPU: a softplus of the difference of their logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segtrain.losses.kernels.bilinear import BLOCK, Upsampling, upsampling_between
from segtrain.losses.kernels.first_order import first_order
from segtrain.losses.kernels.maps import KEY, exp_, keep_bits, log1p, zero_ignored_
from segtrain.losses.kernels.threads import Place, list_places, map_on_threads

TILE = 1 << 18  # pixels: smaller tiles' operators end before another thread has woken


class TwoClassPixels(torch.autograd.Function):
    """Compute nll (N,H,W) and mass (len(powers),N,2) of logits (N,2,h,w), as TiledPixels does.

    The margin x_1 - x_0 is all that softmax of two classes reads: one plane to upsample, to save
    and to compute with. Saved with the sign that makes it x_other - x_true.
    """

    @staticmethod
    def forward(ctx, logits, ids, valid, upsample, align_corners, powers):
        dtype = torch.promote_types(logits.dtype, torch.float32)
        places, upsampling = lay_out(logits, valid, upsample, align_corners)
        low = None if upsampling is None else read_margin(logits, dtype)
        nll, wrong = (torch.empty(valid.shape, dtype=dtype) for _ in range(2))

        def compute(place: Place) -> list[Tensor]:
            keep, flip = keep_bits(valid[place], dtype), sign_bits(ids[place], dtype)
            errors, (n, rows) = wrong[place], place
            if upsampling is None:
                errors.copy_(read_margin(logits[n : n + 1, :, rows], dtype)[0])
            else:
                upsampling.upsample(low[n].unsqueeze(1), rows, errors.unsqueeze(1))
            flip_(zero_ignored_(errors, keep), flip)
            if not errors.sum().isfinite():  # NaN as on other paths where the true logit is -inf
                errors.masked_fill_(errors.isposinf(), math.nan)
            loss = log1p(exp_(errors.abs().neg_())).add_(errors.clamp(min=0))
            torch.bitwise_and(loss.view(keep.dtype), keep, out=nll[place].view(keep.dtype))
            if not powers:
                return []
            both = torch.stack(probabilities(errors, flip, keep))
            return [(both if k == 1 else both**k).sum(2).sum(1) for k in powers]

        mass = nll.new_zeros(len(powers), len(nll), 2)
        for (n, _), sums in zip(places, map_on_threads(compute, places), strict=True):
            for slot, each in enumerate(sums):
                mass[slot, n] += each
        ctx.save_for_backward(wrong, ids, valid)
        ctx.like = torch.empty_like(logits, device="meta")  # dtype and layout
        ctx.tiling, ctx.powers = (upsample, align_corners), powers
        return nll, mass

    @staticmethod
    @first_order
    def backward(ctx, nll_gradient, mass_gradient):
        wrong, ids, valid = ctx.saved_tensors
        dtype, gradient = wrong.dtype, torch.empty_like(ctx.like, device=wrong.device)
        places, upsampling = lay_out(gradient, valid, *ctx.tiling)
        low = None if upsampling is None else wrong.new_zeros(gradient[:, 0].shape)

        def compute(place: Place) -> Tensor | None:
            keep, flip = keep_bits(valid[place], dtype), sign_bits(ids[place], dtype)
            (n, rows), slope = place, wrong[place].sigmoid().mul_(nll_gradient[place])
            flip_(slope, flip)
            if ctx.powers:  # of sum_k g_k0 p_0 ** k + g_k1 p_1 ** k, where d p_1 = p_0 p_1 = -d p_0
                probs = probabilities(wrong[place], flip, keep)
                slope_0, slope_1 = (
                    sum(
                        k * each * (1 if k == 1 else p ** (k - 1))
                        for k, each in zip(ctx.powers, mass_gradient[:, n, c], strict=True)
                    )
                    for c, p in enumerate(probs)
                )
                slope += (slope_1 - slope_0) * probs[0] * probs[1]
            zero_ignored_(slope, keep)
            if upsampling is not None:
                return upsampling.transpose(slope.unsqueeze(1), rows).squeeze(1)
            write_gradient(slope, gradient[n, :, rows])
            return None

        for (n, rows), part in zip(places, map_on_threads(compute, places), strict=True):
            if upsampling is not None:  # in their order: tiles share rows of cells
                low[n, upsampling.cells(rows)] += part
        if upsampling is not None:
            write_gradient(low, gradient.movedim(1, 0))
        return gradient, None, None, None, None, None


def lay_out(
    logits: Tensor, valid: Tensor, upsample: int, align_corners: bool
) -> tuple[list[Place], Upsampling | None]:
    """Return the tiles, and what upsamples one."""
    _, height, width = valid.shape
    rows = max(1, min(height, TILE // max(1, width)))
    if upsample == 1:
        return list_places(valid, rows), None
    rows, dtype = min(rows, 2 * BLOCK), torch.promote_types(logits.dtype, torch.float32)
    cells, pixels = logits.shape[2:], valid.shape[1:]
    upsampling = upsampling_between(cells, pixels, align_corners, dtype, rows)
    return list_places(valid, rows), upsampling


def read_margin(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x_1 - x_0 (N,h,w); NaN where a logit is infinite, as softmax, but 0 for -infinity."""
    x0, x1 = logits.to(dtype).unbind(1)
    margin = x1 - x0
    if not margin.sum().isfinite():
        margin.masked_fill_(torch.maximum(x0, x1).isposinf(), math.nan)
    return margin


def write_gradient(slope: Tensor, gradient: Tensor) -> None:
    """Write the gradient by both logits, along dim 0, from that by the margin."""
    gradient[1].copy_(slope)
    torch.neg(gradient[1], out=gradient[0])


def sign_bits(ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the integers that `flip_` takes: the sign bit where the true class is 1."""
    key = KEY[dtype]
    return ids.to(key).bitwise_left_shift_(torch.iinfo(key).bits - 1)


def flip_(values: Tensor, flip: Tensor) -> Tensor:
    """Change the sign in place: from x_1 - x_0 to x_other - x_true, and back."""
    values.view(flip.dtype).bitwise_xor_(flip)
    return values


def probabilities(wrong: Tensor, flip: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return p_0 and p_1, 0 at ignored pixels; `wrong` is x_other - x_true."""
    margin = flip_(wrong.clone(), flip)
    return zero_ignored_((-margin).sigmoid_(), keep), zero_ignored_(margin.sigmoid_(), keep)
