"""Image files to upright uint8 pixels with the channels that the model takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.decoding import (
    MAX_PIXELS,
    TIFF_SUFFIXES,
    count_pages,
    is_deep,
    open_upright,
    raw_modes,
    read_array,
    translate_decoding,
    upright_size,
)
from segtrain.errors import SegtrainError

BAND = 1 << 22  # pixels converted at a time


@dataclass(frozen=True)
class ImageReader:
    """A reader of images as (H,W,channels) uint8, upright.

    3 channels are RGB (grey repeated, alpha dropped, CMYK and palettes converted), 1 is grey; any
    other number must be the file's own. `value_range` has the values that become 0 and 255: by
    default the whole range of an integer type (16 bits keep their upper 8), 0 to 1 for floats.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: Path) -> np.ndarray:
        """Raise SegtrainError for a file that is not one whole image of these channels."""
        if self._is_array(path):
            return to_uint8(self._array(path), path, self.value_range)
        image = open_upright(path, self.max_pixels)
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
        return to_uint8(pixels, path, self.value_range) if self.value_range else pixels

    def size(self, path: Path) -> tuple[int, int]:
        """Return (height, width) after the EXIF rotation, from the header (a TIFF is decoded)."""
        if self._is_array(path):
            return self._array(path).shape[:2]
        size = upright_size(path, self.max_pixels)
        with Image.open(path) as image:
            self._refuse_other_bands(image, path)
        return size

    def _is_array(self, path: Path) -> bool:
        """Return whether NumPy or tifffile must read the file, because Pillow can't as meant."""
        if path.suffix.lower() in TIFF_SUFFIXES:
            return not self._is_photo(path)
        return path.suffix.lower() == ".npy"

    def _is_photo(self, path: Path) -> bool:
        """Return whether a TIFF has one page, of these channels and of a mode that Pillow reads."""
        try:
            with translate_decoding(path), Image.open(path) as image:
                known = self.channels in (1, 3) or len(image.getbands()) == self.channels
                # Pillow reads 16-bit colour with 8 bits: enough for photos, not for a value range
                colour_is_deep = is_deep(raw_modes(image)) and image.mode != "I;16"
                whole = not (colour_is_deep and (self.value_range or self.channels not in (1, 3)))
                return known and whole and count_pages(image) == 1
        except SegtrainError:  # tifffile may read it, or says what is wrong
            return False

    def _refuse_other_bands(self, image: Image.Image, path: Path) -> None:
        if self.channels not in (1, 3) and len(image.getbands()) != self.channels:
            raise self._wrong_channels(path, f"{len(image.getbands())} channels ({image.mode})")

    def _array(self, path: Path) -> np.ndarray:
        values, orientation = read_array(path, self.max_pixels, self.channels)
        return UPRIGHT.get(orientation, np.asarray)(self._as_channels(values, path))

    def _as_channels(self, values: np.ndarray, path: Path) -> np.ndarray:
        """Return (H,W,C) in the file's type; channels may come first in the file."""
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
            f"{path}: {found}, but model.in_channels is {self.channels}; set it to the number of "
            "channels of the images (3 also reads grey)"
        )


# orientation of TIFF and EXIF: how to turn (H,W,C) values upright
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
