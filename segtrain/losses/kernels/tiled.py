"""Pixel pass on the CPU in tiles of rows, which fit in a core's cache."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from segtrain.losses.kernels.first_order import first_order
from segtrain.losses.kernels.maps import exp_, keep_bits, log1p, zero_ignored_
from segtrain.losses.kernels.threads import map_on_threads

TILE = 1 << 19  # elements: 2 MiB of float32
BLOCK = 64  # rows or columns: so few read a narrow band of low-resolution cells only
# (masked, stable): few tiles hold NaN at ignored pixels, and fewer hold margins too large for exp
ATTEMPTS = (False, False), (True, False), (True, True)

Place = tuple[int, slice]  # image and rows of a tile


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
        keep = keep_bits(valid, tiles.dtype)
        nll, scale, wrong = torch.empty(3, *ids.shape, dtype=tiles.dtype)
        kept = tiles.new_gradient() if upsample == 1 and ctx.needs_input_grad[0] else None

        def compute(place: Place) -> tuple[int, list[Tensor]]:
            exps, top, others, attempt = tiles.exponentials(place, kept)
            total = others.add(1 if top is None else torch.exp(-top))
            torch.reciprocal(total, out=scale[place])  # exps times scale is p
            torch.mul(others, scale[place], out=wrong[place])  # 1 - p_true, with its digits
            loss = log1p(others) if top is None else (others + torch.expm1(-top)).log1p_() + top
            nll[place] = zero_ignored_(loss, keep[place])
            zero_ignored_(scale[place], keep[place])
            return attempt, [tiles.sum_of_powers(exps, scale[place], k) for k in powers]

        places = list(tiles)
        computed = list(map_on_threads(compute, places))
        mass = nll.new_zeros(len(powers), *logits.shape[:2])
        for (n, _), (_, sums) in zip(places, computed, strict=True):
            for slot, each in enumerate(sums):
                mass[slot, n] += each
        ctx.save_for_backward(logits, ids, valid, scale, wrong)
        ctx.tiling, ctx.powers, ctx.kept = (upsample, align_corners), powers, kept
        ctx.attempts = [attempt for attempt, _ in computed]
        return nll, mass

    @staticmethod
    @first_order
    def backward(ctx, nll_gradient, mass_gradient):
        logits, ids, valid, scale, wrong = ctx.saved_tensors
        tiles = Tiles(logits, ids, valid, *ctx.tiling, bool(ctx.powers))
        weights = zero_ignored_(nll_gradient.clone(), keep_bits(valid, tiles.dtype))
        kept, ctx.kept = ctx.kept, None
        direct = tiles.upsample == 1
        gradient = tiles.new_gradient() if kept is None else kept
        target = gradient if direct else None

        def compute(item: tuple[Place, int]) -> Tensor | None:
            place, attempt = item
            weight = weights[place]
            if not ctx.powers and not weight.any():  # no pixel of the tile was kept
                return tiles.view(gradient, place).zero_() if direct else None
            if kept is None:
                exps = tiles.exponentials(place, target, attempt)[0]
            else:
                exps = tiles.view(kept, place)
            maps = scale[place], wrong[place], weight
            tiles.to_gradient_(exps, place, maps, ctx.powers, mass_gradient[:, place[0]])
            return None if direct else tiles.to_low_resolution(exps, place)

        items = list(zip(tiles, ctx.attempts, strict=True))
        for (place, _), part in zip(items, map_on_threads(compute, items), strict=True):
            if part is not None and not direct:  # in their order: tiles share rows of cells
                gradient[place[0]].transpose(0, 1)[tiles.cells(place)] += part
        return gradient.to(logits.dtype), None, None, None, None, None


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
        if upsample > 1:
            self.down, across = (
                interpolation(cells, pixels, align_corners, self.dtype)
                for cells, pixels in zip(logits.shape[2:], valid.shape[1:], strict=True)
            )
            self.spans = [_cells(self.down[rows]) for rows in self.parts()]
            # in blocks: each reads a few cells only, so most of the whole product is zeros
            blocks = [slice(first, first + BLOCK) for first in range(0, width, BLOCK)]
            self.across = [(b, _cells(across[b]), across[b, _cells(across[b])]) for b in blocks]

    def parts(self) -> list[slice]:
        """Return the rows of an image's tiles."""
        height = self.valid.shape[1]
        firsts = range(0, height, self.rows)
        return [slice(first, min(height, first + self.rows)) for first in firsts]

    def __iter__(self) -> Iterator[Place]:
        return iter(product(range(len(self.valid)), self.parts()))

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

    def cells(self, place: Place) -> slice:
        """Return the rows of low-resolution cells that a tile reads."""
        return self.spans[place[1].start // self.rows]

    def true_index(self, place: Place) -> Tensor:
        """Return the class ids of a tile, as an index along its classes."""
        return self.ids[place].unsqueeze(self.dim)

    def read(self, place: Place, tile: Tensor, masked: bool) -> None:
        """Write a tile's logits at full resolution; `masked`: with 0 where ignored."""
        if self.upsample > 1:
            n, rows = place
            cells = self.cells(place)
            narrow = self.logits[n].transpose(0, 1)[cells].to(self.dtype).flatten(0, 1)
            wide = tile.new_empty(len(narrow), tile.shape[2])
            for block, columns, weights in self.across:
                torch.mm(narrow[:, columns], weights.T, out=wide[:, block])
            torch.mm(self.down[rows, cells], wide.view(-1, tile[0].numel()), out=tile.flatten(1))
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

    def to_low_resolution(self, tile: Tensor, place: Place) -> Tensor:
        """Return the gradient (cells,C,w) by the cells that a tile reads, from that by the tile."""
        down = self.down[place[1], self.cells(place)]
        wide = (down.T @ tile.flatten(1)).view(-1, tile.shape[2])
        narrow = wide.new_zeros(len(wide), self.logits.shape[3])
        for block, columns, weights in self.across:
            narrow[:, columns].addmm_(wide[:, block], weights)
        return narrow.view(-1, *tile.shape[1:2], self.logits.shape[3])


def _cells(weights: Tensor) -> slice:
    """Return the cells that some pixels read: columns of weights (pixels, cells) above 0."""
    read = weights.amax(0).nonzero().flatten()
    return slice(int(read[0]), int(read[-1]) + 1)


def interpolation(
    cells: int,
    pixels: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device | None = None,
) -> Tensor:
    """Return (pixels, cells): bilinear weights along one side, those of torch's interpolate."""
    position = torch.arange(pixels, dtype=torch.float64, device=device)
    if align_corners:
        position = position * ((cells - 1) / max(1, pixels - 1))
    else:
        position = ((position + 0.5) * (cells / pixels) - 0.5).clamp(0, cells - 1)
    distance = position.unsqueeze(1) - torch.arange(cells, device=device)
    return (1 - distance.abs()).clamp(min=0).to(dtype)  # a hat around each cell


def seen_cells(valid: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Return (N,1,height,width): the low-resolution cells that a valid pixel (N,H,W) reads.

    The others must be replaced by selection: 0 times an infinity in them would be NaN.
    """
    down, across = (
        interpolation(cells, pixels, align_corners, torch.float32, valid.device)
        for cells, pixels in zip((height, width), valid.shape[1:], strict=True)
    )
    return (down.T @ valid.float() @ across > 0).unsqueeze(1)
