"""Areas: the parts of a large image, and of its mask, that are read instead of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtrain.data.drawn import DrawnMask


@dataclass(frozen=True)
class Area:
    """Rows top to bottom and columns left to right of an image of `whole` (height, width)."""

    whole: tuple[int, int]
    top: int
    bottom: int
    left: int
    right: int

    def __str__(self) -> str:
        return f"[{self.top}:{self.bottom}, {self.left}:{self.right}]"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    def within(self, other: Area) -> tuple[slice, slice]:
        """Return the rows and columns, which count from the corner of another area."""
        top, left = self.top - other.top, self.left - other.left
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def cut(self, rows: slice, columns: slice) -> Area:
        """Return the area of some of its rows and columns, which count from its corner."""
        top, left = self.top, self.left
        return Area(
            self.whole, top + rows.start, top + rows.stop, left + columns.start, left + columns.stop
        )


@dataclass(frozen=True)
class MaskArea:
    """An area of a mask."""

    source: Path | DrawnMask
    area: Area

    def __str__(self) -> str:
        return f"{self.source}{self.area}"


class AreaPixels:
    """Pixels of an area that are read as they are sliced, as those of an array are."""

    def __init__(self, area: Area, read: Callable[[Area], np.ndarray]):
        self.area, self.read, self.shape = area, read, area.size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            pixels.indices(side) for pixels, side in zip(place, self.shape, strict=True)
        )
        return self.read(self.area.cut(slice(top, bottom), slice(left, right)))
