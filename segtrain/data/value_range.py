"""Image values of other files: the value range of a training, where it can be theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segtrain.console import Note
from segtrain.data.decoding import is_deep, open_known, raw_modes, read_array, translate_decoding
from segtrain.data.images import ImageReader
from segtrain.data.raster import is_raster, open_raster
from segtrain.data.tiff import NO_LIMIT, is_tiff, read_tiff_header
from segtrain.errors import SegtrainError

SAMPLED = 8  # images whose pixels are read, and 8 times as many headers
BEYOND_BYTES = 510  # a range that ends here or higher is not of 8-bit images
TOO_DARK, DARK = 16, 64  # levels of 256 that the brightest pixel should have
MOST_WHITE = 0.5  # share of the pixels
BANDS, BAND_ROWS = 8, 64  # that are read of a raster


def match_value_range(
    reader: ImageReader, images: Sequence[Path], trained_on: bool = False
) -> tuple[ImageReader, list[Note]]:
    """Return the reader for images, by the training's reader, and notes on what differs.

    A range beyond 8 bits is not for 8-bit images: they are read whole. Raises SegtrainError where
    images of wider types can hardly have the range. trained_on: the images are the training's own,
    whose range is theirs unless all have become 8-bit ones.
    """
    some = images[:: -(-len(images) // (8 * SAMPLED)) or 1]
    kinds = {path: kind for path in some if (kind := _holds_bytes(path, reader)) is not None}
    deep = [path for path, has_bytes in kinds.items() if not has_bytes]
    notes = []
    if reader.value_range and reader.value_range[1] >= BEYOND_BYTES:
        if len(deep) < len(kinds) and not (trained_on and deep):
            low, high = reader.value_range
            reader = replace(reader, wide_range=True) if deep else replace(reader, value_range=None)
            text = f"8-bit images are read whole, not by the training's range [{low:g}, {high:g}]"
            notes.append(Note(f"{text} (data.value_range)", "note"))
    if deep and not trained_on:
        notes += _check_brightness(reader, deep[:: -(-len(deep) // SAMPLED)])
    return reader, notes


def _holds_bytes(path: Path, reader: ImageReader) -> bool | None:
    """Return whether an image has 8 bits a channel; None where its header can't be read."""
    try:
        if path.suffix.lower() == ".npy":
            return read_array(path, reader.max_pixels, reader.channels).dtype.itemsize == 1
        if is_tiff(path):
            header = read_tiff_header(path, NO_LIMIT, reader.channels)
            return header.palette is not None or np.dtype(header.dtype).itemsize == 1
        with translate_decoding(path), open_known(path) as image:
            return not (is_deep(raw_modes(image)) or image.mode[0] in "IF")
    except SegtrainError:
        return None  # reported when it is read


def _check_brightness(reader: ImageReader, images: Sequence[Path]) -> list[Note]:
    levels = np.zeros(256, np.int64)
    for path in images:
        try:
            for pixels in _read_pixels(reader, path):
                levels += np.bincount(pixels.ravel(), minlength=256)
        except SegtrainError:
            continue
    if not levels.any():
        return []
    highest, white = int(np.flatnonzero(levels)[-1]), levels[255] / levels.sum()
    if reader.value_range is None:
        if highest >= DARK:
            return []
        text = f"16-bit images whose brightest pixel has level {highest} of 255: name the values"
        return [Note(f"{text} of black and white with --set data.value_range=[LOW, HIGH]", "note")]
    if highest >= TOO_DARK and white <= MOST_WHITE:
        return []
    found = f"{white:.0%} white" if white > MOST_WHITE else f"at most at level {highest} of 255"
    low, high = reader.value_range
    raise SegtrainError(
        f"{images[0].parent}: pixels are {found} by the training's range [{low:g}, {high:g}]; "
        f"choose --set 'data.value_range=[{low:g}, {high:g}]' (as in training), or --set "
        "data.value_range=null (the whole range of their type), or the range that they have"
    )


def _read_pixels(reader: ImageReader, path: Path) -> Iterator[np.ndarray]:
    """Yield an image's pixels: all, or those with data in a few bands of a raster."""
    if not is_raster(path, reader.max_pixels):
        yield reader(path)
        return
    with open_raster(path, reader) as raster:
        height, width = raster.size
        for top in np.linspace(0, max(height - BAND_ROWS, 0), BANDS, dtype=int):
            rows = slice(int(top), min(int(top) + BAND_ROWS, height))
            pixels, has_data = raster.read(rows, slice(0, width))
            yield pixels[has_data]
