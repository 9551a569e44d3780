"""Image files to upright uint8 pixels with the channels that the model takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.areas import Area
from segtrain.data.decoding import (
    ALPHA_MODES,
    MAX_PIXELS,
    ROTATED_ORIENTATIONS,
    image_size,
    is_deep,
    map_array,
    open_image,
    raw_modes,
    read_array,
    read_orientation,
    translate_decoding,
    turn_upright,
)
from segtrain.data.formats import open_known
from segtrain.data.tiff import NO_LIMIT, TiffHeader, is_tiff, read_tiff, read_tiff_header
from segtrain.data.tiff_parts import TiffAccess, open_parts
from segtrain.errors import SegtrainError

WIDE = (np.int8, np.int16, np.int32, np.uint32)
BAND = 1 << 22  # pixels converted at a time


@dataclass(frozen=True)
class ImageReader:
    """A reader of images as (H,W,channels) uint8.

    3 channels are RGB (grey repeated, alpha dropped, CMYK and palettes converted), 1 is grey; any
    other number must be the file's own. `value_range` has the values that become 0 and 255: by
    default the whole range of an integer type (16 bits keep their upper 8), 0 to 1 for floats.
    Where a TIFF's white is zero, it is inverted, as viewers do; alpha never changes colours.
    With `upright`, images are turned as EXIF says; without it, they are as stored. With
    `wide_range`, the range is of types wider than 8 bits, and 8-bit images are read whole.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS
    upright: bool = True
    wide_range: bool = False

    @classmethod
    def of(cls, config: DataConfig, channels: int) -> ImageReader:
        return cls(channels, config.value_range, config.max_pixels, config.exif is not False)

    @property
    def byte_range(self) -> tuple[float, float] | None:
        """The values of 8-bit images that become 0 and 255."""
        return None if self.wide_range else self.value_range

    def __call__(self, path: Path, area: Area | None = None) -> np.ndarray:
        """Return the pixels of a file, or of an area of a TIFF.

        Raise SegtrainError for a file that is not one whole image of these channels.
        """
        if area:
            with open_parts(path, self.tiff_access) as parts:
                values = parts.read_values(area.rows, area.columns)
            return np.ascontiguousarray(self.convert_tiff(parts.header, values, path))
        if path.suffix.lower() == ".npy":
            values = read_array(path, self.max_pixels, self.channels)
            value_range = self.byte_range if values.dtype.itemsize == 1 else self.value_range
            return to_uint8(self._as_channels(values, path), path, value_range)
        if is_tiff(path):
            return self._read_tiff(path)
        image = open_image(path, self.max_pixels, self.upright)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image)
            # Pillow opens some 16-bit files as int32, whose range says nothing
            if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 65535:
                values = values.astype(np.uint16)
            return to_uint8(self._as_channels(values, path), path, self.value_range)
        if self.value_range and is_deep(image.info["raw"]):
            raise SegtrainError(
                f"{path}: 16-bit colour is read as 8-bit, so data.value_range has no meaning; "
                "save it as TIFF or .npy"
            )
        self._refuse_other_bands(image, path)
        mode = {1: "L", 3: "RGB"}.get(self.channels, image.mode)
        pixels = pixels_of(image if image.mode == mode else image.convert(mode))
        return to_uint8(pixels, path, self.byte_range) if self.byte_range else pixels

    def size(self, path: Path) -> tuple[int, int]:
        """Return (height, width) of the image that the reader returns, from the header."""
        if path.suffix.lower() == ".npy":
            values = read_array(path, self.max_pixels, self.channels)
            return self._as_channels(values, path).shape[:2]
        if is_tiff(path):
            header = read_tiff_header(path, self.max_pixels, self.channels)
            # an array of its shape that takes no memory
            pixels = self._tiff_channels(header, np.broadcast_to(np.uint8(0), header.shape), path)
            height, width = pixels.shape[:2]
            turned = self.upright and header.orientation in ROTATED_ORIENTATIONS
            return (width, height) if turned else (height, width)
        size = image_size(path, self.max_pixels, self.upright)
        with open_known(path) as image:
            self._refuse_other_bands(image, path)
        return size

    def _read_tiff(self, path: Path) -> np.ndarray:
        header, values = read_tiff(path, self.max_pixels, self.channels, self.tiff_access.exact)
        pixels = self.convert_tiff(header, values, path)
        upright = turn_upright(pixels, header.orientation) if self.upright else pixels
        return np.ascontiguousarray(upright)

    @property
    def tiff_access(self) -> TiffAccess:
        """The way to read the values of a TIFF as exactly as `convert_tiff` needs them."""
        exact = self.value_range is not None or self.channels not in (1, 3)
        return TiffAccess(self.channels, self.max_pixels, self.upright, exact)

    def convert_tiff(self, header: TiffHeader, values: np.ndarray, path: Path) -> np.ndarray:
        """Return the stored values of a TIFF, or of a part of it, as pixels that are not turned.

        Each pixel is a function of its own values, so parts are as the whole has them. Missing
        values of other types than uint8 and uint16 are black.
        """
        if self.channels not in (1, 3) and values.shape[2:] != header.shape[2:]:
            raise header.undecodable(path)  # Pillow left out samples
        if header.nodata is not None and values.dtype not in (np.uint8, np.uint16):
            low, _ = self.value_range or (0, 1)
            missing = header.find_missing(values)
            if missing is not None:
                values = np.where(missing, values.dtype.type(low), values)
        is_part = values.shape[:2] != header.shape[:2]
        place = f"{path} (a part of it)" if is_part else path
        values = self._tiff_channels(header, values, place)
        value_range = self.value_range
        if header.palette is not None and self.channels in (1, 3):
            if values.max() >= len(header.palette):
                raise SegtrainError(f"{place}: index {values.max()} has no colour in its palette")
            values = header.palette[values[..., 0].astype(np.intp)]
        elif header.bits in (2, 4):
            values = values * np.uint8(255 // (2**header.bits - 1))
        elif header.bits < 8 * values.dtype.itemsize and values.dtype.kind == "u":
            value_range = value_range or (0, 2**header.bits - 1)
        elif values.dtype in WIDE and header.samples == 1 and not header.white_is_zero:
            # a signed or wider type's range says nothing of the image
            if values.min() >= 0 and values.max() <= 65535:
                values = values.astype(np.uint16 if values.itemsize > 1 else np.uint8)
        is_byte = values.dtype in (np.uint8, bool)
        pixels = to_uint8(values, place, None if is_byte else value_range)
        if header.white_is_zero:
            pixels = 255 - pixels
        if self.channels in (1, 3) and pixels.shape[2] != self.channels:
            colour = Image.fromarray(pixels, "RGB" if pixels.shape[2] == 3 else "CMYK")
            pixels = pixels_of(colour.convert("L" if self.channels == 1 else "RGB"))
        return to_uint8(pixels, place, self.byte_range) if is_byte else pixels

    def _tiff_channels(
        self, header: TiffHeader, values: np.ndarray, path: Path | str
    ) -> np.ndarray:
        """Return (H,W,C) of the model's channels, or the samples of colours yet to be converted."""
        if header.is_lab and self.channels in (1, 3):
            raise SegtrainError(f"{path}: CIELAB colours; save it as RGB")
        if self.channels in (1, 3) and header.colours > 1:
            return values[..., : header.colours]
        if self.channels in (1, 3) and header.colours:
            values = values.reshape(*values.shape[:2], -1)[..., :1]  # without alpha
        if header.pages == 1 and values.shape[2:] not in ((), (1,), (self.channels,)):
            raise self._wrong_channels(path, f"an array of shape {values.shape}")
        return self._as_channels(values, path)

    def _refuse_other_bands(self, image: Image.Image, path: Path) -> None:
        if self.channels not in (1, 3) and len(image.getbands()) != self.channels:
            raise self._wrong_channels(path, f"{len(image.getbands())} channels ({image.mode})")

    def _as_channels(self, values: np.ndarray, path: Path | str) -> np.ndarray:
        """Return (H,W,C) in the file's type; channels may come first in the file."""
        shape = values.shape
        if values.ndim == 2:
            values = values[..., None]
        elif values.ndim == 3 and shape[2] not in (1, self.channels):
            if shape[0] in (1, self.channels):
                values = values.transpose(1, 2, 0)
        if values.ndim == 3 and values.shape[2] == 1 and self.channels == 3:
            values = np.broadcast_to(values, (*values.shape[:2], 3))  # takes no memory
        if values.ndim != 3 or values.shape[2] != self.channels or not values.size:
            raise self._wrong_channels(path, f"an array of shape {shape}")
        return values

    def _wrong_channels(self, path: Path | str, found: str) -> SegtrainError:
        return SegtrainError(
            f"{path}: {found}, but model.in_channels is {self.channels}; set it to the number of "
            "channels of the images (3 also reads grey)"
        )


def to_uint8(
    values: np.ndarray, path: Path | str, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Scale values of any real type to 0..255. Raises SegtrainError where the range is unknown."""
    if value_range is None and values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if value_range is None and values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if value_range is None and values.dtype == bool:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iufb" or not np.isfinite(values).all():
        raise SegtrainError(
            f"{path}: values of type {values.dtype} that are not all finite numbers; fix the file"
        )
    lowest, highest = float(values.min()), float(values.max())
    low, high = value_range or (0.0, 1.0)
    if value_range is None and (values.dtype.kind != "f" or lowest < 0 or highest > 1):
        raise SegtrainError(
            f"{path}: values of type {values.dtype} from {lowest:g} to {highest:g}; name those "
            "that become black and white: data.value_range: [LOWEST, HIGHEST]"
        )
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def pixels_of(image: Image.Image) -> np.ndarray:
    """Return the pixels (H,W,C) of a decoded image.

    A large one is copied in bands: NumPy's conversion would need the memory twice.
    """
    rows = max(1, BAND // image.width)
    if image.height <= rows:
        return np.asarray(image).reshape(image.height, image.width, -1)
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        pixels[top:bottom] = band.reshape(bottom - top, image.width, -1)
    return pixels


def read_size(path: Path, max_pixels: int = MAX_PIXELS, upright: bool = True) -> tuple[int, int]:
    """Return (height, width) of an image file, after EXIF's rotation if `upright`, unread."""
    if path.suffix.lower() == ".npy":
        first, *_, last = shape = read_array(path, max_pixels).shape
        # as ImageReader takes them for 3 channels, else the shorter axis has the channels
        is_last = len(shape) < 3 or last in (1, 3) or first not in (1, 3) and last <= first
        return shape[:2] if is_last else shape[1:3]
    if not is_tiff(path):
        return image_size(path, max_pixels, upright)
    header = read_tiff_header(path, max_pixels)
    height, width = header.shape[:2] if header.pages == 1 else header.shape[-2:]
    turned = upright and header.orientation in ROTATED_ORIENTATIONS
    return (width, height) if turned else (height, width)


def read_header(path: Path) -> tuple[int, bool, bool]:
    """Return (EXIF's orientation, has alpha, holds 16-bit integers) of an image.

    For an image whose size was found to be allowed.
    """
    with translate_decoding(path):
        if path.suffix.lower() == ".npy":
            return 1, False, map_array(path).dtype == np.uint16
        if is_tiff(path):
            header = read_tiff_header(path, NO_LIMIT)
            return header.orientation, header.has_alpha, header.dtype == np.uint16
        with open_known(path) as image:
            deep = is_deep(raw_modes(image)) or image.mode.startswith("I")
            return read_orientation(image), image.mode in ALPHA_MODES, deep
