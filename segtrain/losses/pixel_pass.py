"""Pixel pass: one reading of the logits for all terms, which gives NLL map and class sums."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.errors import UsageError
from segtrain.losses.kernels.bilinear import seen_cells
from segtrain.losses.kernels.paths import PATHS_TAKEN, KernelPath, choose_path
from segtrain.losses.kernels.plain import full_precision, masked_logits, plain_pixels
from segtrain.losses.kernels.threads import Place, list_places, map_on_threads
from segtrain.losses.kernels.tiled import TiledPixels
from segtrain.losses.kernels.two_class import TwoClassPixels
from segtrain.losses.reduce import global_sum

CHUNK = 1 << 18  # labels that a thread checks at once


@dataclass(frozen=True)
class Pixels:
    """Result of a pixel pass; maps and their gradients are 0 at ignored pixels."""

    nll: Tensor  # (N,H,W): -log softmax(logits)[true class], differentiable
    target: Tensor  # (N,H,W) integer class ids, 0 at ignored pixels; for Triton labels as given
    valid: Tensor  # (N,H,W) bool: not ignored
    num_classes: int
    path: str  # plain, tiles or triton, for sums over pixels too
    mass: dict[int, Tensor] = field(default_factory=dict)  # power k: (N,C), sum of p ** k
    logits: Tensor | None = None  # (N,C,H,W) with 0 at ignored pixels, where a term reads them
    sync: bool = True
    lb_ignore: int = 255
    _ids: list[Tensor] = field(default_factory=list, init=False, repr=False)  # made when asked for

    @property
    def ids(self) -> Tensor:
        """(N,H,W) int64 class ids, 0 at ignored pixels."""
        if not self._ids:  # no cached_property: torch.compile can't enter its lock
            ids = self.target.long()
            if self.path == "triton":  # in range, as an index out of it would end a CUDA context
                ids = ids.where(self.valid, 0).clamp(0, self.num_classes - 1)
            self._ids.append(ids)
        return self._ids[0]

    @property
    def full_logits(self) -> Tensor:
        """(N,C,H,W) logits at full resolution, 0 at ignored pixels; for terms that read them."""
        if self.logits is None:
            raise RuntimeError("the pixel pass kept no logits: set reads_logits on the term")
        return self.logits

    def images(self) -> list[Pixels]:
        """Return NLL and labels of each image by itself, whose sums are its own."""
        maps = zip(self.nll.split(1), self.target.split(1), self.valid.split(1), strict=True)
        return [
            replace(self, nll=nll, target=target, valid=valid, mass={}, logits=None, sync=False)
            for nll, target, valid in maps
        ]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over all devices, or itself for a loss of each device's own."""
        return global_sum(value) if self.sync else value

    def by_class(self, values: Tensor) -> Tensor:
        """Return (N,C): the sum of a map (N,H,W) over each class's valid pixels, differentiable."""
        if self.path == "triton":
            return _TritonClassSums.apply(values, self.target, self.lb_ignore, self.num_classes)
        return self.sum_by(self.ids, values, self.num_classes)

    def sum_by(self, ids: Tensor, values: Tensor, count: int) -> Tensor:
        """Return (N,count): the sum of a map (N,H,W) over the valid pixels of each id."""
        if self.path == "triton":
            return _TritonClassSums.apply(values, ids.where(self.valid, -1), -1, count)
        if values.device.type != "cpu":  # scatter_add of floats has no fixed order on a GPU
            each = torch.arange(count, device=values.device).view(1, -1, 1, 1)
            masked = values.where(self.valid, 0).unsqueeze(1)
            return masked.where(ids.unsqueeze(1) == each, 0).sum((2, 3))
        # row by row: short sums keep their digits
        rows = values.new_zeros(*values.shape[:2], count)
        return rows.scatter_add(2, ids, values.where(self.valid, 0)).sum(1)


class PixelReader:
    """Pixel passes of one loss; it chooses the path once for each device and precision.

    `powers` are those of softmax whose sums are wanted. With `keep_logits` the pass keeps logits at
    full resolution. Without `sync` each device has a loss of its own.
    """

    def __init__(
        self,
        lb_ignore: int = 255,
        powers: tuple[int, ...] = (),
        keep_logits: bool = False,
        sync: bool = True,
    ):
        self.lb_ignore, self.powers = lb_ignore, powers
        self.keep_logits, self.sync = keep_logits, sync
        self._paths: dict[tuple[torch.device, bool, bool], KernelPath] = {}

    def path(self, device: torch.device, dtype: torch.dtype, num_classes: int = 0) -> KernelPath:
        """Return the path for logits of that device, dtype and number of classes; the reason."""
        if torch.compiler.is_compiling():  # a constant there, unlike the entry of a dict
            return choose_path(device, dtype, num_classes)
        key = device, dtype == torch.float64, num_classes == 2  # what choose_path tells apart
        if key not in self._paths:
            self._paths[key] = choose_path(device, dtype, num_classes)
        return self._paths[key]

    def read(
        self, logits: Tensor, target: Tensor, upsample: int = 1, align_corners: bool = False
    ) -> Pixels:
        """Read logits (N,C,h,w) and target (N,H,W) of class ids or lb_ignore, H = h * upsample.

        With `upsample` the logits are upsampled (bilinear) on the way, and never written at full
        resolution; only the plain path, and losses that keep the logits, do write them.
        Computes in float32 at least, in float64 for float64. One channel z stands for two, [0, z].
        Raises UsageError for shapes that don't fit.
        """
        target = as_labels(target, self.lb_ignore)
        require_shapes(logits, target, upsample)
        if logits.shape[1] == 1:
            logits = F.pad(logits, (0, 0, 0, 0, 1, 0))
        num_classes, valid = logits.shape[1], target != self.lb_ignore
        path = self.path(logits.device, logits.dtype, num_classes).name
        given = target
        if path != "triton":  # its kernels look at lb_ignore and at wrong labels themselves
            target = class_ids(given, valid, num_classes, self.lb_ignore)
        if upsample > 1 and (self.keep_logits or path != "triton"):  # kernels skip ignored pixels
            # finite cells need no 0: the gradient that reaches them is one
            if not reads_freely(logits) or not logits.detach().sum().isfinite():
                seen = seen_cells(valid, logits.shape[2], logits.shape[3], align_corners)
                logits = logits.where(seen, 0)
        if not torch.compiler.is_compiling():
            PATHS_TAKEN[path, 1 if self.keep_logits else upsample] += 1
        if self.keep_logits or path == "plain":
            if upsample > 1:
                logits = upsample_logits(full_precision(logits), upsample, align_corners)
            wrong = None
            if not reads_freely(given):
                wrong = valid & (class_ids(given, valid, num_classes, self.lb_ignore) != given)
            logits, upsample = masked_logits(logits, valid, wrong), 1
        if path == "triton":
            from segtrain.losses.kernels.triton_nll import TritonPixels

            nll, mass = TritonPixels.apply(
                logits, target, self.lb_ignore, upsample, align_corners, self.powers
            )
        elif path == "tiles":
            nll, mass = TiledPixels.apply(
                logits, target, valid, upsample, align_corners, self.powers
            )
        elif path == "two-class":
            nll, mass = TwoClassPixels.apply(
                logits, target, valid, upsample, align_corners, self.powers
            )
        else:
            nll, mass = plain_pixels(logits, target, valid, self.powers)
        sums, kept = dict(zip(self.powers, mass, strict=True)), logits if self.keep_logits else None
        return Pixels(nll, target, valid, num_classes, path, sums, kept, self.sync, self.lb_ignore)


def reads_freely(values: Tensor) -> bool:
    """Return whether Python may look at a value without waiting for a device or a compiler."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def as_labels(target: Tensor, lb_ignore: int) -> Tensor:
    """Return a target of any integer dtype, (N,H,W) or (N,1,H,W), as (N,H,W).

    Raises UsageError for another dtype, and for one that can't hold lb_ignore: a cast has made
    another label of it.
    """
    if target.dtype not in (torch.uint8, torch.int16, torch.int32, torch.int64):
        raise UsageError(
            "loss: expected a target of class ids in uint8, int16, int32 or int64, got "
            f"{target.dtype}"
        )
    held = torch.iinfo(target.dtype)
    if not held.min <= lb_ignore <= held.max:
        raise UsageError(
            f"loss: lb_ignore is {lb_ignore}, which a {target.dtype} target can't hold; give it "
            "as int64, or take an lb_ignore from 0 to 255"
        )
    if target.ndim == 4 and target.shape[1] == 1:
        target = target.squeeze(1)
    return target


def class_ids(target: Tensor, valid: Tensor, num_classes: int, lb_ignore: int) -> Tensor:
    """Return the class ids of a target (N,H,W) in a small integer type, 0 where not valid.

    Raises UsageError for a label that is neither a class nor lb_ignore. Where Python may not look
    at labels such a label becomes a class: an index out of range would end a CUDA context.
    """
    if not reads_freely(target):
        ids = target & -valid.long()  # quicker than where and masked_fill
        return ids.clamp(0, num_classes - 1)
    ids = torch.empty(target.shape, dtype=torch.uint8 if num_classes <= 256 else torch.int32)
    if not ids.numel():
        return ids

    def convert(place: Place) -> tuple[Tensor, Tensor]:
        part = target[place] & -valid[place].to(target.dtype)
        ids[place] = part
        return part.aminmax()

    places = list_places(target, max(1, CHUNK // target.shape[2]))
    lows, highs = zip(*map_on_threads(convert, places), strict=True)
    low, high = int(min(lows)), int(max(highs))
    if low < 0 or high >= num_classes:
        label = low if low < 0 else high
        count = torch.count_nonzero(target == label)
        raise UsageError(
            f"loss: the target has label {label} (pixels: {count}), which is neither one of the "
            f"{num_classes} classes, 0 to {num_classes - 1}, nor lb_ignore, {lb_ignore}"
        )
    return ids


def require_shapes(logits: Tensor, target: Tensor, upsample: int) -> None:
    """Raise UsageError unless logits (N,C,h,w) and target (N,H,W) fit together."""
    shapes = f"logits {tuple(logits.shape)}, target {tuple(target.shape)}, upsample {upsample}"
    if logits.ndim != 4 or target.ndim != 3:
        raise UsageError(
            f"loss: expected logits (N,C,h,w) and a target (N,H,W) or (N,1,H,W), got {shapes}"
        )
    images, _, height, width = logits.shape
    if target.shape != (images, height * upsample, width * upsample):
        raise UsageError(f"loss: sizes don't fit: {shapes}; target is upsample times the logits")


def upsample_logits(logits: Tensor, factor: int, align_corners: bool) -> Tensor:
    """Return logits (N,C,h*factor,w*factor), interpolated bilinearly."""
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=align_corners)


class _TritonClassSums(torch.autograd.Function):
    """Sums of a map (N,H,W) over the pixels of each id, but lb_ignore: (N,count)."""

    @staticmethod
    def forward(ctx, values, ids, lb_ignore, count):
        from segtrain.losses.kernels.triton_reductions import class_sums

        ctx.save_for_backward(ids)
        ctx.lb_ignore = lb_ignore
        return class_sums(values, ids, count, lb_ignore)

    @staticmethod
    def backward(ctx, gradient):
        from segtrain.losses.kernels.triton_reductions import class_values

        (ids,) = ctx.saved_tensors
        return class_values(gradient, ids, ctx.lb_ignore), None, None, None
