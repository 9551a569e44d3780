"""Pixel pass for two classes on the CPU: a softplus of the difference of their logits."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses.kernels.first_order import first_order
from segtrain.losses.kernels.maps import KEY, exp_, keep_bits, log1p, zero_ignored_


def two_class_pixels(
    logits: Tensor,
    ids: Tensor,
    valid: Tensor,
    upsample: int,
    align_corners: bool,
    powers: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Return nll (N,H,W) and mass (len(powers),N,2) of logits (N,2,h,w), as plain_pixels does.

    The margin x_1 - x_0 is all that softmax of two classes reads: one plane to upsample, to save
    and to compute with; whole maps, as several threads share those well.
    """
    margin = _Margin.apply(logits)
    if upsample > 1:
        margin = F.interpolate(
            margin, scale_factor=upsample, mode="bilinear", align_corners=align_corners
        )
    return _TwoClass.apply(margin.squeeze(1), ids, valid, powers)


class _Margin(torch.autograd.Function):
    """x_1 - x_0 (N,1,h,w) of logits (N,2,h,w), in float32 at least."""

    @staticmethod
    def forward(ctx, logits):
        ctx.like = torch.empty_like(logits, device="meta")  # dtype and layout
        x0, x1 = logits.to(torch.promote_types(logits.dtype, torch.float32)).unbind(1)
        margin = x1 - x0
        if not margin.sum().isfinite():  # an infinite logit makes the softmax NaN, -infinity a 0
            margin.masked_fill_(torch.maximum(x0, x1).isposinf(), math.nan)
        return margin.unsqueeze(1)

    @staticmethod
    @first_order
    def backward(ctx, gradient):
        both = torch.empty_like(ctx.like, device=gradient.device)
        both[:, 1:] = gradient
        torch.neg(both[:, 1:], out=both[:, :1])
        return both


class _TwoClass(torch.autograd.Function):
    """nll (N,H,W) and mass (len(powers),N,2) of the margin x_1 - x_0 (N,H,W)."""

    @staticmethod
    def forward(ctx, margin, ids, valid, powers):
        keep = keep_bits(valid, margin.dtype)
        # x_other - x_true
        wrong = _negate_class_1_(zero_ignored_(margin.clone(), keep), ids)
        nll = log1p(exp_(wrong.abs().neg_())).add_(wrong.clamp(min=0))
        mass = nll.new_empty(len(powers), len(nll), 2)
        if powers:
            for c, p in enumerate(_probabilities(wrong, ids, keep)):
                for slot, k in enumerate(powers):
                    mass[slot, :, c] = (p if k == 1 else p**k).sum((1, 2))
        ctx.save_for_backward(wrong, ids, valid)
        ctx.powers = powers
        return zero_ignored_(nll, keep), mass

    @staticmethod
    @first_order
    def backward(ctx, nll_gradient, mass_gradient):
        wrong, ids, valid = ctx.saved_tensors
        keep = keep_bits(valid, wrong.dtype)
        gradient = _negate_class_1_(wrong.sigmoid().mul_(nll_gradient), ids)
        if ctx.powers:  # of sum_k g_k0 p_0 ** k + g_k1 p_1 ** k, where d p_1 = p_0 p_1 = -d p_0
            p0, p1 = _probabilities(wrong, ids, keep)
            slopes = [
                sum(
                    k * each.view(-1, 1, 1) * (1 if k == 1 else p ** (k - 1))
                    for k, each in zip(ctx.powers, mass_gradient[..., c], strict=True)
                )
                for c, p in enumerate((p0, p1))
            ]
            gradient += (slopes[1] - slopes[0]) * p0.mul_(p1)
        return zero_ignored_(gradient, keep), None, None, None


def _negate_class_1_(values: Tensor, ids: Tensor) -> Tensor:
    """Change in place the sign bit where the true class is 1; `ids` are 0 and 1."""
    key = KEY[values.dtype]
    values.view(key).bitwise_xor_(ids.to(key) << (torch.iinfo(key).bits - 1))
    return values


def _probabilities(wrong: Tensor, ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return p_0 and p_1 (N,H,W), 0 at ignored pixels; `wrong` is x_other - x_true."""
    margin = _negate_class_1_(wrong.clone(), ids)
    return zero_ignored_((-margin).sigmoid_(), keep), zero_ignored_(margin.sigmoid_(), keep)
