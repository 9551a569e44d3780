"""COCO JSON: categories, images, and masks that are drawn from their regions when read."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.data.drawn import DrawnMask
from segtrain.errors import SegtrainError, translate_errors

LARGEST_ID = 65_534  # mask readers hold a table of all values
MOST_PIXELS = 2**31
# a region is polygons (flat x, y, x, y, ...), or run lengths down the columns, outside first, or
# these in COCO's compressed text
Polygons = tuple[array, ...]
Region = tuple[int, Polygons | array | bytes]  # category id, shape


@dataclass(frozen=True)
class CocoMask(DrawnMask):
    """The mask of one image of a COCO JSON, drawn from its regions at each reading."""

    file: Path
    image_id: int | str
    height: int
    width: int
    background: int = 0  # the value where no region is
    regions: tuple[Region, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.file} (image {self.image_id})"

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.height, self.width

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    def values(self, max_pixels: int = MOST_PIXELS) -> np.ndarray:
        """Return (H,W) int32 category ids, `background` elsewhere, smaller regions over larger.

        Raises SegtrainError for run lengths that don't fit the image.
        """
        drawn = [(category, self._run_lengths(shape)) for category, shape in self.regions]
        drawn.sort(key=lambda region: -sum(region[1][1::2]))  # area: each second run is inside
        columns = np.full(self.height * self.width, self.background, np.int32)
        for category, runs in drawn:
            ends = list(accumulate(runs))
            for start, end in zip(ends[::2], ends[1::2], strict=False):  # may end outside
                columns[start:end] = category
        return np.ascontiguousarray(columns.reshape(self.width, self.height).T)

    def _run_lengths(self, shape: Polygons | array | bytes) -> Sequence[int]:
        """Return run lengths down the columns, the first of them outside the region."""
        if isinstance(shape, tuple):
            from pycocotools import mask as rle

            parts = rle.frPyObjects([list(polygon) for polygon in shape], *self.size)
            shape = bytes(rle.merge(parts)["counts"])
        # pycocotools leaves pixels that no run covers uninitialised
        runs: Sequence[int] = unpack_runs(shape) if isinstance(shape, bytes) else shape
        if sum(runs) != self.height * self.width or min(runs) < 0:
            raise SegtrainError(
                f"{self}: the run lengths of a region cover {sum(runs)} pixels, the image has "
                f"{self.height * self.width}; fix the JSON, or exclude the image with data.exclude"
            )
        return runs


def unpack_runs(counts: bytes) -> list[int]:
    """Return the run lengths of COCO's compressed text.

    5 bits a character; from the third number on, differences to the one before the last. Text that
    ends within a number gives [-1], which is refused as a run length.
    """
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64:
            return [-1]
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs if runs and not shift else [-1]


@dataclass(frozen=True)
class Coco:
    """The content of one JSON: names by category id, and (file name, mask) of each image."""

    file: Path
    categories: dict[int, str]
    images: list[tuple[str, CocoMask]]
    boxes: list[str]  # file names of images with an annotation that has no segmentation
    slivers: int  # annotations whose polygons have fewer than three points: they draw nothing


def read_coco(file: Path) -> Coco:
    """Read a COCO JSON. Raises SegtrainError for another JSON or one that contradicts itself."""
    content = _read_lists(file)
    categories = _read_categories(file, content["categories"])
    background = background_value(categories)
    images = {_check_image(file, entry): entry for entry in content["images"]}
    if len(images) < len(content["images"]):
        raise SegtrainError(f"{file}: two images have one id")
    regions: dict[int | str, list[Region]] = {key: [] for key in images}
    boxes, slivers = set(), 0
    for annotation in content["annotations"]:
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image, (int, str)) or image not in regions:
            raise SegtrainError(f"{file}: an annotation of image {image!r}, which images lacks")
        if not isinstance(category, int) or category not in categories:
            raise SegtrainError(
                f"{file}: an annotation of category {category!r}, which categories lacks"
            )
        segmentation = annotation.get("segmentation")
        shape = _pack_shape(file, segmentation, images[image]) if segmentation else ()
        if shape:
            regions[image].append((category, shape))
        elif segmentation:
            slivers += 1
        else:
            boxes.add(images[image]["file_name"])
    masks = [
        (entry["file_name"], CocoMask(file, key, *_size(entry), background, tuple(regions[key])))
        for key, entry in images.items()
    ]
    return Coco(file, categories, masks, sorted(boxes), slivers)


def background_value(categories: Mapping[int, str]) -> int:
    """Return the mask value of pixels without a region: 0, unless a category has that id."""
    return max(categories) + 1 if 0 in categories else 0


def _read_lists(file: Path) -> dict[str, list[dict]]:
    """Return the lists images, annotations and categories."""
    with translate_errors(lambda error: f"{file}: not a JSON that can be read ({error})"):
        content = json.loads(file.read_bytes())
    names = ("images", "annotations", "categories")
    missing = [n for n in names if not isinstance(content, dict) or n not in content]
    if missing:
        raise SegtrainError(f"{file}: not a COCO JSON: it has no {' and no '.join(missing)}")
    for name in names:
        part = content[name]
        if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
            raise SegtrainError(f"{file}: not a COCO JSON: {name} is not a list of objects")
    return content


def _read_categories(file: Path, entries: list[dict]) -> dict[int, str]:
    categories = {}
    for entry in entries:
        key, name = entry.get("id"), entry.get("name")
        if type(key) is not int or not 0 <= key <= LARGEST_ID or not isinstance(name, str):
            raise SegtrainError(
                f"{file}: expected categories with a name and an id of 0 to {LARGEST_ID}, "
                f"got id {key!r}, name {name!r}"
            )
        if key in categories:
            raise SegtrainError(f"{file}: two categories have the id {key}")
        categories[key] = name
    if not categories:
        raise SegtrainError(f"{file}: categories is empty")
    return dict(sorted(categories.items()))


def _check_image(file: Path, image: Mapping[str, Any]) -> int | str:
    """Return the id of an entry of images."""
    key, name = image.get("id"), image.get("file_name")
    if not isinstance(key, (int, str)) or not isinstance(name, str) or not name:
        raise SegtrainError(f"{file}: an image has id {key!r} and file_name {name!r}")
    height, width = _size(image)
    # not isinstance, which takes true for an int
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise SegtrainError(
            f"{file}: image {name} needs its height and width, got {height!r} and {width!r}"
        )
    if height * width > MOST_PIXELS:
        raise SegtrainError(f"{file}: image {name} of {width}x{height} is too large")
    return key


def _size(image: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return (height, width) as the JSON has them."""
    return image.get("height"), image.get("width")


def _pack_shape(
    file: Path, segmentation: Any, image: Mapping[str, Any]
) -> Polygons | array | bytes:
    """Return a segmentation in a compact form; empty where no polygon has three points."""

    def explain(error: Exception) -> str:
        return (
            f"{file}: image {image['file_name']} has a segmentation that is neither polygons nor "
            f"run lengths of its size ({error})"
        )

    with translate_errors(explain):
        if isinstance(segmentation, dict):
            counts = segmentation["counts"]
            if tuple(segmentation["size"]) != _size(image):
                raise ValueError(f"of size {segmentation['size']}")
            if not counts:
                raise ValueError("no counts")
            # arrays and bytes: a list of Python numbers would take several times the memory
            return counts.encode("ascii") if isinstance(counts, str) else array("q", counts)
        polygons = [array("d", polygon) for polygon in segmentation]
    # drawing a point far outside would take gigabytes; comparisons with NaN are false
    far = 2 * max(_size(image))
    for polygon in polygons:
        if len(polygon) % 2 or not all(abs(number) <= far for number in polygon):
            raise SegtrainError(
                f"{file}: image {image['file_name']} has a polygon with half a point, or with one "
                "far outside the image"
            )
    return tuple(polygon for polygon in polygons if len(polygon) >= 6)
