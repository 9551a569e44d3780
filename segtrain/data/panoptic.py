"""Panoptic masks: a PNG whose colours are ids of segments, and the category of each segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segtrain.data.decoding import MAX_PIXELS
from segtrain.data.drawn import DrawnMask
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError, shorten


@dataclass(frozen=True)
class PanopticMask(DrawnMask):
    """The mask of one image of a panoptic JSON: the category of each pixel's segment."""

    file: Path  # the JSON
    png: Path
    void: int = 0  # the value of pixels without a segment
    segments: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)
    fault: str = field(default="", compare=False)  # why it has no meaning

    def __str__(self) -> str:
        return str(self.png)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file, self.png)

    def values(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return (H,W) categories; a segment's id is red + 256 green + 65536 blue."""
        colours = read_mask(self.png, max_pixels).values
        if self.fault or colours.ndim != 3:
            fault = self.fault or "expected RGB, whose colours are ids of segments"
            raise SegtrainError(f"{self}: {fault}; fix it, or exclude the image with data.exclude")
        ids, where = np.unique(colours @ np.array([1, 256, 65536]), return_inverse=True)
        categories = {0: self.void} | dict(self.segments)
        if unknown := [key for key in ids.tolist() if key not in categories]:
            raise SegtrainError(
                f"{self}: segment {shorten(unknown)} has no entry in segments_info of "
                f"{self.file.name}; fix it, or exclude the image with data.exclude"
            )
        values = np.array([categories[key] for key in ids.tolist()], np.int32)
        return values[where].reshape(colours.shape[:2])
