"""Files to arrays: PNG, JPEG, TIFF, npy; limits and damage."""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segtrain.config import DataConfig
from segtrain.errors import SegtrainError, first_line

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SUFFIXES = IMAGE_SUFFIXES | {".npy"}
MAX_PIXELS = DataConfig.model_fields["max_pixels"].default
ROTATED_ORIENTATIONS = {5, 6, 7, 8}  # of EXIF: width and height change places
EXIF_ORIENTATION = 0x0112
SUBFILE_TYPE = 0x00FE  # of a TIFF's page
NO_IMAGE = 0b101  # bits of it: an overview or thumbnail, a transparency mask
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp", b"xmp")
ALPHA_MODES = ("RGBA", "LA", "PA")
# what decoders raise for damaged files, besides what they document
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    tifffile.TiffFileError,
    tokenize.TokenError,
    zlib.error,
)

# what it warns of is an error of ours, or of no interest to who trains
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # Pillow only warns at first; `refuse_bomb` has the config's limit


def raw_modes(image: ImageFile.ImageFile) -> str:
    """How an undecoded image's pixels are stored, as Pillow's raw modes."""
    return str([tile[3] for tile in image.tile])


def is_deep(raw: str) -> bool:
    """Whether raw modes are of 16 bits a channel."""
    return ";16" in raw


def open_upright(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The decoded image, upright, in the file's own mode; info["raw"] is how its pixels are stored.

    Raises SegtrainError for a file that is no whole image. A PNG's checksums are compared: Pillow
    itself takes pixels from a damaged one.
    """
    try:
        content = path.read_bytes()
        refuse_damaged_png(content)
        with Image.open(io.BytesIO(content)) as image:
            refuse_bomb(image.size, max_pixels)
            if (pages := count_pages(image)) > 1:
                raise ValueError(f"{pages} pages; one image, or model.in_channels: {pages}")
            raw, kind = raw_modes(image), image.format
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # without a copy
            image.info["raw"], image.format = raw, kind
            return image
    except DECODING_ERRORS as error:
        raise SegtrainError(f"{path}: {reason(error)}") from error


def upright_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) after the EXIF rotation, from the file's header (a TIFF is decoded)."""
    try:
        with Image.open(path) as image:
            refuse_bomb(image.size, max_pixels)
            if image.format == "TIFF":  # Pillow turns it on decoding, and its size at times before
                return open_upright(path, max_pixels).size[::-1]
            width, height = image.size
            return (width, height) if is_turned(image) else (height, width)
    except DECODING_ERRORS as error:
        raise SegtrainError(f"{path}: {reason(error)}") from error


def is_turned(image: ImageFile.ImageFile) -> bool:
    """Whether EXIF says that an undecoded image's width and height change places."""
    if image.format == "PNG" and not png_has_orientation(Path(os.fsdecode(image.filename))):
        return False  # getexif would decode it
    return image.getexif().get(EXIF_ORIENTATION) in ROTATED_ORIENTATIONS


def png_has_orientation(path: Path) -> bool:
    """Whether a PNG has a chunk, at its end perhaps, that can hold an orientation."""
    with open(path, "rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            text = file.read(min(length, 32)) if kind in TEXT_CHUNKS else b""
            if kind == b"eXIf" or text.startswith(ORIENTATION_TEXTS):
                return True
            file.seek(length - len(text) + 4, os.SEEK_CUR)
    return False


def header(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[bool, bool, bool]:
    """Of an image: whether EXIF turns it on its side, has alpha, holds 16-bit integers."""
    try:
        if path.suffix.lower() == ".npy":
            return False, False, array_type(path) == np.uint16
        with Image.open(path) as image:
            refuse_bomb(image.size, max_pixels)
            deep = is_deep(raw_modes(image)) or image.mode.startswith("I")
            return is_turned(image), image.mode in ALPHA_MODES, deep
    except DECODING_ERRORS as error:
        if path.suffix.lower() in (".tif", ".tiff"):  # one that Pillow doesn't know
            return False, False, array_type(path) == np.uint16
        raise SegtrainError(f"{path}: {reason(error)}") from error


def array_type(path: Path) -> np.dtype:
    """The type of a .npy file's or a TIFF's values, from its header. Raises SegtrainError."""
    try:
        if path.suffix.lower() == ".npy":
            stored = np.load(path, mmap_mode="r", allow_pickle=False).dtype
        else:
            with tifffile.TiffFile(path) as file:
                stored = file.series[0].dtype
        return stored.newbyteorder("=")
    except DECODING_ERRORS as error:
        raise SegtrainError(f"{path}: {reason(error)}") from error


def read_array(
    path: Path, max_pixels: int = MAX_PIXELS, channels: int = 3
) -> tuple[np.ndarray, int]:
    """The values of a .npy file or of a TIFF of any channels and type, and EXIF's orientation."""
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            refuse_bomb(values.shape, max_pixels, channels)
            return values.astype(values.dtype.newbyteorder("="), copy=False), 1
        with tifffile.TiffFile(path) as file:
            first, orientation = file.series[0], file.pages.first.tags.get(EXIF_ORIENTATION)
            # bands may be pages one after another; overviews are smaller
            bands = [s for s in file.series if (s.shape, s.dtype) == (first.shape, first.dtype)]
            refuse_bomb((len(bands), *first.shape), max_pixels, channels)
            values = first.asarray() if len(bands) == 1 else np.stack([b.asarray() for b in bands])
            return values, int(orientation.value) if orientation else 1
    except DECODING_ERRORS as error:
        raise SegtrainError(f"{path}: {reason(error)}") from error


def count_pages(image: ImageFile.ImageFile) -> int:
    """Pages of a TIFF that are as large as the first; overviews and thumbnails are none."""
    if not isinstance(image, TiffImageFile) or image.n_frames == 1:
        return 1
    size, pages = image.size, 0
    for page in range(image.n_frames):
        image.seek(page)
        pages += image.size == size and not image.tag_v2.get(SUBFILE_TYPE, 0) & NO_IMAGE
    image.seek(0)
    return pages


def refuse_bomb(shape: tuple[int, ...], max_pixels: int, channels: int = 1) -> None:
    """Raises ValueError for more values than so many pixels of so many channels have.

    An array's axes may stand in any order: the one of the channels is as long as their number.
    """
    axes = sorted(shape)
    if channels in axes and len(axes) > 2:
        axes.remove(channels)
    if math.prod(axes[-2:]) > max_pixels or math.prod(shape) > max_pixels * channels:
        sides = axes[-2:] if math.prod(axes[-2:]) > max_pixels else shape
        raise ValueError(
            f"{' x '.join(map(str, sides))} pixels are more than data.max_pixels ({max_pixels}) "
            "allows; raise it if the file is to be trusted"
        )


def refuse_damaged_png(content: bytes) -> None:
    """Raises ValueError where a PNG's chunks don't have the checksums that they say."""
    if not content.startswith(PNG_SIGNATURE):
        return
    place = len(PNG_SIGNATURE)
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(content):
            raise ValueError("truncated PNG")
        checksum = zlib.crc32(memoryview(content)[place + 4 : end])
        if checksum != int.from_bytes(content[end : end + 4]):
            raise ValueError("broken PNG: a checksum differs")
        if content[place + 4 : place + 8] == b"IEND":
            return
        place = end + 4
    raise ValueError("truncated PNG: it has no end")


def reason(error: BaseException) -> str:
    """What to tell of a decoder's error."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):  # its text names a buffer, not the file
        return "not an image that can be read; replace or remove it"
    text = first_line(error)
    if "data.max_pixels" in text or "model.in_channels" in text:
        return text
    if "imagecodecs" in text:
        return (
            f"its compression can't be read ({text}); save it with deflate compression or none, "
            "or pip install imagecodecs"
        )
    damaged = any(word in text.lower() for word in ("truncated", "broken"))
    if damaged or isinstance(error, SyntaxError):
        return f"the image is truncated or damaged ({text}); replace or remove it"
    return f"not an image that can be read ({text}); replace or remove it"
