"""Masks as their files have them: grey levels, palette indices, category ids or colours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segtrain.data.areas import Area, MaskArea
from segtrain.data.decoding import (
    MAX_PIXELS,
    is_deep,
    is_lossless_webp,
    open_image,
    read_array,
    read_deep_png,
    read_netpbm,
    turn_upright,
)
from segtrain.data.drawn import DrawnMask
from segtrain.data.tiff import TiffHeader, is_tiff, read_tiff
from segtrain.data.tiff_parts import TiffAccess, open_parts
from segtrain.errors import SegtrainError

MaskSource = Path | DrawnMask | MaskArea
CHANNELS = 4  # of a TIFF that is a mask, at most
SPREAD = {"'L;2'": 85, "'L;4'": 17}  # by Pillow's raw mode
GREY_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "LA", "PA"}
# stands for NaN, infinity and nodata values beyond 64 bits, which are no whole numbers
NAN_VALUE = -(2**31)
TOO_LARGE = 2.0**63


@dataclass(frozen=True)
class StoredMask:
    """The values of a mask as its file has them, and what the file says of them."""

    values: np.ndarray  # (H,W) grey levels, palette indices or ids, or (H,W,3) uint8 colours
    lossy: bool = False  # compressed with loss, as JPEG is
    palette: np.ndarray | None = None  # (n,3) uint8 colours of an indexed file's indices
    nodata: float | None = None  # the value that a GeoTIFF's own tag names; NAN_VALUE for NaN


def read_mask(source: MaskSource, max_pixels: int = MAX_PIXELS, upright: bool = True) -> StoredMask:
    """Read a mask, turned as EXIF says if `upright`.

    Raises SegtrainError for a damaged file and for one that can't be a mask.
    """
    if isinstance(source, MaskArea):
        return _read_area(source.source, source.area, max_pixels, upright)
    if isinstance(source, DrawnMask):
        return StoredMask(source.values(max_pixels))
    if source.suffix.lower() == ".npy":
        values = _merge_bands(read_array(source, max_pixels), source)
        return StoredMask(_whole_numbers(values, source))
    if is_tiff(source):
        return _from_tiff(source, *read_tiff(source, max_pixels), upright)
    mask = open_image(source, max_pixels, upright)
    if mask.mode not in GREY_MODES | {"RGB", "RGBA", "F"}:
        raise _no_mask(source, mask.mode)
    # Pillow's name for a JPEG with previews, as phones write it, is MPO
    lossy = mask.format in ("JPEG", "MPO") or mask.format == "WEBP" and not _is_lossless(source)
    values = np.asarray(mask)
    if is_deep(mask.info["raw"]) and values.ndim == 3:  # Pillow halves these
        values = read_deep_png(source)
        values = turn_upright(values, mask.info["orientation"]) if upright else values
    elif mask.format == "PPM" and mask.mode != "1":  # Pillow scales these to the whole range
        values = read_netpbm(source, values.shape)
    # Pillow spreads 2 and 4 bits over 0..255: undo that to get the ids
    spread = next((step for raw, step in SPREAD.items() if raw in mask.info["raw"]), 1)
    palette = mask.getpalette("RGB") if mask.mode in ("P", "PA") else None
    colours = np.array(palette, np.uint8).reshape(-1, 3) if palette else None
    values = _without_alpha(values, source) if palette is None else values
    values = values // spread if spread > 1 else values
    return StoredMask(_whole_numbers(values, source), lossy, colours)


def _read_area(source: Path | DrawnMask, area: Area, max_pixels: int, upright: bool) -> StoredMask:
    """Read an area of a mask; only of a TIFF no more than that is decoded."""
    if isinstance(source, Path) and is_tiff(source):
        with open_parts(source, TiffAccess(CHANNELS, max_pixels, upright)) as parts:
            _refuse_other_size(source, parts.size, area)
            values = parts.read_values(area.rows, area.columns)
        return _from_tiff(source, parts.header, values, upright)
    mask = read_mask(source, max_pixels, upright)
    _refuse_other_size(source, mask.values.shape[:2], area)
    return replace(mask, values=mask.values[area.rows, area.columns])


def _refuse_other_size(source: Path | DrawnMask, size: tuple[int, ...], area: Area) -> None:
    if size != area.whole:
        (height, width), (high, wide) = size, area.whole
        raise SegtrainError(
            f"{source} is {width}x{height} (width x height), its image {wide}x{high}"
        )


def _from_tiff(path: Path, header: TiffHeader, values: np.ndarray, upright: bool) -> StoredMask:
    if not header.has_plain_values:
        raise _no_mask(path, header.kind)
    axes = _class_axes(values) if values.ndim == 3 and values.max() <= 1 else None
    hot = axes is not None and 2 in axes  # pure colours go up to 255
    if hot and header.pages == 1:
        values = _merge_bands(values, path)
    elif header.pages > 1:
        if not _class_axes(values):
            raise SegtrainError(f"{path}: {header.pages} pages, but a mask is one image")
        values = _merge_bands(values, path)
    elif values.ndim == 3 and header.colours:
        # an area may well have one class only, and nodata beside it
        colours = header.colours + (values.shape[:2] == header.shape[:2])
        values = _without_alpha(values[..., :colours], path)
    elif values.ndim == 3:
        values = _merge_bands(values, path)
    values = turn_upright(values, header.orientation) if upright else values
    nodata = header.nodata
    if nodata is not None and not abs(nodata) < TOO_LARGE:
        nodata = NAN_VALUE
    return StoredMask(_whole_numbers(values, path), header.lossy, header.palette, nodata)


def _no_mask(path: Path, kind: str) -> SegtrainError:
    return SegtrainError(f"{path}: masks are grey, palette or RGB images, this one is {kind}")


def _is_lossless(path: Path) -> bool:
    with open(path, "rb") as file:
        return is_lossless_webp(file.read(64))


def _without_alpha(values: np.ndarray, path: Path) -> np.ndarray:
    """Return grey or colours without the alpha channel; refuse labels that lie in it alone."""
    if values.ndim == 2 or values.shape[2] in (1, 3):
        return values[..., 0] if values.shape[2:] == (1,) else values
    colours, alpha = values[..., :-1], values[..., -1]
    if (colours == colours[0, 0]).all() and (alpha != alpha[0, 0]).any():
        raise SegtrainError(
            f"{path}: only its alpha channel varies ({len(np.unique(alpha))} values), and alpha "
            "is not read; save that channel as a grey image"
        )
    return colours[..., 0] if colours.shape[2] == 1 else colours


def _merge_bands(values: np.ndarray, path: Path) -> np.ndarray:
    """Return (H,W) ids of bands (H,W,C) or (C,H,W) that are one class each, or (H,W,3) colours."""
    if values.ndim == 4 and values.shape[0] == 1:  # a batch of one
        values = values[0]
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim == 2:
        return values
    axes = _class_axes(values)
    colours = values.ndim == 3 and values.shape[2] == 3 and values.dtype.kind in "iu"
    if axes == [2] or axes == [0] and not colours:
        return values.argmax(axes[0]).astype(np.uint16)
    if colours:
        return values
    found = "" if axes is None else ", of bands that are not one class at each pixel (one-hot)"
    if axes:
        found = ", one-hot along its first and its last axis"
    elif values.ndim == 3 and values.dtype.kind == "f":
        if any(np.allclose(values.sum(axis), 1, atol=1e-3) for axis in (0, 2)):
            found = ", probabilities of classes"
    advice = "; save the class ids" if found else ""
    raise SegtrainError(
        f"{path}: expected a mask of height x width, got {values.shape}{found}{advice}"
    )


def _class_axes(values: np.ndarray) -> list[int] | None:
    """Return the axes along which bands are one-hot, None where bands hold more than two values."""
    if values.ndim != 3 or values.dtype.kind not in "biuf" or not values.size:
        return None
    # three bytes of 0 and 255 are colours
    high = values.max() if values.shape[2] != 3 else 1
    if not ((values == 0) | (values == high)).all():
        return None
    return [axis for axis in (0, 2) if (np.count_nonzero(values, axis) == 1).all()]


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Return values (H,W), or colours (H,W,3), as integers or bools that fit into 64 bits."""
    if values.ndim == 2 and values.dtype.kind == "f":  # GIS tools save class ids as floats
        values = values.astype(np.float32) if values.dtype == np.float16 else values
        outside = ~(np.abs(values) < TOO_LARGE)  # NaN, too
        whole = np.where(outside, NAN_VALUE, values)
        if (whole == np.rint(whole)).all():
            return whole.astype(np.int64)
    if values.dtype == np.uint64:
        return np.where(values >= np.uint64(2**63), NAN_VALUE, values.astype(np.int64))
    if values.dtype.kind not in "iub":
        raise SegtrainError(f"{path}: expected whole numbers as mask values, got {values.dtype}")
    return values if values.ndim == 2 or values.dtype == np.uint8 else _as_bytes(values, path)


def _as_bytes(colours: np.ndarray, path: Path) -> np.ndarray:
    """Return colours (H,W,3) of more than 8 bits as uint8, or as (H,W) values if all are grey."""
    if 0 <= colours.min() and colours.max() <= 255:
        return colours.astype(np.uint8)
    if colours.dtype == np.uint16 and not (colours % 257).any():
        return (colours // 257).astype(np.uint8)
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    raise SegtrainError(
        f"{path}: colours of {colours.dtype} up to {colours.max()}, which 8 bits can't hold; save "
        "the class ids as a grey image, or colours of 8 bits"
    )
