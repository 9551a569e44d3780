"""Image file -> upright uint8 pixels with the channels that the model takes."""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from segtrain.config import Data
from segtrain.errors import SegtrainError, first_line

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SUFFIXES = IMAGE_SUFFIXES | {".npy"}
ROTATED_ORIENTATIONS = {5, 6, 7, 8}  # of EXIF: width and height change places
EXIF_ORIENTATION = 0x0112
SUBFILE_TYPE = 0x00FE  # of a TIFF's page
NO_IMAGE = 0b101  # bits of it: an overview or thumbnail, a transparency mask
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp", b"xmp")
ALPHA_MODES = ("RGBA", "LA", "PA")
BAND = 1 << 22  # pixels
MAX_PIXELS = Data.model_fields["max_pixels"].default
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


@dataclass(frozen=True)
class ImageReader:
    """Reads images as (H,W,channels) uint8, upright.

    3 channels are RGB (grey repeated, alpha dropped, CMYK and palettes converted), 1 is grey; any
    other number must be the file's own. `value_range` names the values that become 0 and 255: by
    default all that an integer type holds (16 bits keep their upper 8), 0 to 1 for floats.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: Path) -> np.ndarray:
        """Raises SegtrainError for a file that is no whole image, or not one of these channels."""
        if self._is_array(path):
            return to_uint8(self._array(path), path, self.value_range)
        image = open_upright(path, self.max_pixels)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image)
            deep = values.astype(np.uint16) if fits_16_bits(values) else values
            return to_uint8(self._as_channels(deep, path), path, self.value_range)
        if self.value_range and is_deep(image.info["raw"]):
            raise SegtrainError(
                f"{path}: 16-bit colour is read as 8-bit, so data.value_range has no meaning; "
                "save it as TIFF or .npy"
            )
        image = self._convert(image, path)
        pixels = pixels_of(image)
        return to_uint8(pixels, path, self.value_range) if self.value_range else pixels

    def size(self, path: Path) -> tuple[int, int]:
        """(height, width) after the EXIF rotation, from the file's header (a TIFF is decoded)."""
        if self._is_array(path):
            return self._array(path).shape[:2]
        size = upright_size(path, self.max_pixels)
        with Image.open(path) as image:
            self._refuse_other_bands(image, path)
        return size

    def _is_array(self, path: Path) -> bool:
        """Whether Pillow can't read the file as it is meant, but NumPy or tifffile can."""
        if path.suffix.lower() in (".tif", ".tiff"):
            return not self._is_photo(path)
        return path.suffix.lower() == ".npy"

    def _is_photo(self, path: Path) -> bool:
        """Whether a TIFF has one page of a mode that Pillow knows, and of these channels."""
        try:
            with Image.open(path) as image:
                known = self.channels in (1, 3) or len(image.getbands()) == self.channels
                colour_is_deep = is_deep(raw_modes(image)) and image.mode != "I;16"
                whole = not (colour_is_deep and (self.value_range or self.channels not in (1, 3)))
                return known and whole and count_pages(image) == 1
        except DECODING_ERRORS:
            return False

    def _convert(self, image: Image.Image, path: Path) -> Image.Image:
        mode = {1: "L", 3: "RGB"}.get(self.channels, image.mode)
        self._refuse_other_bands(image, path)
        return image if image.mode == mode else image.convert(mode)

    def _refuse_other_bands(self, image: Image.Image, path: Path) -> None:
        if self.channels not in (1, 3) and len(image.getbands()) != self.channels:
            raise self._wrong_channels(path, f"{len(image.getbands())} channels ({image.mode})")

    def _array(self, path: Path) -> np.ndarray:
        values, orientation = read_array(path, self.max_pixels, self.channels)
        return UPRIGHT.get(orientation, np.asarray)(self._as_channels(values, path))

    def _as_channels(self, values: np.ndarray, path: Path) -> np.ndarray:
        """(H,W,C) in the file's type; channels may come first in the file."""
        shape = values.shape
        if values.ndim == 2:
            values = values[..., None]
        elif values.ndim == 3 and shape[2] not in (1, self.channels):
            if shape[0] in (1, self.channels):
                values = values.transpose(1, 2, 0)
        if values.ndim == 3 and values.shape[2] == 1 and self.channels == 3:
            values = values.repeat(3, axis=2)
        if values.ndim != 3 or values.shape[2] != self.channels or not values.size:
            raise self._wrong_channels(path, f"an array of shape {shape}")
        return values

    def _wrong_channels(self, path: Path, found: str) -> SegtrainError:
        return SegtrainError(
            f"{path}: {found}, but model.in_channels is {self.channels}; set it to the images' own "
            "number of channels (3 also reads grey)"
        )


# of TIFF and EXIF: what turns (H,W,C) values upright
UPRIGHT = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}


def to_uint8(
    values: np.ndarray, path: Path, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Values of any real type -> 0..255. Raises SegtrainError where their range is not known."""
    if value_range is None and values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if value_range is None and values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if value_range is None and values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iufb" or not np.isfinite(values).all():
        raise SegtrainError(
            f"{path}: values of type {values.dtype} that are not all finite numbers; mend the file"
        )
    lowest, highest = float(values.min()), float(values.max())
    low, high = value_range or (0.0, 1.0)
    if value_range is None and (values.dtype.kind != "f" or lowest < 0 or highest > 1):
        raise SegtrainError(
            f"{path}: values of type {values.dtype} from {lowest:g} to {highest:g}; say which "
            "become black and white: data.value_range: [LOWEST, HIGHEST]"
        )
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def pixels_of(image: Image.Image) -> np.ndarray:
    """(H,W,C) of a decoded image. A large one is copied by bands: NumPy would have it twice."""
    rows = max(1, BAND // image.width)
    if image.height <= rows:
        return np.asarray(image).reshape(image.height, image.width, -1)
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        pixels[top:bottom] = band.reshape(bottom - top, image.width, -1)
    return pixels


def raw_modes(image: Image.Image) -> str:
    """How an undecoded image's pixels are stored, as Pillow's raw modes."""
    return str([tile[3] for tile in image.tile])


def is_deep(raw: str) -> bool:
    """Whether raw modes are of 16 bits a channel."""
    return ";16" in raw


def fits_16_bits(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535


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


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that an undecoded image's width and height change places."""
    if image.format == "PNG" and not png_has_orientation(Path(image.filename)):
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


def count_pages(image: Image.Image) -> int:
    """Pages of a TIFF that are as large as the first; overviews and thumbnails are none."""
    if image.format != "TIFF" or image.n_frames == 1:
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
