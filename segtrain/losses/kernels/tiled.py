"""Pixel pass on the CPU in tiles of rows, which fit in a core's cache."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from segtrain.losses.kernels.bilinear import BLOCK, upsampling_between
from segtrain.losses.kernels.first_order import first_order
from segtrain.losses.kernels.maps import exp_, keep_bits, log1p, zero_ignored_
from segtrain.losses.kernels.threads import Place, list_places, map_on_threads

TILE = 1 << 19  # elements: 2 MiB of float32
# (masked, stable): few tiles hold NaN at ignored pixels, and fewer hold margins too large for exp
ATTEMPTS = (False, False), (True, False), (True, True)


class TiledPixels(torch.autograd.Function):
    """Compute nll (N,H,W) and mass (len(powers),N,C) of logits (N,C,h,w), upsampled on the way.

    The formulas are those of plain_pixels. A tile's exponentials of the margins become its gradient
    in place. At full resolution they are written to where the gradient will be, so that nothing is
    computed twice; a second backward of the same graph computes them again. With upsampling, each
    tile's are computed again, as nothing of full size is kept.
    """

    @staticmethod
    def forward(ctx, logits, ids, valid, upsample, align_corners, powers):
        tiles = Tiles(logits, ids, valid, upsample, align_corners, bool(powers))
        nll, sums = (torch.empty(valid.shape, dtype=tiles.dtype) for _ in range(2))
        kept = tiles.new_gradient() if upsample == 1 and ctx.needs_input_grad[0] else None

        def compute(place: Place) -> tuple[int, Tensor | None, list[Tensor]]:
            exps, top, others, attempt = tiles.exponentials(place, kept)
            keep, sums[place] = keep_bits(valid[place], tiles.dtype), others
            loss = log1p(others) if top is None else (others + torch.expm1(-top)).log1p_() + top
            nll[place] = zero_ignored_(loss, keep)
            scale = zero_ignored_(scale_to_1(others, top), keep) if powers else others
            return attempt, top, [tiles.sum_of_powers(exps, scale, k) for k in powers]

        computed = list(map_on_threads(compute, tiles.places))
        mass = nll.new_zeros(len(powers), *logits.shape[:2])
        for (n, _), (_, _, masses) in zip(tiles.places, computed, strict=True):
            for slot, each in enumerate(masses):
                mass[slot, n] += each
        ctx.save_for_backward(logits, ids, valid, sums)
        ctx.tiling, ctx.powers, ctx.kept = (upsample, align_corners), powers, kept
        ctx.attempts = [(attempt, top) for attempt, top, _ in computed]
        return nll, mass

    @staticmethod
    @first_order
    def backward(ctx, nll_gradient, mass_gradient):
        logits, ids, valid, sums = ctx.saved_tensors
        tiles = Tiles(logits, ids, valid, *ctx.tiling, bool(ctx.powers))
        kept, ctx.kept = ctx.kept, None
        direct = tiles.upsample == 1
        gradient = tiles.new_gradient() if kept is None else kept
        target = gradient if direct else None

        def compute(item: tuple[Place, tuple[int, Tensor | None]]) -> Tensor | None:
            place, (attempt, top) = item
            keep, weight = keep_bits(valid[place], tiles.dtype), nll_gradient[place].clone()
            zero_ignored_(weight, keep)
            if not ctx.powers and not weight.any():  # no pixel of the tile was kept
                return tiles.view(gradient, place).zero_() if direct else None
            if kept is None:
                exps = tiles.exponentials(place, target, attempt)[0]
            else:
                exps = tiles.view(kept, place)
            scale = zero_ignored_(scale_to_1(sums[place], top), keep)
            maps = scale, sums[place] * scale, weight
            tiles.to_gradient_(exps, place, maps, ctx.powers, mass_gradient[:, place[0]])
            return None if direct else tiles.upsampling.transpose(exps, place[1])

        items = list(zip(tiles.places, ctx.attempts, strict=True))
        for ((n, rows), _), part in zip(items, map_on_threads(compute, items), strict=True):
            if part is not None and not direct:  # in their order: tiles share rows of cells
                gradient[n].transpose(0, 1)[tiles.upsampling.cells(rows)] += part
        return gradient.to(logits.dtype), None, None, None, None, None


def scale_to_1(others: Tensor, top: Tensor | None) -> Tensor:
    """Return the factor that makes probabilities of exponentials, by those of the other classes."""
    return (others + (1 if top is None else torch.exp(-top))).reciprocal_()


class Tiles:
    """Tiles of the logits, each some rows of one image, and what is computed with one.

    A tile is (rows,C,W), or (rows,W,C) of channels_last logits, with classes along `dim`; and
    (cells,C,w) at low resolution, so that upsampling is two products of whole matrices.
    """

    def __init__(
        self,
        logits: Tensor,
        ids: Tensor,
        valid: Tensor,
        upsample: int,
        align_corners: bool,
        masses: bool,
    ):
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        self.ids, self.valid, self.upsample, self.masses = ids, valid, upsample, masses
        self.logits, (_, self.classes, _, _) = logits, logits.shape
        last = upsample == 1 and logits.is_contiguous(memory_format=torch.channels_last)
        self.dim = 2 if last and not logits.is_contiguous() else 1
        _, height, width = valid.shape
        self.rows = max(1, min(height, BLOCK, TILE // (self.classes * max(1, width))))
        self.ones = torch.ones(self.classes, dtype=self.dtype)
        self.scratch = threading.local()
        self.places = list_places(valid, self.rows)
        if upsample > 1:
            self.upsampling = upsampling_between(
                logits.shape[2:], valid.shape[1:], align_corners, self.dtype, self.rows
            )

    def new_gradient(self) -> Tensor:
        """Return memory for the gradient, in the layout of the logits; zeros where it is a sum."""
        make = torch.empty_like if self.upsample == 1 else torch.zeros_like
        return make(self.logits, dtype=self.dtype)

    def view(self, logits: Tensor, place: Place) -> Tensor:
        """Return a tile of a tensor (N,C,H,W)."""
        return logits.movedim(1, self.dim + 1)[place]

    def buffer(self, rows: int) -> Tensor:
        """Return a tile of this thread's own memory."""
        if not hasattr(self.scratch, "tile"):
            shape = [self.rows, self.valid.shape[2]]
            shape.insert(self.dim, self.classes)
            self.scratch.tile = torch.empty(shape, dtype=self.dtype)
        return self.scratch.tile[:rows]

    def true_index(self, place: Place) -> Tensor:
        """Return the class ids of a tile, as an index along its classes."""
        return self.ids[place].long().unsqueeze(self.dim)

    def read(self, place: Place, tile: Tensor, masked: bool) -> None:
        """Write a tile's logits at full resolution; `masked`: with 0 where ignored."""
        if self.upsample > 1:
            n, rows = place
            self.upsampling.upsample(self.logits[n].transpose(0, 1), rows, tile)
        else:
            tile.copy_(self.view(self.logits, place))
        if masked:
            tile.masked_fill_(~self.valid[place].unsqueeze(self.dim), 0)

    def exponentials(
        self, place: Place, kept: Tensor | None, first: int = 0
    ) -> tuple[Tensor, Tensor | None, Tensor, int]:
        """Return exp(margin - top), top, the sum over the other classes, and the attempt's number.

        The margin of a class is its logit minus that of the true class, and top their maximum, or
        None for 0, which saves a pass. The exponentials, written to the tile of `kept` (N,C,H,W) or
        to this thread's memory, are 0 at the true class; with masses they are exp(-top) there. An
        attempt fails where the sum overflows or a logit is not finite.
        """
        rows, index = place[1].stop - place[1].start, self.true_index(place)
        tile = self.buffer(rows) if kept is None else self.view(kept, place)
        for attempt in range(first, len(ATTEMPTS)):
            masked, stable = ATTEMPTS[attempt]
            self.read(place, tile, masked)
            true = tile.gather(self.dim, index)
            tile.sub_(true)
            top = tile.amax(self.dim) if stable else None
            if top is not None:
                tile.sub_(top.unsqueeze(self.dim))
            exp_(tile).scatter_(self.dim, index, 0)
            others = self.sum_over_classes(tile, self.ones)
            if stable or math.isfinite(others.sum() + true.sum()):
                break
        if self.masses:
            at_true = true.fill_(1) if top is None else torch.exp(-top).unsqueeze(self.dim)
            tile.scatter_(self.dim, index, at_true)
        return tile, top, others, attempt

    def sum_over_classes(self, tile: Tensor, factors: Tensor) -> Tensor:
        """Return (rows,W): the sum of a tile times factors (C,)."""
        return tile @ factors if self.dim == 2 else factors @ tile

    def sum_of_powers(self, exps: Tensor, scale: Tensor, k: int) -> Tensor:
        """Return (C,): the sum over pixels of (exps * scale) ** k; scale is (rows,W)."""
        if k == 1:  # row by row: short sums keep their digits
            if self.dim == 2:
                return torch.bmm(scale.unsqueeze(1), exps).sum((0, 1))
            return torch.bmm(exps, scale.unsqueeze(2)).sum((0, 2))
        powers = (exps * scale.unsqueeze(self.dim)) ** k
        return powers.sum((0, 1) if self.dim == 2 else (0, 2))

    def to_gradient_(
        self,
        exps: Tensor,
        place: Place,
        maps: tuple[Tensor, Tensor, Tensor],
        powers: tuple[int, ...],
        mass_gradient: Tensor,
    ) -> None:
        """Turn a tile's exponentials into the gradient, in place.

        `maps` (rows,W) are the scale that makes probabilities of them, 1 - p_true, and the gradient
        by nll, 0 at ignored pixels.
        """
        scale, wrong, weight = maps
        dim, index = self.dim, self.true_index(place)
        at_true = (weight * wrong).neg_()
        if powers:
            # of sum_c g_c p_c ** k: p_j (slope_j - sum_c slope_c p_c), slope = k g p ** (k - 1)
            probs = exps.mul_(scale.unsqueeze(dim))
            each_class = [-1 if d == dim else 1 for d in range(3)]
            slope = sum(
                k * each.view(each_class) * (1 if k == 1 else probs ** (k - 1))
                for k, each in zip(powers, mass_gradient, strict=True)
            )
            if powers == (1,):
                inner = self.sum_over_classes(probs, mass_gradient[0])
            else:
                inner = (slope * probs).sum(dim)
            slope_at_true = slope.expand_as(probs).gather(dim, index).squeeze(dim)
            at_true += probs.gather(dim, index).squeeze(dim).mul_(slope_at_true - inner)
            probs *= slope + (weight - inner).unsqueeze(dim)
        else:
            exps.mul_((weight * scale).unsqueeze(dim))
        exps.scatter_(dim, index, at_true.unsqueeze(dim))
