"""Masks drawn from regions: polygons and run lengths, smaller regions over larger ones."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from segtrain.data.decoding import MAX_PIXELS, refuse_bomb
from segtrain.data.drawn import DrawnMask
from segtrain.data.images import read_size
from segtrain.errors import SegtrainError, first_line, translate_errors

LARGEST_VALUE = 65_534  # mask readers hold a table of all values
LARGE = 1 << 22  # pixels: a smaller mask is drawn before sizes are compared
LONGEST_OUTLINE = 1 << 22  # px: drawing a polygon takes about 100 bytes for each
# polygons (flat x, y, x, y, ...), or run lengths down the columns, outside first, or these in
# COCO's compressed text
Polygons = tuple[array, ...]
Shape = Polygons | array | bytes
Region = tuple[int, Shape]  # value in the mask, shape


@dataclass(frozen=True)
class RegionMask(DrawnMask):
    """The mask of one image, drawn from its regions at each reading."""

    in_memory = True

    file: Path  # with the regions
    image_id: int | str | None = None  # in a file of several images
    size: tuple[int, int] | None = None  # (height, width); None where only the image has it
    background: int = 0  # the value where no region is
    regions: tuple[Region, ...] = field(default=(), repr=False, compare=False)
    fault: str = field(default="", compare=False)  # why it can't be drawn
    image: Path | None = field(default=None, compare=False)  # which has the size
    upright: bool = True  # after EXIF's rotation

    def __str__(self) -> str:
        return str(self.file) + (f" (image {self.image_id})" if self.image_id is not None else "")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def values(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return (H,W) values of the regions, `background` elsewhere, smaller over larger."""
        if self.fault:
            raise SegtrainError(self._explain(self.fault))
        if self.size is None and self.image is None:
            raise SegtrainError(self._explain("its height and width are missing"))
        size = self.size or read_size(self.image or self.file, max_pixels, self.upright)
        # before anything of that size is allocated
        if self.image and self.size and math.prod(self.size) > LARGE:
            self._refuse_other_size(self.image, self.size)
        refuse_bomb(Path(str(self)), size, max_pixels)
        with translate_errors(lambda error: self._explain(first_line(error))):
            return draw_regions(self.regions, size, self.background)

    def _refuse_other_size(self, image: Path, size: tuple[int, int]) -> None:
        """Raise SegtrainError where an image has less pixels than the JSON says."""
        height, width = read_size(image, sys.maxsize, self.upright)
        if height * width < math.prod(size):
            says = f"{self.file.name} says {size[1]}x{size[0]}, and {image} is {width}x{height}"
            raise SegtrainError(self._explain(says))

    def _explain(self, fault: str) -> str:
        return f"{self}: {fault}; fix it, or exclude the image with data.exclude"


def draw_regions(regions: Iterable[Region], size: tuple[int, int], background: int) -> np.ndarray:
    """Return (H,W) values, uint8 or uint16. Raises ValueError for a region that doesn't fit."""
    height, width = size
    # arrays: lists of Python numbers would take several times the memory
    drawn = [(value, array("q", _run_lengths(shape, size))) for value, shape in regions]
    drawn.sort(key=lambda region: -sum(region[1][1::2]))  # area: each second run is inside
    highest = max([background, *(value for value, _ in drawn)])
    columns = np.full(height * width, background, np.min_scalar_type(highest))
    for value, runs in drawn:
        ends = list(accumulate(runs))
        for start, end in zip(ends[::2], ends[1::2], strict=False):  # may end outside
            columns[start:end] = value
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _run_lengths(shape: Shape, size: tuple[int, int]) -> Sequence[int]:
    """Return run lengths down the columns, the first of them outside the region."""
    if isinstance(shape, tuple):
        from pycocotools import mask as rle

        for polygon in shape:
            _check_polygon(polygon, 2 * max(size))
        parts = rle.frPyObjects([list(polygon) for polygon in shape], *size)
        shape = bytes(rle.merge(parts)["counts"])
    # pycocotools leaves pixels that no run covers uninitialised
    runs: Sequence[int] = unpack_runs(shape) if isinstance(shape, bytes) else shape
    pixels = size[0] * size[1]
    if sum(runs) != pixels or min(runs) < 0:
        raise ValueError(f"the run lengths of a region cover {sum(runs)} of {pixels} pixels")
    return runs


def _check_polygon(polygon: array, far: int) -> None:
    """Raise ValueError for a polygon that would take gigabytes to draw."""
    points = np.frombuffer(polygon).reshape(-1, 2)
    if not (np.abs(points) <= far).all():  # false for NaN
        raise ValueError("a polygon has a point far outside the image")
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if steps.sum() > LONGEST_OUTLINE:
        raise ValueError(f"the outline of a polygon is longer than {LONGEST_OUTLINE} pixels")


def unpack_runs(counts: bytes) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    5 bits a character; from the third number on, differences to the one before the last. Text that
    ends within a number, or has one of over 60 bits, gives [-1], which is refused as a run length.
    """
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            return [-1]
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs if runs and not shift else [-1]


def pack_runs(runs: list[int], size: tuple[int, int]) -> str:
    """Return run lengths of an image of (height, width) as COCO's compressed text."""
    from pycocotools import mask as rle

    packed = rle.frPyObjects({"counts": runs, "size": list(size)}, *size)["counts"]
    return str(packed, "ascii")


def pack_polygons(polygons: Sequence) -> Polygons:
    """Return polygons of flat or paired numbers; those of fewer than three points draw nothing.

    One polygon alone may also be given. Raises ValueError or TypeError for anything else.
    """
    # a polygon of one point is none: these are the points of one polygon
    points = len(polygons) > 2 and all(isinstance(p, list) and len(p) == 2 for p in polygons)
    if polygons and (points or not isinstance(polygons[0], (list, tuple))):
        polygons = [polygons]
    packed = [_pack_polygon(polygon) for polygon in polygons]
    return tuple(polygon for polygon in packed if len(polygon) >= 6)


def _pack_polygon(polygon: Sequence) -> array:
    if polygon and isinstance(polygon[0], (list, tuple)):
        polygon = [number for x, y in polygon for number in (x, y)]
    # an array: a list of Python numbers would take several times the memory
    numbers = array("d", polygon)
    if len(numbers) % 2:
        raise ValueError("a polygon with half a point")
    return numbers
