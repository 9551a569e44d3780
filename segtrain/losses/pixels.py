"""One reading of the logits for all terms: the map of negative log-likelihoods, and class sums."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.errors import UsageError, first_line
from segtrain.losses.kernels.plain import full_precision, masked_logits, plain_pixels
from segtrain.losses.kernels.tiled import TiledPixels, seen_cells
from segtrain.losses.reduce import global_sum

logger = logging.getLogger(__name__)
# how often each path ran: (plain, tiles or triton; the upsampling that was fused into it)
PATHS_TAKEN: Counter[tuple[str, int]] = Counter()


@dataclass(frozen=True)
class Pixels:
    """A batch as the losses see it; maps and their gradients are 0 at ignored pixels."""

    nll: Tensor  # (N,H,W): -log softmax(logits)[true class], differentiable
    target: Tensor  # (N,H,W) int64 class ids, anything at ignored pixels
    valid: Tensor  # (N,H,W) bool: not ignored
    num_classes: int
    mass: dict[int, Tensor]  # power k: (N,C), the sum of softmax(logits) ** k over valid pixels
    logits: Tensor | None  # (N,C,H,W) with 0 at ignored pixels, where a term reads them
    sync: bool = True

    @property
    def ids(self) -> Tensor:
        """(N,H,W) int64 class ids, 0 at ignored pixels."""
        return self.target.masked_fill(~self.valid, 0)

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all devices, unless the loss is each device's own."""
        return global_sum(value) if self.sync else value

    def by_class(self, values: Tensor) -> Tensor:
        """(N,C): the sum of a map (N,H,W) over each class's valid pixels, differentiable."""
        return class_sums(values, self.ids, self.valid, self.num_classes)


def read_pixels(
    logits: Tensor,
    target: Tensor,
    lb_ignore: int = 255,
    *,
    upsample: int = 1,
    align_corners: bool = False,
    powers: tuple[int, ...] = (),
    keep_logits: bool = False,
    sync: bool = True,
) -> Pixels:
    """Reads logits (N,C,h,w) and target (N,H,W) of class ids or lb_ignore, H = h * upsample.

    With `upsample` the logits are upsampled (bilinear) on the way, without ever being written at
    full resolution; only the plain path, and losses that ask for the logits themselves
    (`keep_logits`), do write them. `powers` are those of softmax whose sums are wanted.
    Computes in float32 at least, in float64 for float64. One channel z stands for two, [0, z].
    Raises UsageError for shapes that don't fit.
    """
    refuse_shapes(logits, target, upsample)
    if logits.shape[1] == 1:
        logits = F.pad(logits, (0, 0, 0, 0, 1, 0))
    valid = target != lb_ignore
    path = choose_path(logits.device, logits.dtype)[0]
    if upsample > 1 and (keep_logits or path != "triton"):  # kernels read for valid pixels only
        seen = seen_cells(valid, logits.shape[2], logits.shape[3], align_corners)
        if path != "tiles" or not seen.all():  # those are on the CPU: asking costs nothing
            logits = logits.where(seen, 0)
    if keep_logits:
        if upsample > 1:
            logits = upsampled(full_precision(logits), upsample, align_corners)
        logits, upsample = masked_logits(logits, valid), 1
    if not torch.compiler.is_compiling():
        PATHS_TAKEN[path, upsample] += 1
    if path == "triton":
        from segtrain.losses.kernels.triton_nll import TritonPixels

        nll, mass = TritonPixels.apply(logits, target, lb_ignore, upsample, align_corners, powers)
    elif path == "tiles":
        nll, mass = TiledPixels.apply(logits, target, valid, upsample, align_corners, powers)
    else:
        if upsample > 1:
            logits = upsampled(full_precision(logits), upsample, align_corners)
        full = logits if keep_logits else masked_logits(logits, valid)
        nll, mass = plain_pixels(full, target.masked_fill(~valid, 0), valid, powers)
    sums, kept = dict(zip(powers, mass, strict=True)), logits if keep_logits else None
    return Pixels(nll, target, valid, logits.shape[1], sums, kept, sync)


def refuse_shapes(logits: Tensor, target: Tensor, upsample: int) -> None:
    given = f"logits {tuple(logits.shape)}, target {tuple(target.shape)}, upsample {upsample}"
    if logits.ndim != 4 or target.ndim != 3 or target.dtype != torch.int64:
        raise UsageError(
            f"loss: expected logits (N,C,h,w) and an int64 target (N,H,W), got {given}, "
            f"{target.dtype}"
        )
    images, _, height, width = logits.shape
    if target.shape != (images, height * upsample, width * upsample):
        raise UsageError(f"loss: sizes don't fit: {given}; target is upsample times the logits")


def pixel_nll(
    logits: Tensor,
    target: Tensor,
    lb_ignore: int = 255,
    upsample: int = 1,
    align_corners: bool = False,
) -> Tensor:
    """Negative log-likelihood of each pixel's true class: (N,H,W), differentiable.

    -log softmax(logits)[true class] in float32 (float64 stays), of logits (N,C,h,w) with C >= 2
    that are upsampled on the way, and targets (N,H,W) int64 in 0..C-1 or `lb_ignore`, where
    H = h * upsample. Ignored pixels have 0 and a gradient of exactly 0, whatever their logits hold.
    """
    return read_pixels(
        logits, target, lb_ignore, upsample=upsample, align_corners=align_corners
    ).nll


def upsampled(logits: Tensor, factor: int, align_corners: bool) -> Tensor:
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=align_corners)


def choose_path(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """How the pixels are read (plain, tiles or triton), and why."""
    if os.environ.get("SEGTRAIN_KERNELS") == "0":
        return "plain", "SEGTRAIN_KERNELS=0"
    if torch.compiler.is_compiling():
        return "plain", "torch.compile makes its own kernels"
    if device.type == "cpu":
        return "tiles", "logits are on the CPU"
    if device.type != "cuda":
        return "plain", f"no kernels for {device.type}"
    if dtype == torch.float64:
        return "plain", "logits are float64"
    reason = _triton_fails(device.index or 0)
    return ("plain", reason) if reason else ("triton", "logits are on a GPU")


def class_sums(values: Tensor, ids: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """(N,C): sums of a map (N,H,W) over the valid pixels of each class, differentiable."""
    if choose_path(values.device, values.dtype)[0] == "triton":
        return _TritonClassSums.apply(values, ids, valid, num_classes)
    if values.is_cuda:  # scatter_add of floats has no fixed order there
        classes = torch.arange(num_classes, device=values.device).view(1, -1, 1, 1)
        return values.where(valid, 0).unsqueeze(1).where(ids.unsqueeze(1) == classes, 0).sum((2, 3))
    # row by row: short sums keep their digits
    rows = values.new_zeros(*values.shape[:2], num_classes)
    return rows.scatter_add(2, ids, values.where(valid, 0)).sum(1)


class _TritonClassSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, ids, valid, num_classes):
        from segtrain.losses.kernels.triton_reductions import class_sums

        ctx.save_for_backward(ids, valid)
        return class_sums(values, ids.where(valid, -1), num_classes, -1)

    @staticmethod
    def backward(ctx, gradient):
        ids, valid = ctx.saved_tensors
        per_pixel = gradient.gather(1, ids.flatten(1)).view_as(ids)
        return per_pixel.where(valid, 0), None, None, None


@lru_cache
def _triton_fails(device: int) -> str | None:
    """None where the kernels build and run on that GPU, else the reason in one line; said once."""
    try:
        from segtrain.losses.kernels import triton_nll, triton_reductions
    except ImportError as error:
        reason = f"no Triton ({first_line(error)})"
    else:
        try:
            triton_nll.probe(torch.device("cuda", device))
            triton_reductions.probe(torch.device("cuda", device))
            return None
        except torch.OutOfMemoryError:
            raise
        except triton_nll.BUILD_ERRORS as error:
            reason = f"Triton cannot build kernels ({first_line(error)})"
    logger.warning("losses take the plain path: %s", reason)
    return reason
