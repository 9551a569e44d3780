"""Decoding of files to arrays: PNG, JPEG, TIFF, .npy; size limits and damaged files."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from segtrain.config import DataConfig
from segtrain.data import quick
from segtrain.data.formats import name_content, open_known, read_beginning
from segtrain.errors import SegtrainError, first_line, translate_errors
from segtrain.files.whole import refuse_special
from segtrain.render.png import PNG_SIGNATURE

IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".gif"),
}
SUFFIXES = IMAGE_SUFFIXES | {".npy"}
MAX_PIXELS = DataConfig.model_fields["max_pixels"].default
ROTATED_ORIENTATIONS = {5, 6, 7, 8}  # EXIF orientations that swap width and height
EXIF_ORIENTATION = 0x0112
ANIMATED = ("GIF", "WEBP", "PNG")
CHUNK = 1 << 20  # bytes read at a time
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp", b"xmp")
ALPHA_MODES = ("RGBA", "LA", "PA")
# orientation of TIFF and EXIF: how to turn (H,W) or (H,W,C) values upright
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}

# what Pillow warns about is refused here, or does not matter to training
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # Pillow only warns at first; `refuse_bomb` enforces data.max_pixels


@contextmanager
def translate_decoding(path: Path) -> Iterator[None]:
    """Turn a decoder's exception into a SegtrainError that names the file and the reason.

    Pipes, devices and folders are refused unread.
    """
    with translate_errors(lambda error: f"{path}: {explain_damage(error)}"):
        refuse_special(path)
        yield


def raw_modes(image: ImageFile.ImageFile) -> str:
    """Return how an undecoded image stores its pixels, as Pillow's raw modes."""
    return str([tile[3] for tile in image.tile])


def is_deep(raw: str) -> bool:
    """Return whether raw modes have 16 bits a channel."""
    return ";16" in raw


def open_image(path: Path, max_pixels: int = MAX_PIXELS, upright: bool = True) -> Image.Image:
    """Return the decoded image in the file's own mode, no TIFF, with raw_modes in info["raw"].

    Without `upright` it is as stored; the orientation that EXIF names is in info["orientation"].
    Raises SegtrainError for a file that is not one whole image. A PNG's checksums are verified:
    Pillow decodes damaged pixels without an error.
    """
    with translate_decoding(path), open(path, "rb") as file, open_known(file) as image:
        refuse_bomb(path, image.size, max_pixels)
        refuse_animation(path, image)
        if image.format == "PNG":
            place = file.tell()
            refuse_damaged_png(file)
            file.seek(place)
        raw, kind = raw_modes(image), image.format
        decoded = _decode_png(image, file) or image
        decoded.load()
        orientation = decoded.getexif().get(EXIF_ORIENTATION, 1)
        if upright:
            ImageOps.exif_transpose(decoded, in_place=True)  # without a copy
        decoded.info["raw"], decoded.format = raw, kind
        decoded.info["orientation"] = orientation
        return decoded


def _decode_png(image: ImageFile.ImageFile, file: BinaryIO) -> Image.Image | None:
    """Return a PNG whose rows libdeflate decompressed; None for any other file."""
    size = os.fstat(file.fileno()).st_size
    if image.format != "PNG" or max(size, math.prod(image.size)) > quick.MOST:
        return None
    place = file.tell()
    file.seek(0)
    stored = quick.store_rows(file.read())
    file.seek(place)
    if stored is None or not stored.is_plain:
        return open_known(io.BytesIO(stored.content)) if stored else None
    decoded = Image.fromarray(quick.decode_plain(stored.content, image.mode))
    decoded.info = dict(image.info)  # with EXIF
    return decoded


def image_size(path: Path, max_pixels: int = MAX_PIXELS, upright: bool = True) -> tuple[int, int]:
    """Return (height, width) of an image that is no TIFF, after EXIF's rotation if `upright`."""
    with translate_decoding(path), open_known(path) as image:
        refuse_bomb(path, image.size, max_pixels)
        refuse_animation(path, image)
        width, height = image.size
        return (
            (width, height)
            if upright and read_orientation(image) in ROTATED_ORIENTATIONS
            else (height, width)
        )


def refuse_animation(path: Path, image: ImageFile.ImageFile) -> None:
    """Raise SegtrainError for a GIF, WebP or PNG of several frames; a photo's previews are none."""
    if image.format in ANIMATED and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", 0)
        raise SegtrainError(
            f"{path}: an animation of {frames} frames, not one image; save one of them as PNG"
        )


def read_orientation(image: ImageFile.ImageFile) -> int:
    """Return EXIF's orientation of an undecoded image, 1 where there is none."""
    if image.format == "PNG" and not png_has_orientation(Path(os.fsdecode(image.filename))):
        return 1  # getexif would decode it
    return int(image.getexif().get(EXIF_ORIENTATION, 1))


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


def read_array(path: Path, max_pixels: int = MAX_PIXELS, channels: int = 3) -> np.ndarray:
    """Return the values of a .npy file, of any channels and type."""
    with translate_decoding(path):
        # mapped, so that its shape is known before any value is read
        values = map_array(path)
        if values.ndim < 2 or not values.size:
            raise ValueError(f"an array of shape {values.shape}")
        refuse_bomb(path, values.shape, max_pixels, channels)
        # torch and OpenCV refuse a foreign byte order
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def map_array(path: Path) -> np.ndarray:
    """Return a .npy file as an array that is read where it is used; runs no pickle."""
    if not (start := read_beginning(path)).startswith(b"\x93NUMPY"):
        raise ValueError(f"its content is {name_content(start) or 'not that of a .npy file'}")
    with np.errstate(over="ignore"):  # of a shape whose size is no int64, which mmap refuses
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_deep_png(path: Path) -> np.ndarray:
    """Return the values (H,W,C) uint16 of a PNG of grey with alpha, RGB or RGBA, as stored."""
    with translate_decoding(path):
        values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is None:
            raise ValueError("broken PNG")
        return np.dstack([values[..., 2::-1], values[..., 3:]])


def read_netpbm(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of a PGM or PPM as stored, whatever its maxval. shape: (H,W) or (H,W,3)."""
    with translate_decoding(path):
        content = path.read_bytes()
        if not (header := re.match(rb"P([2356])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3, content)):
            raise ValueError("no PGM or PPM header")
        kind, maxval, pixels = header[1], int(header[4]), content[header.end() :]
        if kind in b"23":
            text = re.sub(rb"#[^\n]*", b"", pixels).split()
            values = np.array(text[: math.prod(shape)], np.int64)
        else:
            stored = np.dtype(">u2" if maxval > 255 else np.uint8)
            values = np.frombuffer(pixels, stored, math.prod(shape), 1)  # after one blank
        if values.size < math.prod(shape):
            raise ValueError("truncated PGM or PPM")
        return values.reshape(shape).astype(np.uint16 if maxval > 255 else np.uint8)


def turn_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn values (H,W) or (H,W,C) as EXIF's orientation says."""
    return TURNS.get(orientation, np.asarray)(values)


def turn_back(values: np.ndarray, orientation: int) -> np.ndarray:
    """Undo turn_upright."""
    return turn_upright(values, {6: 8, 8: 6}.get(orientation, orientation))


def is_lossless_webp(start: bytes) -> bool:
    """Return whether a WebP image that begins so is lossless: Pillow doesn't say."""
    return b"VP8L" in start[:64]


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


def refuse_damaged_png(file: IO[bytes]) -> None:
    """Raise ValueError where a PNG is cut off or a chunk's checksum is wrong."""
    file.seek(len(PNG_SIGNATURE))  # then chunks: length, kind, data, checksum of kind and data
    while len(head := file.read(8)) == 8:
        left, checksum = int.from_bytes(head[:4]), zlib.crc32(head[4:])
        while left and (data := file.read(min(left, CHUNK))):
            checksum = zlib.crc32(data, checksum)
            left -= len(data)
        if left or len(stored := file.read(4)) < 4:
            raise ValueError("truncated PNG")
        if checksum != int.from_bytes(stored):
            raise ValueError("broken PNG: a checksum differs")
        if head[4:] == b"IEND":
            return
    raise ValueError("truncated PNG: it has no end")


def explain_damage(error: BaseException) -> str:
    """Return why a decoder failed and what to do, in one clause."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        content = f" (its content is {error})" if str(error) else ""
        return f"not an image that can be read{content}; replace or remove it"
    text = first_line(error)
    if "imagecodecs" in text:
        return (
            f"its compression cannot be read ({text}); save it with deflate compression or none, "
            "or pip install 'segtrain-cli[tiff]'"
        )
    damaged = any(word in text.lower() for word in ("truncated", "broken"))
    if damaged or isinstance(error, SyntaxError):
        return f"the image is truncated or damaged ({text}); replace or remove it"
    return f"not an image that can be read ({text}); replace or remove it"
