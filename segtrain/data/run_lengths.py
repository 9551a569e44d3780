"""Masks drawn from the run lengths of a table: "start length start length ...", as Kaggle has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segtrain.data.decoding import MAX_PIXELS
from segtrain.data.drawn import DrawnMask
from segtrain.data.images import read_size
from segtrain.errors import SegtrainError

RUNS = re.compile(r"\s*\d{1,10}\s+\d{1,10}(?:\s+\d{1,10}\s+\d{1,10})*\s*")


class Runs(NamedTuple):
    """The run lengths of one row of a table."""

    line: int
    class_id: int
    text: str

    def spans(self) -> np.ndarray:
        """Return (n,2): the start of each run as the table counts, and the number after its end."""
        numbers = np.array(self.text.split(), np.int64).reshape(-1, 2)
        return np.stack([numbers[:, 0], numbers.sum(1)], 1)


@dataclass(frozen=True)
class RunLengthMask(DrawnMask):
    """The mask of one image, drawn from its rows: smaller regions over larger, 0 elsewhere."""

    table: Path
    name: str  # of the image, as the table has it
    image: Path  # which has the size
    rows: tuple[Runs, ...] = field(default=(), repr=False, compare=False)
    first: int = 1  # number of the first pixel
    across: bool = False  # pixels are counted along the rows, not down the columns
    upright: bool = True  # after EXIF's rotation
    others: tuple[Path, ...] = ()  # tables of other splits: the ids are in the order of all labels

    def __str__(self) -> str:
        return f"{self.table} (image {self.name}{', along the rows' if self.across else ''})"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.table, self.image, *self.others)

    def values(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return (H,W) class ids. Raises SegtrainError for runs that lead out of the image."""
        height, width = read_size(self.image, max_pixels, self.upright)
        flat = np.zeros(height * width, np.int32)
        drawn = [(row, row.spans() - self.first) for row in self.rows]
        drawn.sort(key=lambda region: -int(np.diff(region[1]).sum()))
        for row, spans in drawn:
            if spans[:, 1].max() > flat.size or spans[:, 0].min() < 0:
                raise SegtrainError(
                    f"{self.table}: line {row.line} has a run up to pixel {spans[:, 1].max()}, but "
                    f"{self.image} has {width} x {height} = {flat.size}; the table is of images of "
                    "another size: use these, or exclude the image with data.exclude"
                )
            for start, end in spans.tolist():
                flat[start:end] = row.class_id
        if self.across:
            return flat.reshape(height, width)
        return np.ascontiguousarray(flat.reshape(width, height).T)
