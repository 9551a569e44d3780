"""Bilinear upsampling of a band of rows on the CPU, and its transpose, as products of matrices."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from segtrain.losses.kernels.plain import double_device

BLOCK = 64  # rows or columns: so few read a narrow band of low-resolution cells only


class Upsampling:
    """Weights between cells (...,h,w) and pixels (...,H,W), two sizes, for bands of `rows` rows.

    A band is (cells,C,w) at low resolution and (rows,C,W) at full, so that upsampling is two
    products of whole matrices.
    """

    def __init__(
        self,
        cells: torch.Size,
        pixels: torch.Size,
        align_corners: bool,
        dtype: torch.dtype,
        rows: int,
    ):
        self.rows, self.width = rows, cells[-1]
        self.down, across = (
            interpolation(cells[side], pixels[side], align_corners, dtype) for side in (0, 1)
        )
        self.spans = [_cells(weights) for weights in self.down.split(rows)]
        # in blocks: each reads a few cells only, so most of the whole product is zeros
        size = max(BLOCK, rows)
        blocks = [slice(first, first + size) for first in range(0, pixels[-1], size)]
        self.across = [(b, _cells(across[b]), across[b, _cells(across[b])]) for b in blocks]

    def cells(self, rows: slice) -> slice:
        """Return the rows of low-resolution cells that a band reads."""
        return self.spans[rows.start // self.rows]

    def upsample(self, low: Tensor, rows: slice, out: Tensor) -> None:
        """Write a band's pixels (rows,C,W), from the cells (h,C,w) of its image."""
        cells = self.cells(rows)
        narrow = low[cells].to(out.dtype).flatten(0, 1)
        wide = out.new_empty(len(narrow), out.shape[2])
        for block, columns, weights in self.across:
            torch.mm(narrow[:, columns], weights.T, out=wide[:, block])
        down = self.down[rows, cells]
        torch.mm(down, wide.view(-1, out[0].numel()), out=out.flatten(1))

    def transpose(self, band: Tensor, rows: slice) -> Tensor:
        """Return the gradient (cells,C,w) by the cells that a band reads, from that by the band."""
        down = self.down[rows, self.cells(rows)]
        wide = (down.T @ band.flatten(1)).view(-1, band.shape[2])
        narrow = wide.new_zeros(len(wide), self.width)
        for block, columns, weights in self.across:
            narrow[:, columns].addmm_(wide[:, block], weights)
        return narrow.view(-1, band.shape[1], self.width)


@lru_cache(maxsize=4)
def upsampling_between(
    cells: torch.Size, pixels: torch.Size, align_corners: bool, dtype: torch.dtype, rows: int
) -> Upsampling:
    """Return the weights, kept for the next steps."""
    return Upsampling(cells, pixels, align_corners, dtype, rows)


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
    home = device and double_device(device)
    position = torch.arange(pixels, dtype=torch.float64, device=home)
    if align_corners:
        position = position * ((cells - 1) / max(1, pixels - 1))
    else:
        position = ((position + 0.5) * (cells / pixels) - 0.5).clamp(0, cells - 1)
    distance = position.unsqueeze(1) - torch.arange(cells, device=home)
    return (1 - distance.abs()).clamp(min=0).to(device, dtype)  # a hat around each cell


def seen_cells(valid: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Return (N,1,height,width): the low-resolution cells that a valid pixel (N,H,W) reads.

    The others must be replaced by selection: 0 times an infinity in them would be NaN.
    """
    down, across = (
        interpolation(cells, pixels, align_corners, torch.float32, valid.device)
        for cells, pixels in zip((height, width), valid.shape[1:], strict=True)
    )
    return (down.T @ valid.float() @ across > 0).unsqueeze(1)
