"""Image file -> upright RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segtrain.errors import SegtrainError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
ROTATED_ORIENTATIONS = {5, 6, 7, 8}  # of EXIF: width and height change places
EXIF_ORIENTATION = 0x0112


def read_image(path: Path) -> np.ndarray:
    """The image as (H,W,3) uint8 RGB, turned upright by its EXIF tag, without its alpha channel.

    16-bit grey keeps its upper 8 bits. Raises SegtrainError for a file that is no whole image.
    """
    image = open_upright(path)
    if image.mode.startswith("I"):  # PIL's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def open_upright(path: Path) -> Image.Image:
    """The decoded image, upright. Raises SegtrainError for a file that is no whole image."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise
        raise SegtrainError(f"{path}: {_reason(error)}") from error


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) after the EXIF rotation, from the file's header (a TIFF is decoded)."""
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":  # Pillow turns it on decoding, and its size at times before
                return open_upright(path).size[::-1]
            width, height = image.size
            if image.format == "PNG" and "exif" not in image.info:  # getexif would decode it
                return height, width
            turned = image.getexif().get(EXIF_ORIENTATION) in ROTATED_ORIENTATIONS
            return (width, height) if turned else (height, width)
    except (OSError, SyntaxError, ValueError) as error:
        raise SegtrainError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = str(error)
    if "truncated" in text.lower() or "broken" in text.lower() or isinstance(error, SyntaxError):
        return f"the image is truncated or damaged ({text}); replace or remove it"
    return f"not an image that can be read ({text}); replace or remove it"
