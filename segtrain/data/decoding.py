"""Decoding of files to arrays: PNG, JPEG, TIFF, .npy; size limits and damaged files."""

from __future__ import annotations

import io
import math
import os
import warnings
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segtrain.config import DataConfig
from segtrain.errors import SegtrainError, first_line, translate_errors

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SUFFIXES = IMAGE_SUFFIXES | {".npy"}
TIFF_SUFFIXES = (".tif", ".tiff")
MAX_PIXELS = DataConfig.model_fields["max_pixels"].default
ROTATED_ORIENTATIONS = {5, 6, 7, 8}  # EXIF orientations that swap width and height
EXIF_ORIENTATION = 0x0112
SUBFILE_TYPE = 0x00FE  # of a TIFF's page
NO_IMAGE = 0b101  # bits of it: an overview or thumbnail, a transparency mask
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp", b"xmp")
ALPHA_MODES = ("RGBA", "LA", "PA")

# what Pillow warns about is refused here, or does not matter to training
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # Pillow only warns at first; `refuse_bomb` enforces data.max_pixels


def translate_decoding(path: Path) -> AbstractContextManager[None]:
    """Turn a decoder's exception into a SegtrainError that names the file and the reason."""
    return translate_errors(lambda error: f"{path}: {explain_damage(error)}")


def raw_modes(image: ImageFile.ImageFile) -> str:
    """Return how an undecoded image stores its pixels, as Pillow's raw modes."""
    return str([tile[3] for tile in image.tile])


def is_deep(raw: str) -> bool:
    """Return whether raw modes have 16 bits a channel."""
    return ";16" in raw


def open_upright(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the decoded image, upright, in the file's own mode, with raw_modes in info["raw"].

    Raises SegtrainError for a file that is not one whole image. A PNG's checksums are verified
    first: Pillow decodes damaged pixels without an error.
    """
    with translate_decoding(path):
        content = path.read_bytes()
        refuse_damaged_png(content)
        with Image.open(io.BytesIO(content)) as image:
            refuse_bomb(path, image.size, max_pixels)
            if (pages := count_pages(image)) > 1:
                raise SegtrainError(
                    f"{path}: {pages} pages; one image, or model.in_channels: {pages}"
                )
            raw, kind = raw_modes(image), image.format
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # without a copy
            image.info["raw"], image.format = raw, kind
            return image


def upright_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) after the EXIF rotation, from the header (a TIFF is decoded)."""
    with translate_decoding(path), Image.open(path) as image:
        refuse_bomb(path, image.size, max_pixels)
        if image.format == "TIFF":  # Pillow rotates it on decoding, and its size at times before
            return open_upright(path, max_pixels).size[::-1]
        width, height = image.size
        return (width, height) if is_turned(image) else (height, width)


def is_turned(image: ImageFile.ImageFile) -> bool:
    """Return whether EXIF swaps width and height of an undecoded image."""
    if image.format == "PNG" and not png_has_orientation(Path(os.fsdecode(image.filename))):
        return False  # getexif would decode it
    return image.getexif().get(EXIF_ORIENTATION) in ROTATED_ORIENTATIONS


def png_has_orientation(path: Path) -> bool:
    """Return whether a PNG has a chunk that can hold an orientation, which may be its last."""
    with open(path, "rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            text = file.read(min(length, 32)) if kind in TEXT_CHUNKS else b""
            if kind == b"eXIf" or text.startswith(ORIENTATION_TEXTS):
                return True
            file.seek(length - len(text) + 4, os.SEEK_CUR)
    return False


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[bool, bool, bool]:
    """Return (EXIF swaps width and height, has alpha, holds 16-bit integers) of an image."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return False, False, array_type(path) == np.uint16
    try:
        with translate_decoding(path), Image.open(path) as image:
            refuse_bomb(path, image.size, max_pixels)
            deep = is_deep(raw_modes(image)) or image.mode.startswith("I")
            return is_turned(image), image.mode in ALPHA_MODES, deep
    except SegtrainError:
        if suffix not in TIFF_SUFFIXES:
            raise
        return False, False, array_type(path) == np.uint16  # a TIFF that Pillow can't read


def array_type(path: Path) -> np.dtype:
    """Return the data type of a .npy file or a TIFF, from its header. Raises SegtrainError."""
    with translate_decoding(path):
        if path.suffix.lower() == ".npy":
            stored = np.load(path, mmap_mode="r", allow_pickle=False).dtype
        else:
            with tifffile.TiffFile(path) as file:
                stored = file.series[0].dtype
        return stored.newbyteorder("=")


def read_array(
    path: Path, max_pixels: int = MAX_PIXELS, channels: int = 3
) -> tuple[np.ndarray, int]:
    """Return the values of a .npy file or TIFF, of any channels and type, and its orientation.

    The orientation is EXIF's, 1 where there is none.
    """
    with translate_decoding(path):
        if path.suffix.lower() == ".npy":
            # mapped, so that its shape is known before any value is read
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            refuse_bomb(path, values.shape, max_pixels, channels)
            # torch and OpenCV refuse a foreign byte order
            return values.astype(values.dtype.newbyteorder("="), copy=False), 1
        with tifffile.TiffFile(path) as file:
            first, orientation = file.series[0], file.pages.first.tags.get(EXIF_ORIENTATION)
            # each band may be a page; overviews are smaller
            bands = [s for s in file.series if (s.shape, s.dtype) == (first.shape, first.dtype)]
            refuse_bomb(path, (len(bands), *first.shape), max_pixels, channels)
            values = first.asarray() if len(bands) == 1 else np.stack([b.asarray() for b in bands])
            return values, int(orientation.value) if orientation else 1


def count_pages(image: ImageFile.ImageFile) -> int:
    """Count the pages of a TIFF that are as large as the first, without thumbnails."""
    if not isinstance(image, TiffImageFile) or image.n_frames == 1:
        return 1
    size, pages = image.size, 0
    for page in range(image.n_frames):
        image.seek(page)
        pages += image.size == size and not image.tag_v2.get(SUBFILE_TYPE, 0) & NO_IMAGE
    image.seek(0)
    return pages


def refuse_bomb(path: Path, shape: tuple[int, ...], max_pixels: int, channels: int = 1) -> None:
    """Raise SegtrainError for more values than `max_pixels` pixels of `channels` channels have.

    An array's axes may stand in any order: the one as long as `channels` is taken for theirs.
    """
    axes = sorted(shape)
    if channels in axes and len(axes) > 2:
        axes.remove(channels)
    if math.prod(axes[-2:]) > max_pixels or math.prod(shape) > max_pixels * channels:
        sides = axes[-2:] if math.prod(axes[-2:]) > max_pixels else shape
        raise SegtrainError(
            f"{path}: {' x '.join(map(str, sides))} pixels are more than data.max_pixels "
            f"({max_pixels}) allows; raise it if you trust the file"
        )


def refuse_damaged_png(content: bytes) -> None:
    """Raise ValueError where a PNG is cut off or a chunk's checksum is wrong."""
    if not content.startswith(PNG_SIGNATURE):
        return
    start = len(PNG_SIGNATURE)  # of a chunk: length, kind, data, checksum of kind and data
    while start < len(content):
        length = int.from_bytes(content[start : start + 4])
        end = start + 8 + length
        if end + 4 > len(content):
            raise ValueError("truncated PNG")
        checksum = zlib.crc32(memoryview(content)[start + 4 : end])
        if checksum != int.from_bytes(content[end : end + 4]):
            raise ValueError("broken PNG: a checksum differs")
        if content[start + 4 : start + 8] == b"IEND":
            return
        start = end + 4
    raise ValueError("truncated PNG: it has no end")


def explain_damage(error: BaseException) -> str:
    """Return why a decoder failed and what to do, in one clause."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):  # its text names a buffer, not the file
        return "not an image that can be read; replace or remove it"
    text = first_line(error)
    if "imagecodecs" in text:
        return (
            f"its compression cannot be read ({text}); save it with deflate compression or none, "
            "or pip install imagecodecs"
        )
    damaged = any(word in text.lower() for word in ("truncated", "broken"))
    if damaged or isinstance(error, SyntaxError):
        return f"the image is truncated or damaged ({text}); replace or remove it"
    return f"not an image that can be read ({text}); replace or remove it"
