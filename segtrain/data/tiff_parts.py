"""Strips and tiles of a TIFF, decoded one by one: the values of any rectangle of its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffPage

from segtrain.data.decoding import translate_decoding
from segtrain.data.tiff import (
    JPEG,
    NO_LIMIT,
    ROOM,
    describe_tiff,
    is_decodable,
    read_tiff,
    refuse_cut_off,
    refuse_unpacked,
)
from segtrain.errors import SegtrainError

READ = 1 << 24  # bytes read at once of an uncompressed image without strips
Place = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class TiffAccess:
    """The way in which a TIFF is read: see `read_tiff`."""

    channels: int
    max_pixels: int  # decoded at once
    upright: bool
    exact: bool = True


@contextmanager
def open_parts(path: Path, access: TiffAccess) -> Iterator[TiffParts]:
    """Open a TIFF. Raise SegtrainError for a file that can't be read by parts."""
    with ExitStack() as stack:
        with translate_decoding(path):
            parts = TiffParts(path, stack.enter_context(TiffFile(path)), access)
        yield parts


class TiffParts:
    """The first image of an open TIFF, or another page, as the values of its strips or tiles."""

    def __init__(
        self, path: Path, file: TiffFile, access: TiffAccess, other: TiffPage | None = None
    ):
        page = other or file.pages.first
        assert isinstance(page, TiffPage)
        self.path, self.file, self.page, self.access = path, file, page, access
        header = describe_tiff(file, path, NO_LIMIT, access.channels)
        if other and other.dtype:
            header = replace(header, shape=other.shape, dtype=other.dtype)
        self.header = header
        self.size = page.imagelength, page.imagewidth
        if header.pages > 1 or page.imagedepth > 1:
            raise SegtrainError(f"{path}: a stack of {header.pages} pages; save them as bands")
        if access.upright and header.orientation > 1:
            raise SegtrainError(
                f"{path}: a raster whose orientation tag is {header.orientation}; save it upright, "
                "or with data.exif=false it is read as stored"
            )
        self.whole = None if is_decodable(page) else self._decode_whole()
        if self.whole is None:
            refuse_cut_off(file)
        # all rows lie uncompressed in one strip, or in one of each band
        one_strip = not page.is_tiled and page.rowsperstrip >= self.size[0]
        stored = page.is_final and all(page.databytecounts)
        self.is_plain = self.whole is None and one_strip and stored
        self.part = self._choose_part()

    def read_values(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the stored values (h,w), or (h,w,S) of several samples. Raise SegtrainError."""
        values = None
        for place, part in self.decode(rows, columns):
            if values is None:
                size = rows.stop - rows.start, columns.stop - columns.start
                values = np.empty((*size, *part.shape[2:]), part.dtype)
            values[place] = part
        assert values is not None
        return values

    def decode(self, rows: slice, columns: slice) -> Iterator[tuple[Place, np.ndarray]]:
        """Yield the values (h,w) or (h,w,S) of each strip or tile, and their place in the area."""
        high, wide = self.part
        for top in range(rows.start // high * high, rows.stop, high):
            for left in range(columns.start // wide * wide, columns.stop, wide):
                y = slice(max(rows.start, top), min(rows.stop, top + high))
                x = slice(max(columns.start, left), min(columns.stop, left + wide))
                with translate_decoding(self.path):
                    part = self._decode(top // high, left // wide)
                values = part[moved(y, top), moved(x, left)]
                if len(self.header.shape) == 2:
                    values = values[..., 0]
                yield (moved(y, rows.start), moved(x, columns.start)), values

    def _decode_whole(self) -> np.ndarray:
        """Return the values (H,W,S) of an image that tifffile can't decode, but Pillow can."""
        if math.prod(self.size) > self.access.max_pixels:
            raise self.header.undecodable(self.path)
        access = self.access
        _, values = read_tiff(self.path, access.max_pixels, access.channels, access.exact)
        return values.reshape(*self.size, -1)

    def _choose_part(self) -> tuple[int, int]:
        """Return (height, width) of the parts that are decoded at once."""
        page, (height, width) = self.page, self.size
        if self.whole is not None:
            return self.size
        if self.is_plain:
            return max(1, min(height, READ * height // page.nbytes)), width
        part = (page.tilelength, page.tilewidth)
        if not page.is_tiled:
            part = min(page.rowsperstrip, height), width
        if math.prod(part) > (limit := self.access.max_pixels):
            raise SegtrainError(
                f"{self.path}: its strips or tiles of {part[0]} x {part[1]} pixels are more than "
                f"data.max_pixels ({limit}) allows at once; save it in smaller tiles"
            )
        return part

    def _decode(self, row: int, column: int) -> np.ndarray:
        """Return the stored values (h,w,S) of a part, which may reach beyond the image."""
        if self.whole is not None:
            return self.whole
        down, across = (-(-side // part) for side, part in zip(self.size, self.part, strict=True))
        bands = self.page.samplesperpixel if self.page.planarconfig == 2 else 1
        read = self._read_rows if self.is_plain else self._decode_segment
        parts = [read((band * down + row) * across + column) for band in range(bands)]
        return np.concatenate(parts, axis=2).astype(self.header.dtype, copy=False)

    def _read_rows(self, index: int) -> np.ndarray:
        (height, width), page, rows = self.size, self.page, self.part[0]
        band, part = divmod(index, -(-height // rows))
        values = width * (1 if page.planarconfig == 2 else page.samplesperpixel)
        dtype = self.header.dtype.newbyteorder(self.file.byteorder)
        row_bytes = values * dtype.itemsize
        self.file.filehandle.seek(page.dataoffsets[band] + part * rows * row_bytes)
        data = self.file.filehandle.read(min(rows, height - part * rows) * row_bytes)
        return np.frombuffer(data, dtype).reshape(-1, width, values // width)

    def _decode_segment(self, index: int) -> np.ndarray:
        page, handle = self.page, self.file.filehandle
        data, count = None, page.databytecounts[index]
        if count:
            handle.seek(page.dataoffsets[index])
            data = handle.read(count)
            unpacked = math.prod(self.part) * page.samplesperpixel * self.header.dtype.itemsize
            refuse_unpacked(page.compression, data, ROOM + 2 * unpacked)
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        values, _, shape = page.decode(data, index, **(tables if page.compression in JPEG else {}))
        if values is None:  # of a sparse file
            values = np.full(shape, page.nodata, self.header.dtype)
        return values[0]


def moved(pixels: slice, origin: int) -> slice:
    """Return a range of pixels counted from `origin`."""
    return slice(pixels.start - origin, pixels.stop - origin)
