"""Pixel pass on the CPU in tiles of rows, which keeps no tensor of the logits' full size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from segtrain.losses.kernels.first_order import first_order

TILE = 1 << 19  # elements: 2 MiB of float32 stay in the cache
BLOCK = 64  # rows or columns: so few read a narrow band of low-resolution cells only
# (masked, stable): few tiles hold NaN at ignored pixels, and fewer hold margins too large for exp
ATTEMPTS = (False, False), (True, False), (True, True)


class TiledPixels(torch.autograd.Function):
    """Compute nll (N,H,W) and mass (len(powers),N,C) of logits (N,C,h,w), upsampled on the way.

    The formulas are those of plain_pixels. For the backward it keeps only the logits as given and
    the nll; each tile's probabilities are computed again.
    """

    @staticmethod
    def forward(ctx, logits, target, valid, upsample, align_corners, powers):
        tiles = Tiles(logits, target, valid, upsample, align_corners)
        nll = torch.empty(target.shape, dtype=tiles.dtype)
        mass = nll.new_zeros(len(powers), *logits.shape[:2])
        finite = True
        for n, rows in tiles:
            index, ignored = tiles.true_classes(n, rows), ~valid[n, rows]
            for masked, stable in ATTEMPTS:
                top, exps, others = _exponentials(tiles.read(n, rows, masked), index, stable)
                if others is not None:
                    break
            finite &= not masked
            loss = torch.add(others, torch.expm1(-top), out=nll[n, rows]).log1p_().add_(top)
            loss.masked_fill_(ignored, 0)
            if powers:
                at_true = torch.exp(-top)
                exps.scatter_(1, index, at_true.expand_as(others).unsqueeze(1))
                scale = others.add_(at_true).reciprocal_().masked_fill_(ignored, 0)  # to p
                for slot, k in enumerate(powers):
                    mass[slot, n] += _sum_of_powers(exps, scale, k)
        ctx.save_for_backward(logits, target, valid, nll)
        ctx.tiling, ctx.powers, ctx.finite = (upsample, align_corners), powers, finite
        return nll, mass

    @staticmethod
    @first_order
    def backward(ctx, nll_gradient, mass_gradient):
        logits, target, valid, nll = ctx.saved_tensors
        tiles = Tiles(logits, target, valid, *ctx.tiling)
        gradient = torch.zeros_like(logits, dtype=tiles.dtype)  # in its memory format
        for n, rows in tiles:
            loss, ignored = nll[n, rows], ~valid[n, rows]
            weight = nll_gradient[n, rows].masked_fill(ignored, 0)
            if not ctx.powers and not weight.any():  # no pixel of the tile was kept
                continue
            index, probs = tiles.true_classes(n, rows), tiles.read(n, rows, not ctx.finite)
            shift = probs.gather(1, index).squeeze(1).add_(loss)
            shift.masked_fill_(ignored, math.inf)  # makes p 0 at ignored pixels
            probs.sub_(shift.unsqueeze(1)).exp_()
            at_true = weight * torch.expm1(-loss)  # p - 1 would lose the digits of easy pixels
            if ctx.powers:
                # of sum_c g_c p_c ** k: p_j (slope_j - sum_c slope_c p_c), slope = k g p ** (k - 1)
                slope = sum(
                    k * each[n].view(-1, 1) * (1 if k == 1 else probs ** (k - 1))
                    for k, each in zip(ctx.powers, mass_gradient, strict=True)
                )
                constant = ctx.powers == (1,)
                inner = slope.T @ probs if constant else (slope * probs).sum(1, keepdim=True)
                slope_at_true = slope.expand_as(probs).gather(1, index)
                from_mass = torch.exp(-loss) * (slope_at_true - inner).squeeze(1)
                at_true += from_mass.masked_fill_(ignored, 0)
                probs *= torch.add(
                    slope, weight.unsqueeze(1) - inner, out=tiles.buffers[1, : len(probs)]
                )
            else:
                probs *= weight.unsqueeze(1)
            tiles.add(gradient, n, rows, probs.scatter_(1, index, at_true.unsqueeze(1)))
        return gradient.to(logits.dtype), None, None, None, None, None


def _sum_of_powers(exps: Tensor, scale: Tensor, k: int) -> Tensor:
    """Return (C,): the sum over pixels of (exps * scale) ** k; exps (rows,C,W), scale (rows,W)."""
    if k == 1:
        return torch.bmm(exps, scale.unsqueeze(2)).sum((0, 2))
    return ((exps * scale.unsqueeze(1)) ** k).sum((0, 2))


def _exponentials(
    logits: Tensor, index: Tensor, stable: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return top, exp(margin - top) with 0 at the true class, and its sum over the classes.

    The margin of a class is its logit (rows,C,W) minus that of the true class; logits are changed
    in place. top is 0 unless `stable`, which saves a maximum; the sum is None where that overflowed
    or a logit is not finite.
    """
    true = logits.gather(1, index)
    margin = logits.sub_(true)
    top = margin.amax(1) if stable else torch.zeros((), dtype=margin.dtype)
    if stable:
        margin -= top.unsqueeze(1)
    exps = margin.exp_().scatter_(1, index, 0)
    others = exps.sum(1)
    is_finite = stable or math.isfinite(others.sum() + true.sum())
    return top, exps, others if is_finite else None


class Tiles:
    """Tiles of the logits, each some rows of one image; reads logits and adds up their gradient.

    A tile is (rows,C,W), and (cells,C,w) at low resolution, so that upsampling is two products of
    whole matrices.
    """

    def __init__(
        self, logits: Tensor, target: Tensor, valid: Tensor, upsample: int, align_corners: bool
    ):
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        self.target, self.valid, self.upsample = target, valid, upsample
        self.logits = logits.transpose(1, 2)  # (N,h,C,w)
        _, height, width = valid.shape
        self.count = max(1, min(height, BLOCK, TILE // (logits.shape[1] * width)))
        self.buffers = torch.empty(2, self.count, logits.shape[1], width, dtype=self.dtype)
        if upsample > 1:
            self.down, across = (
                interpolation(cells, pixels, align_corners, self.dtype)
                for cells, pixels in zip(logits.shape[2:], valid.shape[1:], strict=True)
            )
            # in blocks: each reads a few cells only, so most of the whole product is zeros
            blocks = [slice(first, first + BLOCK) for first in range(0, width, BLOCK)]
            self.across = [(b, _cells(across[b]), across[b, _cells(across[b])]) for b in blocks]

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        images, height, _ = self.valid.shape
        for n in range(images):
            for first in range(0, height, self.count):
                yield n, slice(first, min(height, first + self.count))

    def read(self, n: int, rows: slice, masked: bool) -> Tensor:
        """Read a tile at full resolution into the first buffer; `masked`: with 0 where ignored."""
        tile = self.buffers[0, : rows.stop - rows.start]
        if self.upsample > 1:
            cells = _cells(self.down[rows])
            narrow = self.logits[n, cells].to(self.dtype).flatten(0, 1)
            wide = tile.new_empty(len(narrow), tile.shape[2])
            for block, columns, weights in self.across:
                torch.mm(narrow[:, columns], weights.T, out=wide[:, block])
            torch.mm(self.down[rows, cells], wide.view(-1, tile[0].numel()), out=tile.flatten(1))
        else:
            tile.copy_(self.logits[n, rows])
        return tile.masked_fill_(~self.valid[n, rows].unsqueeze(1), 0) if masked else tile

    def true_classes(self, n: int, rows: slice) -> Tensor:
        """Return (rows,1,W) class ids, 0 at ignored pixels."""
        return self.target[n, rows].masked_fill(~self.valid[n, rows], 0).unsqueeze(1)

    def add(self, gradient: Tensor, n: int, rows: slice, of_tile: Tensor) -> None:
        """Add the gradient of a tile's logits to that of all logits (N,C,h,w)."""
        gradient = gradient[n].transpose(0, 1)
        if self.upsample > 1:
            cells = _cells(self.down[rows])
            wide = (self.down[rows, cells].T @ of_tile.flatten(1)).view(-1, of_tile.shape[2])
            narrow = wide.new_zeros(len(wide), gradient.shape[2])
            for block, columns, weights in self.across:
                narrow[:, columns].addmm_(wide[:, block], weights)
            gradient[cells] += narrow.view(-1, *gradient.shape[1:])
        else:
            gradient[rows] = of_tile


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
