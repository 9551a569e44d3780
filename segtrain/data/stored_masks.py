"""Masks as their files have them: grey levels, palette indices, category ids or colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtrain.data.decoding import MAX_PIXELS, open_upright, read_array
from segtrain.data.drawn import DrawnMask
from segtrain.errors import SegtrainError

MaskSource = Path | DrawnMask
SPREAD = {"'L;2'": 85, "'L;4'": 17}  # by Pillow's raw mode
GREY_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "LA", "PA"}


@dataclass(frozen=True)
class StoredMask:
    """The values of a mask as its file has them, upright, and what the file says of them."""

    values: np.ndarray  # (H,W) grey levels, palette indices or ids, or (H,W,3) uint8 colours
    lossy: bool = False  # compressed with loss, as JPEG is
    palette: np.ndarray | None = None  # (n,3) uint8 colours of an indexed file's indices
    nodata: float | None = None  # the value that a GeoTIFF's own tag names


def read_mask(source: MaskSource, max_pixels: int = MAX_PIXELS) -> StoredMask:
    """Read a mask. Raises SegtrainError for a damaged file and for one that can't be a mask."""
    if isinstance(source, DrawnMask):
        return StoredMask(source.values(max_pixels))
    if source.suffix.lower() == ".npy":
        return StoredMask(_whole_numbers(read_array(source, max_pixels)[0], source))
    mask = open_upright(source, max_pixels)
    # Pillow's name for a JPEG with previews, as phones write it, is MPO
    lossy = mask.format in ("JPEG", "MPO") or mask.format == "WEBP" and not is_lossless(source)
    if mask.mode in GREY_MODES:
        values = np.asarray(mask)
        values = values[..., 0] if values.ndim == 3 else values
        # Pillow spreads 2 and 4 bits over 0..255: undo that to get the ids
        spread = next((step for raw, step in SPREAD.items() if raw in mask.info["raw"]), 1)
        palette = mask.getpalette("RGB") if mask.mode in ("P", "PA") else None
        colours = np.array(palette, np.uint8).reshape(-1, 3) if palette else None
        return StoredMask(values // spread if spread > 1 else values, lossy, colours)
    if mask.mode in ("RGB", "RGBA"):
        return StoredMask(np.asarray(mask)[..., :3], lossy)
    if mask.mode == "F":
        return StoredMask(_whole_numbers(np.asarray(mask), source), lossy)
    raise SegtrainError(f"{source}: masks are grey, palette or RGB images, this one is {mask.mode}")


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    flat = values
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        flat = values[0] if values.shape[0] == 1 else values[..., 0]
    if flat.ndim != 2 and not (flat.ndim == 3 and flat.shape[2] == 3 and flat.dtype == np.uint8):
        raise SegtrainError(f"{path}: expected a mask of height x width, got {values.shape}")
    # GIS tools save class ids as floats
    if flat.dtype.kind == "f" and (flat == np.rint(flat)).all():
        flat = flat.astype(np.int64)
    if flat.dtype.kind not in "iub":
        raise SegtrainError(f"{path}: expected whole numbers as mask values, got {values.dtype}")
    return flat


def is_lossless(path: Path) -> bool:
    """Return whether a WebP file is lossless, by its chunk's name: Pillow doesn't say."""
    with open(path, "rb") as file:
        return b"VP8L" in file.read(64)
