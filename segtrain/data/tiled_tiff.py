"""Tiled BigTIFFs written tile by tile, in any order, of which a part may be there already."""

from __future__ import annotations

import io
import math
import os
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

import numpy as np
from tifffile import TiffFile, TiffWriter

from segtrain.data.georeference import Georeference
from segtrain.data.tiff import GDAL_NODATA, MAGIC

TILE = 512  # pixels of a side
REDUCED = 1  # NewSubfileType of an overview
GROUP = 16  # tiles of an overview made at a time


@dataclass(frozen=True)
class TiffLayout:
    """The tags of a tiled TIFF: what it is, and where on the map."""

    shape: tuple[int, ...]  # (H,W) or (H,W,3)
    dtype: np.dtype
    byteorder: Literal["<", ">"]  # of the georeference's values
    georeference: Georeference
    palette: list[tuple[int, int, int]] = field(default_factory=list)
    nodata: int | None = None
    overviews: bool = False

    def write_empty(self) -> bytes:
        """Return the file without any tile: the index of tiles is zeros."""
        file, shape, subfile = io.BytesIO(), self.shape, 0
        tags = [(*tag, True) for tag in self.georeference.tags]
        if self.nodata is not None:
            text = str(self.nodata).encode() + b"\0"
            tags.append((GDAL_NODATA, 2, len(text), text, True))
        options: dict[str, Any] = {"photometric": "rgb" if len(shape) == 3 else "minisblack"}
        if self.palette:
            colours = np.zeros((3, 256), np.uint16)
            colours[:, : len(self.palette)] = np.transpose(self.palette) * 257
            options = {"photometric": "palette", "colormap": colours}
        with TiffWriter(file, bigtiff=True, byteorder=self.byteorder) as writer:
            while True:
                tiles = math.prod(-(-side // TILE) for side in shape[:2])
                writer.write(
                    iter([b""] * tiles),
                    shape=shape,
                    dtype=self.dtype,
                    tile=(TILE, TILE),
                    compression="adobe_deflate",
                    subfiletype=subfile,
                    extratags=[] if subfile else tags,
                    metadata=None,
                    software=False,
                    **options,
                )
                if not self.overviews or max(shape[:2]) <= TILE:
                    return file.getvalue()
                shape = (*(-(-side // 2) for side in shape[:2]), *shape[2:])
                subfile = REDUCED


class TiledImage:
    """An image of the file: the size, and the index of its tiles."""

    def __init__(self, page: Any):
        self.size = page.imagelength, page.imagewidth
        self.tiles = tuple(-(-side // TILE) for side in self.size)
        offsets, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
        self.places = offsets.valueoffset, counts.valueoffset
        # tifffile takes 4 or 8 bytes for a number
        self.widths = tuple(tag.valuebytecount // tag.count for tag in (offsets, counts))
        self.index = np.array([page.dataoffsets, page.databytecounts], np.int64)
        self.index = self.index.reshape(2, *self.tiles)


class TiledTiff:
    """A tiled BigTIFF in an open file; tiles that the file has already are kept."""

    def __init__(self, file: BinaryIO, layout: TiffLayout):
        self.file, self.layout = file, layout
        if file.read(4) not in MAGIC:
            content = layout.write_empty()
            self._write(0, bytes(4) + content[4:])
            self._sync()
            self._write(0, content[:4])  # a kill leaves no half of it that looks whole
        file.seek(0)
        with TiffFile(file) as stored:
            self.images = [TiledImage(page) for page in stored.pages]
        self.stored_type = layout.dtype.newbyteorder(layout.byteorder)
        self.pixel = layout.shape[2:]

    def count_rows(self, first: int, last: int) -> int:
        """Return how many rows of tiles are there, from the top, in columns first to last."""
        missing = np.flatnonzero((self.images[0].index[1, :, first:last] == 0).any(1))
        return int(missing[0]) if len(missing) else self.images[0].tiles[0]

    def put(self, row: int, first: int, pixels: np.ndarray, level: int = 0) -> None:
        """Write a row of tiles from the column `first` on, of pixels (h,w) or (h,w,3).

        The tiles are stored before the index names them: what it names is whole.
        """
        image, tiles = self.images[level], []
        for left in range(0, pixels.shape[1], TILE):
            part = pixels[:, left : left + TILE]
            tile = np.zeros((TILE, TILE, *self.pixel), self.stored_type)
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(zlib.compress(tile.tobytes()))
        counts = np.array([len(tile) for tile in tiles])
        end = self.file.seek(0, os.SEEK_END)
        self._write(end, b"".join(tiles))
        self._sync()
        last = first + len(tiles)
        image.index[:, row, first:last] = end + np.cumsum(counts) - counts, counts
        for place, width, numbers in zip(image.places, image.widths, image.index, strict=True):
            text = numbers[row, first:last].astype(f"{self.layout.byteorder}u{width}").tobytes()
            self._write(place + (row * image.tiles[1] + first) * width, text)

    def add_overviews(self) -> None:
        """Write the reduced images: every second class id, the mean of four colours."""
        for level, image in enumerate(self.images[1:], 1):
            for row in range(image.tiles[0]):
                for first in range(0, image.tiles[1], GROUP):
                    last = min(first + GROUP, image.tiles[1])
                    if not image.index[1, row, first:last].all():
                        larger = self._read(level - 1, row, first, last)
                        self.put(row, first, _halve(larger), level)

    def _read(self, level: int, row: int, first: int, last: int) -> np.ndarray:
        """Return the pixels that become the tiles first to last of a row of the next level."""
        image = self.images[level]
        rows = range(2 * row, min(2 * row + 2, image.tiles[0]))
        columns = range(2 * first, min(2 * last, image.tiles[1]))
        strips = [np.concatenate([self._read_tile(image, y, x) for x in columns], 1) for y in rows]
        height, width = image.size
        whole = np.concatenate(strips)
        return whole[: height - rows.start * TILE, : width - columns.start * TILE]

    def _read_tile(self, image: TiledImage, row: int, column: int) -> np.ndarray:
        offset, count = map(int, image.index[:, row, column])
        self.file.seek(offset)
        content = zlib.decompress(self.file.read(count))
        return np.frombuffer(content, self.stored_type).reshape(TILE, TILE, *self.pixel)

    def _write(self, place: int, content: bytes) -> None:
        self.file.seek(place)
        self.file.write(content)
        self.file.flush()  # else a full disk is noticed as the file is closed

    def _sync(self) -> None:
        os.fsync(self.file.fileno())


def _halve(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels[::2, ::2]
    height, width = pixels.shape[:2]
    even = np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], "edge").astype(np.uint16)
    quarters = [even[y::2, x::2] for y in (0, 1) for x in (0, 1)]
    return ((np.sum(quarters, 0) + 2) // 4).astype(np.uint8)
