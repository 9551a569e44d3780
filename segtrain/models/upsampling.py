"""Bilinear upsampling of logits a few rows at a time, with every bit of torch's F.interpolate."""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

TRIALS, DECISIVE = 1 << 11, 1 << 7
# in which the corners (rows 0, 0, 1, 1; columns 0, 1, 0, 1) of the first channels are added, and
# those of the others; a slice of channels each
Orders = list[tuple[slice, tuple[int, ...]]]


class UpsampledLogits:
    """Logits (N,C,H,W) in float32 of which only those at low resolution are stored.

    Their rows are upsampled as they are read, equal in every bit to those of `upsample`.
    """

    def __init__(
        self, low: Tensor, factor: int, align_corners: bool, size: tuple[int, int], orders: Orders
    ):
        """Take low (N,C,h,w), in channels_last, and the orders of find_orders."""
        self.shape = (*low.shape[:2], *size)
        self.whole = partial(upsample, low, factor, align_corners, size)
        self.dtype, self.orders = low.dtype, orders
        sides = zip(low.shape[2:], size, strict=True)
        self.down, self.across = (
            BilinearSide(cells, n, factor, align_corners) for cells, n in sides
        )
        # without the cells that only the padding reads
        self.low = low[:, :, : int(self.down.far[-1]) + 1, : int(self.across.far[-1]) + 1]

    def read(self, top: int, bottom: int) -> Tensor:
        """Return the rows from `top` to `bottom`: (N,C,bottom-top,W), in channels_last."""
        images, channels, _, width = self.shape
        rows = torch.empty(images, bottom - top, width, channels)
        near, far = (cells[top:bottom].tolist() for cells in (self.down.near, self.down.far))
        wide: dict[int, list[Tensor]] = {}
        first = 0
        while first < len(near):
            last = first + near[first:].count(near[first])  # they read the same two rows of cells
            pair = near[first], far[first]
            wide = {cell: wide[cell] if cell in wide else self._widen(cell) for cell in pair}
            self._add_corners(
                [*wide[pair[0]], *wide[pair[1]]],
                slice(top + first, top + last),
                rows[:, first:last],
            )
            first = last
        return rows.to(self.dtype).float().permute(0, 3, 1, 2)

    def _widen(self, cell: int) -> list[Tensor]:
        """Return a row of cells as the left and the right neighbours of all pixels (N,1,W,C)."""
        row = self.low[:, :, cell].transpose(1, 2).float()
        return [row.index_select(1, x).unsqueeze(1) for x in (self.across.near, self.across.far)]

    def _add_corners(self, corners: list[Tensor], rows: slice, out: Tensor) -> None:
        """Write the weighted sums of the four corners of `rows` into out (N,rows,W,C)."""
        weights = [
            torch.outer(down[rows], across).unsqueeze(2)
            for down in self.down.weights
            for across in self.across.weights
        ]
        for part, (first, *others) in self.orders:
            sums = out[..., part]
            torch.mul(corners[first][..., part], weights[first], out=sums)
            for k in others:  # like the kernel, addcmul rounds once where the CPU can
                sums.addcmul_(corners[k][..., part], weights[k])


class BilinearSide:
    """The two cells that each pixel along a side reads, and their weights, in torch's rounding."""

    def __init__(self, cells: int, pixels: int, factor: int, align_corners: bool):
        position = torch.arange(pixels, dtype=torch.float32)
        if align_corners:
            position *= torch.tensor(float(cells - 1)) / (cells * factor - 1)
        else:
            position = ((position + 0.5) / factor - 0.5).clamp(min=0)
        self.near = position.long()
        self.far = (self.near + 1).clamp(max=cells - 1)
        distance = (position - self.near).clamp(0, 1)
        self.weights = 1 - distance, distance


def upsample(low: Tensor, factor: int, align_corners: bool, size: tuple[int, int]) -> Tensor:
    """Return logits (N,C,H,W) of those at low resolution, without the padding."""
    if factor > 1:
        low = F.interpolate(low, scale_factor=factor, mode="bilinear", align_corners=align_corners)
    return low[..., : size[0], : size[1]]


def upsample_later(
    low: Tensor, factor: int, align_corners: bool, size: tuple[int, int]
) -> Tensor | UpsampledLogits:
    """Return logits on the CPU to be upsampled as their rows are read; others as `upsample` does.

    Logits that another kernel of torch's upsamples are among the others.
    """
    known = low.is_contiguous(memory_format=torch.channels_last) and low.shape[1] > 3
    # other factors have steps that round
    if low.is_cpu and known and factor > 1 and (align_corners or not factor & (factor - 1)):
        orders = find_orders(low.shape[1], low.dtype)
        if orders:
            return UpsampledLogits(low, factor, align_corners, size, orders)
    return upsample(low, factor, align_corners, size)


@lru_cache
def find_orders(channels: int, dtype: torch.dtype) -> Orders | None:
    """Return the orders in which torch's kernel adds the corners on this CPU, found by trial.

    They depend on the compiler, and differ between the channels that fill vectors and the rest.
    None where no order gives the bits of its result.
    """
    size = (4, 4)
    trials = torch.randn(TRIALS, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    # pixel (1, 1) is nearly 0: the order shows in bfloat16, too, which rounds most sums alike
    trials[..., 1, 1] = -(4 * trials[..., 0, 0] + 2 * trials[..., 0, 1] + 2 * trials[..., 1, 0])
    trials = trials.to(dtype)
    sums = {
        order: UpsampledLogits(trials, 2, True, size, [(slice(None), order)]).read(1, 2)
        for order in permutations(range(4))
    }
    every = torch.stack([*sums.values()])
    decisive = (every != every[0]).any(0).flatten(1).any(1).nonzero()[:DECISIVE, 0]
    low = trials[decisive].expand(-1, channels, -1, -1)
    found = upsample(low.contiguous(memory_format=torch.channels_last), 2, True, size).float()
    found = found[:, :, 1:2]
    fitting = {
        order: (found == each[decisive]).all(3).all(2).all(0).tolist()
        for order, each in sums.items()
    }
    head = max(fitting, key=lambda order: (fitting[order] + [False]).index(False))
    split = (fitting[head] + [False]).index(False)
    for tail, fits in fitting.items():
        if all(fits[split:]):
            return [(slice(split), head), (slice(split, None), tail)]
    return None
