"""Polygons in a text file (YOLO) or a JSON (labelme) for each image, to masks."""

from __future__ import annotations

import base64
import io
import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.data.coco import whole_number
from segtrain.data.decoding import MAX_PIXELS
from segtrain.data.drawn import DrawnMask
from segtrain.data.formats import open_known
from segtrain.data.images import read_size
from segtrain.data.regions import Region, RegionMask, Shape, draw_regions, pack_polygons
from segtrain.errors import SegtrainError, first_line, translate_errors

MOST_OUTSIDE = 0.5  # of the image's side: more is no rounding, the numbers are no fractions
CIRCLE = 360  # corners of the polygon that stands for a circle
LINES = ("line", "linestrip", "point", "points")  # labelme's shapes without an area
BACKGROUND, IGNORED = "_background_", "__ignore__"  # labelme's names


@dataclass(frozen=True)
class YoloMask(DrawnMask):
    """The mask of one image, drawn from the lines "class x y x y ..." of a text file.

    x and y are fractions of the image, upright as labelling tools show it unless data.exif is
    false. Class i has the value i + 1; the background is 0, and all there is without a file.
    """

    image: Path
    file: Path | None
    num_classes: int
    upright: bool = True

    def __str__(self) -> str:
        return str(self.file or f"{self.image} (no file of polygons)")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file, self.image) if self.file else (self.image,)

    def values(self, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        size = read_size(self.image, max_pixels, self.upright)

        def explain(error: Exception) -> str:
            return f"{self}: {first_line(error)}; fix it, or exclude the image with data.exclude"

        with translate_errors(explain):
            lines = self.file.read_text(encoding="utf-8-sig").splitlines() if self.file else []
            regions = [
                self._region(line, number, size)
                for number, line in enumerate(lines, 1)
                if line.strip()
            ]
            return draw_regions(regions, size, 0)

    def _region(self, line: str, number: int, size: tuple[int, int]) -> Region:
        first, *rest = map(float, line.split())
        class_id = whole_number(first)
        if class_id is None or not 0 <= class_id < self.num_classes:
            raise ValueError(f"line {number}: class {first:g}, expected 0..{self.num_classes - 1}")
        if len(rest) == 4:
            raise ValueError(f"line {number} is a box (class x y width height), not a polygon")
        if len(rest) < 6 or len(rest) % 2:
            raise ValueError(
                f"line {number}: expected a class and x y of three points or more, got "
                f"{1 + len(rest)} numbers"
            )
        points = np.array(rest).reshape(-1, 2)
        if not (np.abs(points - 0.5) <= 0.5 + MOST_OUTSIDE).all():  # false for NaN
            raise ValueError(
                f"line {number}: expected fractions of the image's width and height, not pixels"
            )
        return class_id + 1, (array("d", (points * size[::-1]).ravel()),)


def is_yolo(text: str) -> tuple[int, int]:
    """Return how many lines of YOLO's text are polygons, and how many boxes; (0, 0) for others."""
    polygons = boxes = 0
    for line in text.splitlines():
        words = line.split()
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            return 0, 0
        if numbers and (len(numbers) < 5 or not numbers[0].is_integer()):
            return 0, 0
        polygons += len(numbers) > 6
        boxes += len(numbers) in (5, 6)  # or with a confidence
    return polygons, boxes


@dataclass
class LabelmeFile:
    """The content of labelme's JSON of one image."""

    file: Path
    size: tuple[int, int] | None = None
    shapes: list[tuple[str, Shape]] = field(default_factory=list)  # label, region
    undrawn: Counter[str] = field(default_factory=Counter)  # by type: lines and points
    fault: str = ""
    is_labelme: bool = False  # as far as it can be read

    def draw(self, values: Mapping[str, int], image: Path, upright: bool) -> RegionMask:
        """Return the mask, with the value of each label; labelme shows images upright."""
        unknown = [label for label, _ in self.shapes if label not in values]
        fault = f"label {unknown[0]!r} is none of the classes" if unknown else self.fault
        regions = tuple((values.get(label, 0), shape) for label, shape in self.shapes)
        return RegionMask(self.file, None, self.size, 0, regions, fault, image, upright)


def read_labelme(file: Path) -> LabelmeFile:
    """Read labelme's JSON. A fault is kept: it is that image's alone."""
    read = LabelmeFile(file)
    try:
        with translate_errors(lambda error: f"not labelme's JSON of an image ({error!r})"):
            encoded = file.read_bytes()
            read.is_labelme = b'"shapes"' in encoded
            content = json.loads(encoded)
            sides = content.get("imageHeight"), content.get("imageWidth")
            if any(side not in (None, 0) for side in sides):
                height, width = map(whole_number, sides)
                if height is None or width is None or min(height, width) < 1:
                    raise ValueError(f"imageHeight {sides[0]!r}, imageWidth {sides[1]!r}")
                read.size = height, width
            for entry in content["shapes"]:
                kind = entry.get("shape_type") or "polygon"
                if kind in LINES:
                    read.undrawn[kind] += 1
                    continue
                if not (label := entry["label"].strip()):
                    raise ValueError("a shape without a label")
                shape = _read_shape(kind, entry, read.size)
                if shape:
                    read.shapes.append((label, shape))
                else:
                    read.undrawn[f"{kind} of fewer than three points"] += 1
    except SegtrainError as error:
        read.fault = str(error)
    return read


def _read_shape(kind: str, entry: Mapping[str, Any], size: tuple[int, int] | None) -> Shape:
    points = entry["points"]
    if kind == "mask":
        return _read_crop(entry["mask"], points, size)
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [math.tau * i / CIRCLE for i in range(CIRCLE)]
        points = [[x + radius * math.cos(t), y + radius * math.sin(t)] for t in turns]
    elif kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    elif kind not in ("polygon", "rectangle", "rotation"):
        raise ValueError(f"a shape of type {kind}")
    return pack_polygons([points])


def _read_crop(encoded: str, corners: Sequence, size: tuple[int, int] | None) -> array:
    """Return the run lengths of a mask that covers the box between two corners, both included."""
    if size is None:
        raise ValueError("a mask without imageHeight and imageWidth")
    (left, top), (right, bottom) = ([round(number) for number in corner] for corner in corners)
    height, width = bottom - top + 1, right - left + 1
    with open_known(io.BytesIO(base64.b64decode(encoded))) as image:
        inside = min(left, top) >= 0 and right < size[1] and bottom < size[0]
        if image.size != (width, height) or not inside or width * height > MAX_PIXELS:
            raise ValueError(f"a mask of {image.size} pixels in a box of {(width, height)}")
        columns = np.zeros((width, height + 1), np.int8)  # the last pixel of each ends a run
        columns[:, :height] = (np.asarray(image) != 0).T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=np.int8(0)))
    pixels = (edges // (height + 1) + left) * size[0] + edges % (height + 1) + top
    return array("q", np.diff(pixels, prepend=0, append=size[0] * size[1]).tolist())
