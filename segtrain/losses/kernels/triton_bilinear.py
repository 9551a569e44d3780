"""Positions and shares of bilinear upsampling by a whole number S, for Triton kernels.

Cell c of an axis lies between the low-res points c and c + 1, c in -1..size-1; an output in it
blends these two. Positions are ratios of integers, so exact.
"""

import triton
import triton.language as tl


@triton.jit
def cell_start(cell, size, out_size, S: tl.constexpr, ALIGN: tl.constexpr):
    """Return the first output position in `cell` or after it; cell in -1..size."""
    if ALIGN:
        start = tl.cdiv(tl.maximum(cell, 0) * (out_size - 1), tl.maximum(size - 1, 1))
        start = tl.where(cell < size, start, out_size)
    else:
        start = cell * S + S // 2
    return tl.minimum(tl.maximum(start, 0), out_size)


@triton.jit
def fraction(out, cell, size, out_size, S: tl.constexpr, ALIGN: tl.constexpr):
    """Return the share (0..1) of the way from the cell's first point to its second."""
    if ALIGN:
        return (out * (size - 1) - cell * (out_size - 1)) / (out_size - 1)
    else:
        inside = (2 * out + 1 - S - 2 * S * cell) / (2 * S)
        # before the first point and behind the last there is only that point
        return tl.where(cell < 0, 1.0, tl.where(cell == size - 1, 0.0, inside))


@triton.jit
def neighbours(out, size, out_size, S: tl.constexpr, ALIGN: tl.constexpr):
    """Return the two low-res positions that an output blends, and the share of the second."""
    if S == 1:
        return out, out, 0.0
    else:
        if ALIGN:
            cell = out * (size - 1) // (out_size - 1)
        else:
            cell = (2 * out + 1 + S) // (2 * S) - 1
        share = fraction(out, cell, size, out_size, S, ALIGN)
        return tl.maximum(cell, 0), tl.minimum(cell + 1, size - 1), share


@triton.jit
def lerp(a, b, share):
    # a neighbour with no share may be garbage: 0 times infinity would be NaN
    return tl.where(share == 0, a, a + (b - a) * share)
