"""The pixel pass on the CPU, tile by tile of rows: nothing of the logits' full size is kept."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 1 << 19  # elements: 2 MiB of float32 stay in the cache


class TiledPixels(torch.autograd.Function):
    """nll (N,H,W) and mass (len(powers),N,C) of logits (N,C,h,w), upsampled on the way.

    The maths is plain_pixels'. The backward keeps the logits as they came and the nll, and
    computes a tile's probabilities again.
    """

    @staticmethod
    def forward(ctx, logits, ids, valid, upsample, align_corners, powers):
        tiles = Tiles(logits, valid, upsample, align_corners)
        nll = torch.empty(ids.shape, dtype=tiles.dtype)
        mass = nll.new_zeros(len(powers), *logits.shape[:2])
        for n, rows in tiles:
            top, exps, others = _exponentials(tiles.read(n, rows), ids[n, None, rows])
            torch.add(others, torch.expm1(-top), out=nll[n, rows]).log1p_().add_(top)
            if powers:
                share = 1 / (others + torch.exp(-top))
                probs = exps.mul_(share.where(valid[n, rows], 0))  # of the other classes
                for place, k in enumerate(powers):
                    mass[place, n] += (probs if k == 1 else probs**k).sum((1, 2))
        nll.masked_fill_(~valid, 0)
        for place, k in enumerate(powers):  # of the true classes; row by row: short sums are exact
            true = torch.exp(-k * nll).where(valid, 0)
            by_row = nll.new_zeros(*ids.shape[:2], logits.shape[1])
            mass[place] += by_row.scatter_add_(2, ids, true).sum(1)
        ctx.save_for_backward(logits, ids, valid, nll)
        ctx.upsample, ctx.align_corners, ctx.powers = upsample, align_corners, powers
        return nll, mass

    @staticmethod
    @once_differentiable
    def backward(ctx, nll_gradient, mass_gradient):
        logits, ids, valid, nll = ctx.saved_tensors
        tiles = Tiles(logits, valid, ctx.upsample, ctx.align_corners)
        nll_gradient = nll_gradient.where(valid, 0)
        for n, rows in tiles:
            index, loss, weight = ids[n, None, rows], nll[n, rows], nll_gradient[n, rows]
            if not ctx.powers and not weight.any():  # no pixel of the tile was kept
                continue
            probs = tiles.read(n, rows)
            probs.sub_(probs.gather(0, index).add_(loss)).exp_()
            at_true = weight * torch.expm1(-loss)  # p - 1 would lose the digits of easy pixels
            if ctx.powers:
                slope = sum(
                    k * each[n].view(-1, 1, 1) * (1 if k == 1 else probs ** (k - 1))
                    for k, each in zip(ctx.powers, mass_gradient)
                )
                inner = (slope * probs).sum(0)
                slope_at_true = slope.expand_as(probs).gather(0, index)[0]
                at_true += torch.exp(-loss) * (slope_at_true - inner)
                weight = slope - inner + weight
            probs.mul_(weight).scatter_(0, index, at_true.unsqueeze(0))
            tiles.add_gradient(n, rows, probs)
        return tiles.gradient.to(logits.dtype), None, None, None, None, None


def _exponentials(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """top, exp(margin - top) with 0 at the true class, and its sum over the classes.

    The margin of a class is its logit (C,rows,W) less the true class's; top is 0 unless a margin
    is too large for exp, so that most tiles are spared a maximum.
    """
    margin = logits.sub_(logits.gather(0, index))
    top = torch.zeros((), dtype=margin.dtype)
    exps = margin.exp().scatter_(0, index, 0)
    others = exps.sum(0)
    if not others.isfinite().all():  # on the CPU asking costs nothing
        top = margin.amax(0)
        exps = margin.sub_(top).exp_().scatter_(0, index, 0)
        others = exps.sum(0)
    return top, exps, others


class Tiles:
    """The tiles of a batch, each some rows of one image: reads logits, collects their gradient."""

    def __init__(self, logits: Tensor, valid: Tensor, upsample: int, align_corners: bool):
        self.dtype = torch.promote_types(logits.dtype, torch.float32)
        self.logits, self.valid, self.upsample = logits, valid, upsample
        self.all_valid = bool(valid.all())
        if upsample > 1:
            self.logits = logits.to(self.dtype, memory_format=torch.contiguous_format)
            self.down, self.across = (
                interpolation(cells, pixels, align_corners, self.dtype)
                for cells, pixels in zip(logits.shape[2:], valid.shape[1:])
            )
        self.gradient = torch.zeros_like(self.logits)

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        images, height, width = self.valid.shape
        count = max(1, TILE // (self.logits.shape[1] * width))
        for n in range(images):
            for first in range(0, height, count):
                yield n, slice(first, min(height, first + count))

    def read(self, n: int, rows: slice) -> Tensor:
        """A fresh (C,rows,W) of logits at full resolution, 0 at ignored pixels."""
        if self.upsample > 1:
            cells = self._cells(rows)
            tile = self.down[rows, cells] @ (self.logits[n, :, cells] @ self.across.T)
        else:
            tile = torch.empty(self.logits[n, :, rows].shape, dtype=self.dtype)
            tile.copy_(self.logits[n, :, rows])
        return tile if self.all_valid else tile.masked_fill_(~self.valid[n, rows], 0)

    def add_gradient(self, n: int, rows: slice, gradient: Tensor) -> None:
        """gradient (C,rows,W) is that of the tile's logits; ignored pixels pass none on."""
        if not self.all_valid:
            gradient.masked_fill_(~self.valid[n, rows], 0)
        if self.upsample > 1:
            cells = self._cells(rows)
            self.gradient[n, :, cells] += self.down[rows, cells].T @ gradient @ self.across
        else:
            self.gradient[n, :, rows] = gradient

    def _cells(self, rows: slice) -> slice:
        """The rows of low resolution that some rows of pixels read."""
        read = self.down[rows].amax(0).nonzero().flatten()
        return slice(int(read[0]), int(read[-1]) + 1)


def interpolation(
    cells: int, pixels: int, align_corners: bool, dtype: torch.dtype, device: torch.device = None
) -> Tensor:
    """(pixels, cells): the bilinear weights along one side, as torch's interpolate has them."""
    place = torch.arange(pixels, dtype=torch.float64, device=device)
    if align_corners:
        place = place * ((cells - 1) / max(1, pixels - 1))
    else:
        place = ((place + 0.5) * (cells / pixels) - 0.5).clamp(0, cells - 1)
    distance = place.unsqueeze(1) - torch.arange(cells, device=device)
    return (1 - distance.abs()).clamp(min=0).to(dtype)  # a hat around each cell


def seen_cells(valid: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """(N,1,height,width): the low-resolution cells that a valid pixel (N,H,W) reads.

    The others must be left out by selection: 0 times their infinity would be NaN.
    """
    down, across = (
        interpolation(cells, pixels, align_corners, torch.float32, valid.device)
        for cells, pixels in zip((height, width), valid.shape[1:])
    )
    return (down.T @ valid.float() @ across > 0).unsqueeze(1)
