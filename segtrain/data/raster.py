"""Rasters: TIFFs with a place on the map, or too large to be decoded at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from tifffile import TiffFile

from segtrain.data.decoding import translate_decoding
from segtrain.data.georeference import is_georeferenced, read_georeference
from segtrain.data.images import ImageReader
from segtrain.data.tiff import ALPHA, find_transparency, is_tiff
from segtrain.data.tiff_parts import TiffParts, moved
from segtrain.errors import SegtrainError


def is_raster(path: Path, max_pixels: int) -> bool:
    """Return whether a file is a TIFF with a place on the map, or of more than `max_pixels`.

    One that can't be read is none: the error is raised as it is read.
    """
    try:
        if not is_tiff(path):
            return False
        with translate_decoding(path), TiffFile(path) as file:
            page = file.pages.first
            return is_georeferenced(page) or page.imagelength * page.imagewidth > max_pixels
    except SegtrainError:
        return False


@contextmanager
def open_raster(path: Path, reader: ImageReader) -> Iterator[Raster]:
    """Open a TIFF, whose pixels are those that `reader` returns.

    Raise SegtrainError for a file that can't be read so, or whose georeference contradicts itself.
    """
    with ExitStack() as stack:
        with translate_decoding(path):
            raster = Raster(path, stack.enter_context(TiffFile(path)), reader)
        yield raster


class Raster(TiffParts):
    """A TIFF as pixels of a network, of which some may be without data."""

    def __init__(self, path: Path, file: TiffFile, reader: ImageReader):
        super().__init__(path, file, reader.tiff_access)
        self.reader, self.georeference = reader, read_georeference(self.page, path)
        self.alpha, page = self._find_alpha(), find_transparency(file)
        self.transparency = page and TiffParts(path, file, reader.tiff_access, page)

    @property
    def byteorder(self) -> Literal["<", ">"]:
        return "<" if self.file.byteorder == "<" else ">"

    @property
    def has_nodata(self) -> bool:
        """True where pixels may be without data."""
        return bool(
            self.header.missing_value is not None or self.alpha is not None or self.transparency
        )

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels (h,w,K) uint8 and which have data (h,w). Raise SegtrainError."""
        size = rows.stop - rows.start, columns.stop - columns.start
        pixels = np.empty((*size, self.reader.channels), np.uint8)
        has_data = np.ones(size, bool)
        for place, values in self.decode(rows, columns):
            pixels[place] = self.reader.convert_tiff(self.header, values, self.path)
            has_data[place] = self._find_data(values)
        if self.transparency and pixels.size:
            has_data &= self.transparency.read_values(rows, columns) != 0
        return pixels, has_data

    def _find_alpha(self) -> int | None:
        """Return the index of the sample that is alpha, where it is no channel of the model's."""
        header = self.header
        kinds = [kind in ALPHA for kind in header.extra]
        stored = header.samples if self.whole is None else self.whole.shape[2]
        if self.reader.channels not in (1, 3) or True not in kinds or stored < header.samples:
            return None
        return header.samples - len(kinds) + kinds.index(True)

    def _find_data(self, values: np.ndarray) -> np.ndarray:
        """Return which pixels (h,w) of stored values (h,w) or (h,w,S) have data."""
        values = values.reshape(*values.shape[:2], -1)
        has_data = np.ones(values.shape[:2], bool)
        if self.alpha is not None:
            has_data = values[..., self.alpha] != 0
        if (missing := self.header.find_missing(values)) is not None:
            bands = [i for i in range(values.shape[2]) if i != self.alpha]
            has_data &= ~missing[..., bands].all(2)
        return has_data


class ColumnReader:
    """Some columns of a raster, of which each row is decoded once, from top to bottom."""

    def __init__(self, raster: Raster, columns: slice):
        self.raster, self.columns = raster, columns
        self.top = self.bottom = 0
        self.parts = raster.read(slice(0, 0), columns)

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return what `Raster.read` does; rows above those of an earlier call may be gone."""
        if rows.stop > self.bottom:
            step = self.raster.part[0]
            bottom = min(self.raster.size[0], -(-rows.stop // step) * step)
            first = max(self.bottom, rows.start)
            more = self.raster.read(slice(first, bottom), self.columns)
            kept = [part[max(0, rows.start - self.top) :] for part in self.parts]
            pixels, has_data = map(np.concatenate, zip(kept, more, strict=True))
            self.parts, self.top, self.bottom = (pixels, has_data), rows.start, bottom
        inside = moved(rows, self.top)
        return self.parts[0][inside], self.parts[1][inside]
