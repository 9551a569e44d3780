"""The place of a raster on the map: tags of a GeoTIFF, checked and copied as they are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tifffile import TiffPage

from segtrain.errors import SegtrainError

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION = 33550, 33922, 34264
DIRECTORY, DOUBLES, TEXTS = 34735, 34736, 34737
RATIONAL_POLYNOMIALS = 50844
PLACING = (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, DIRECTORY, RATIONAL_POLYNOMIALS)
GEOGRAPHIC, PROJECTED, USER_DEFINED = 2048, 3072, 32767  # keys of EPSG codes, and one that is none
RASTER_TYPE, PIXEL_IS_POINT = 1025, 2  # a key, and its value where tags map centres of pixels
HALF_BACK = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
TOLERANCE = 0.01  # pixels by which two ways to say a place may differ

StoredTag = tuple[int, int, int, bytes]  # code, type, count, and the value in the file's byte order


@dataclass(frozen=True)
class Georeference:
    """Tags of a GeoTIFF that place it on the map."""

    tags: list[StoredTag]
    # maps (column, row, 1) of a pixel's corner to (x, y); None where the tags have no such map
    affine: np.ndarray | None  # (2,3)
    epsg: int | None = None  # code of the system of x and y


def is_georeferenced(page: TiffPage) -> bool:
    """Return whether a TIFF's image has a place on the map."""
    return any(code in page.tags for code in PLACING)


def read_georeference(page: TiffPage, path: Path) -> Georeference:
    """Return the tags of an image. Raise SegtrainError where they contradict themselves.

    Format: OGC GeoTIFF 1.1, sections 7.1 and B.6.
    """
    handle, tags = page.parent.filehandle, []
    for tag in page.tags:
        if tag.code in (*PLACING, DOUBLES, TEXTS):
            handle.seek(tag.valueoffset)
            tags.append((tag.code, int(tag.dtype), tag.count, handle.read(tag.valuebytecount)))
    try:
        keys = _read_keys(page)
        code = keys.get(PROJECTED, keys.get(GEOGRAPHIC, USER_DEFINED))
        affine = _find_affine(page)
        epsg = code if affine is not None and 0 < code < USER_DEFINED else None
        if affine is not None and keys.get(RASTER_TYPE) == PIXEL_IS_POINT:
            affine = affine @ HALF_BACK
        return Georeference(tags, affine, epsg)
    except ValueError as error:
        raise SegtrainError(
            f"{path}: its georeference contradicts itself: {error}; correct the tags, or remove "
            "them to predict it as a plain image"
        ) from error


def _read_numbers(page: TiffPage, code: int, divisor: int) -> np.ndarray | None:
    """Return the numbers of a tag as rows of `divisor`, None where there is no such tag."""
    if (tag := page.tags.get(code)) is None:
        return None
    numbers = np.atleast_1d(np.asarray(tag.value))
    if numbers.dtype.kind not in "iuf" or not numbers.size or numbers.size % divisor:
        raise ValueError(f"{tag.name} has {numbers.size} values, not {divisor} or a multiple")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{tag.name} has values that are not finite")
    return numbers.astype(float).reshape(-1, divisor)


def _find_affine(page: TiffPage) -> np.ndarray | None:
    scale = _read_numbers(page, PIXEL_SCALE, 3)
    ties = _read_numbers(page, TIE_POINTS, 6)
    matrix = _read_numbers(page, TRANSFORMATION, 16)
    found: list[tuple[str, np.ndarray]] = []
    if scale is not None:
        if not scale[0, :2].all():
            raise ValueError("a pixel's size is 0 (ModelPixelScaleTag)")
        # the second number is the height of a pixel, and rows run south: also where it is negative,
        # and from 0 where nothing is tied, as GDAL reads it
        a, e = scale[0, 0], -abs(scale[0, 1])
        for column, row, _, x, y, _ in np.zeros((1, 6)) if ties is None else ties:
            affine = np.array([[a, 0, x - a * column], [0, e, y - e * row]])
            found.append(("another tie point (ModelTiepointTag)", affine))
    if matrix is not None:
        affine = matrix[0].reshape(4, 4)[:2, [0, 1, 3]]
        if np.linalg.det(affine[:, :2]) == 0:
            raise ValueError("ModelTransformationTag maps all pixels to one line")
        found.append(("ModelTransformationTag", affine))
    corners = np.array([[0, 0, 1], [page.imagewidth, 0, 1], [0, page.imagelength, 1]]).T
    for (_, one), (name, other) in pairwise(found):
        pixel = np.abs(one[:, :2]).sum(1, keepdims=True)
        if (np.abs(one @ corners - other @ corners) > TOLERANCE * pixel).any():
            raise ValueError(f"pixels are elsewhere by ModelPixelScaleTag than by {name}")
    return found[0][1] if found else None


def _read_keys(page: TiffPage) -> dict[int, int]:
    """Return the numbers in the directory of keys.

    Raise ValueError where it names values that are not there.
    """
    keys = _read_numbers(page, DIRECTORY, 1)
    if keys is None:
        return {}
    counts = {DIRECTORY: len(keys)}
    for code in (DOUBLES, TEXTS):
        counts[code] = page.tags[code].count if code in page.tags else 0
    named = int(keys[3, 0]) if len(keys) > 3 else 0
    if len(keys) < 4 or keys[0] != 1 or 4 + 4 * named > len(keys):
        raise ValueError(f"GeoKeyDirectoryTag has {len(keys)} values, and names {named} keys")
    for key, place, count, first in keys[4 : 4 + 4 * named].reshape(-1, 4).astype(int):
        if place and first + count > counts.get(place, 0):
            raise ValueError(f"GeoKey {key} is beyond the values of tag {place}")
    rows = keys[4 : 4 + 4 * named].reshape(-1, 4).astype(int).tolist()
    return {key: value for key, place, _, value in rows if not place}
