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
    label: str
    spans: np.ndarray  # (n,2): the first pixel of each run as the table counts, and that after it


def read_runs(line: int, label: str, text: str) -> Runs:
    """Return the runs of a cell that RUNS matches."""
    starts, lengths = np.array(text.split(), np.int64).reshape(-1, 2).T
    return Runs(line, label, np.stack([starts, starts + lengths], 1))


@dataclass(frozen=True)
class RunLengthMask(DrawnMask):
    """The mask of one image, drawn from its rows: smaller regions over larger, 0 elsewhere."""

    in_memory = True

    table: Path
    name: str  # of the image, as the table has it
    image: Path  # which has the size
    rows: list[Runs] = field(repr=False, compare=False)
    ids: dict[str, int] = field(repr=False, compare=False)  # of the labels
    tables: tuple[Path, ...]  # of all splits: the ids are in the order of all labels
    first: int  # number of the first pixel
    across: bool  # pixels are counted along the rows, not down the columns
    upright: bool  # after EXIF's rotation

    def __str__(self) -> str:
        return f"{self.table} (image {self.name}{', along the rows' if self.across else ''})"

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.tables, self.image)

    def values(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return (H,W) class ids. Raises SegtrainError for runs that lead out of the image."""
        height, width = read_size(self.image, max_pixels, self.upright)
        flat = np.zeros(height * width, np.int32)
        for row in sorted(self.rows, key=lambda row: -int(np.diff(row.spans).sum())):
            spans = row.spans - self.first
            if spans[:, 1].max() > flat.size:
                raise SegtrainError(
                    f"{self.table}: line {row.line} has a run up to pixel {spans[:, 1].max()}, but "
                    f"{self.image} has {width} x {height} = {flat.size}; the table is of images of "
                    "another size: use these, or exclude the image with data.exclude"
                )
            for start, end in spans.tolist():
                flat[start:end] = self.ids[row.label]
        if self.across:
            return flat.reshape(height, width)
        return np.ascontiguousarray(flat.reshape(width, height).T)
