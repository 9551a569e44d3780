"""Rasters: TIFFs of which only the strips or tiles that are asked for are decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from tifffile import TiffFile, TiffPage

from segtrain.data.decoding import translate_decoding
from segtrain.data.georeference import is_georeferenced, read_georeference
from segtrain.data.images import NO_LIMIT, ImageReader
from segtrain.data.tiff import (
    ALPHA,
    JPEG,
    ROOM,
    describe_tiff,
    is_decodable,
    is_tiff,
    refuse_cut_off,
    refuse_unpacked,
)
from segtrain.errors import SegtrainError

READ = 1 << 24  # bytes read at once of an uncompressed image without strips


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


class Raster:
    """The first image of an open TIFF."""

    def __init__(self, path: Path, file: TiffFile, reader: ImageReader):
        page = file.pages.first
        assert isinstance(page, TiffPage)
        self.path, self.file, self.page, self.reader = path, file, page, reader
        self.header = header = describe_tiff(file, path, NO_LIMIT, reader.channels)
        self.size = page.imagelength, page.imagewidth
        if header.pages > 1 or page.imagedepth > 1:
            raise SegtrainError(f"{path}: a stack of {header.pages} pages; save them as bands")
        if reader.upright and header.orientation > 1:
            raise SegtrainError(
                f"{path}: a raster whose orientation tag is {header.orientation}; save it upright, "
                "or with data.exif=false it is read as stored"
            )
        self.georeference = read_georeference(page, path)
        self.whole = None if is_decodable(page) else self._decode_whole()
        if self.whole is None:
            refuse_cut_off(file)
        # all rows lie uncompressed in one strip, or in one of each band
        one_strip = not page.is_tiled and page.rowsperstrip >= self.size[0]
        stored = page.is_final and all(page.databytecounts)
        self.is_plain = self.whole is None and one_strip and stored
        self.part = self._choose_part()
        self.nodata = _as_type(header.nodata, header.dtype)
        self.alpha = self._find_alpha()

    @property
    def byteorder(self) -> Literal["<", ">"]:
        return "<" if self.file.byteorder == "<" else ">"

    @property
    def has_nodata(self) -> bool:
        """True where pixels may be without data."""
        return self.nodata is not None or self.alpha is not None

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels (h,w,K) uint8 and which of them have data (h,w). Raise SegtrainError.

        Missing values of other types than uint8 and uint16 are black.
        """
        size = rows.stop - rows.start, columns.stop - columns.start
        pixels = np.empty((*size, self.reader.channels), np.uint8)
        has_data = np.ones(size, bool)
        high, wide = self.part
        with translate_decoding(self.path):
            for top in range(rows.start // high * high, rows.stop, high):
                for left in range(columns.start // wide * wide, columns.stop, wide):
                    y = slice(max(rows.start, top), min(rows.stop, top + high))
                    x = slice(max(columns.start, left), min(columns.stop, left + wide))
                    values = self._decode(top // high, left // wide)
                    part = self._convert(values[_moved(y, top), _moved(x, left)])
                    place = _moved(y, rows.start), _moved(x, columns.start)
                    pixels[place], has_data[place] = part
        return pixels, has_data

    def _decode_whole(self) -> np.ndarray:
        """Return the values (H,W,S) of an image that tifffile can't decode, but Pillow can."""
        if math.prod(self.size) > self.reader.max_pixels:
            raise self.header.undecodable(self.path)
        return self.reader.read_stored(self.path)[1].reshape(*self.size, -1)

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
        if math.prod(part) > (limit := self.reader.max_pixels):
            raise SegtrainError(
                f"{self.path}: its strips or tiles of {part[0]} x {part[1]} pixels are more than "
                f"data.max_pixels ({limit}) allows at once; save it in smaller tiles"
            )
        return part

    def _find_alpha(self) -> int | None:
        """Return the index of the sample that is alpha, where it is no channel of the model's."""
        header = self.header
        kinds = [kind in ALPHA for kind in header.extra]
        stored = header.samples if self.whole is None else self.whole.shape[2]
        if self.reader.channels not in (1, 3) or True not in kinds or stored < header.samples:
            return None
        return header.samples - len(kinds) + kinds.index(True)

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

    def _convert(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        has_data = np.ones(values.shape[:2], bool)
        if self.alpha is not None:
            has_data = values[..., self.alpha] != 0
        if self.nodata is not None:
            missing = values == self.nodata
            if values.dtype.kind == "f":
                missing |= np.isnan(values)
            bands = [i for i in range(values.shape[2]) if i != self.alpha]
            has_data &= ~missing[..., bands].all(2)
            if values.dtype not in (np.uint8, np.uint16):
                low, _ = self.reader.value_range or (0, 1)
                values = np.where(missing, values.dtype.type(low), values)
        if len(self.header.shape) == 2:
            values = values[..., 0]
        return self.reader.convert_tiff(self.header, values, self.path), has_data


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
        inside = _moved(rows, self.top)
        return self.parts[0][inside], self.parts[1][inside]


def _as_type(nodata: float | None, dtype: np.dtype) -> np.generic | None:
    """Return the value in the type of the pixels, None where that has no such value."""
    if nodata is not None and dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(nodata)
    if nodata is None or dtype.kind not in "iu" or not nodata.is_integer():
        return None
    limits = np.iinfo(dtype)
    return dtype.type(int(nodata)) if limits.min <= nodata <= limits.max else None


def _moved(pixels: slice, origin: int) -> slice:
    return slice(pixels.start - origin, pixels.stop - origin)
