"""Flat areas of masks: pixels of a class lie in them, those of smooth and lossy edges don't."""

from __future__ import annotations

import numpy as np

from segtrain.data.masks import encode_colours

RINGS = 4  # largest difference of neighbours within a class after lossy compression
BLOCK = 8  # side of JPEG's blocks


def flat_values(raw: np.ndarray, lossy: bool) -> np.ndarray:
    """Return the values of pixels in areas of 3x3 of one value, or of nearly one if lossy.

    raw: (H,W) values or (H,W,3) colours, which are returned as their codes.
    """
    planes = raw[..., None] if raw.ndim == 2 else raw
    height, width = raw.shape[:2]
    if min(height, width) < 3:
        return _codes(raw)[:0].ravel()
    highest = _over_three_by_three(np.maximum, planes)
    lowest = _over_three_by_three(np.minimum, planes)
    even = highest - lowest <= RINGS if lossy else highest == lowest
    centres = even.all(-1)
    flat = np.zeros((height, width), bool)
    for y in range(3):
        for x in range(3):
            flat[y : height - 2 + y, x : width - 2 + x] |= centres
    return _codes(raw)[flat]


def even_blocks(raw: np.ndarray) -> np.ndarray:
    """Return the value of each of JPEG's blocks that has only one: no edge has reached it.

    raw: (H,W) values or (H,W,3) colours, as the file has them.
    """
    codes = _codes(raw)
    rows, columns = codes.shape[0] // BLOCK, codes.shape[1] // BLOCK
    blocks = codes[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    first = blocks[:, :1, :, :1]
    return first[:, 0, :, 0][(blocks == first).all((1, 3))]


def _codes(raw: np.ndarray) -> np.ndarray:
    return raw if raw.ndim == 2 else encode_colours(raw)


def _over_three_by_three(function: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Return the largest or smallest value of each (H-2,W-2,C) neighbourhood."""
    rows = function(function(values[:-2], values[1:-1]), values[2:])
    return function(function(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
