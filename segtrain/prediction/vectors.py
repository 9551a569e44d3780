"""Polygons of the connected regions of a mask, with holes, along the sides of its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from segtrain.metrics.regions import list_present

EAST, NORTH = 0, 3  # directions of a side, which has its pixel on the right; between: south, west
# from a pixel's top left corner to the start of its side in each direction: (x, y)
STARTS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])


@dataclass(frozen=True)
class Polygon:
    """A connected region: rings (n,2) of corners of pixels as x, y, not closed.

    Its pixels touch by sides. The outline is clockwise as seen on screen, holes are the other way.
    """

    class_id: int
    pixels: int
    confidence: float  # mean over its pixels, 0..1
    outline: np.ndarray
    holes: list[np.ndarray]


def trace_polygons(
    class_ids: np.ndarray, confidence: np.ndarray, num_classes: int, simplify: float = 0
) -> Iterator[Polygon]:
    """Yield the polygons of a mask (H,W), by class and by the position of their first pixel.

    Values other than 0..C-1 are in no polygon. confidence: (H,W) of 0..255. simplify: pixels that
    an outline may move by (Douglas and Peucker 1973, doi:10.3138/FM57-6770-U75U-7727); a hole that
    it makes a line is left out.
    """
    regions, classes = _label_regions(class_ids, num_classes)
    pixels, sums = _sum_regions(regions, confidence, len(classes) + 1)
    outlines: dict[int, np.ndarray] = {}
    rings: dict[int, list[np.ndarray]] = {}
    for region, is_outline, ring in _trace_rings(regions):
        if region == len(classes):  # other values
            continue
        if is_outline:
            outlines[region] = ring
        else:
            rings.setdefault(region, []).append(ring)
    for region, class_id in enumerate(classes):
        outline, holes = outlines.pop(region), rings.pop(region, [])
        if simplify:
            simple = _simplify(outline, simplify)
            outline = simple if len(simple) > 2 else outline
            holes = [hole for hole in (_simplify(h, simplify) for h in holes) if len(hole) > 2]
        mean = sums[region] / pixels[region] / 255
        yield Polygon(class_id, int(pixels[region]), float(mean), outline, holes)


def _label_regions(class_ids: np.ndarray, num_classes: int) -> tuple[np.ndarray, list[int]]:
    """Return int32 (H,W) numbers of regions whose pixels touch by sides, and the class of each.

    Pixels of no class have the number after the last.
    """
    regions, classes = np.full(class_ids.shape, -1, np.int32), list[int]()
    for c in list_present(class_ids, num_classes):
        mask = (class_ids == c).view(np.uint8)
        count, labels = cv2.connectedComponents(mask, connectivity=4)
        np.copyto(regions, labels + (len(classes) - 1), where=mask > 0)
        classes += [c] * (count - 1)
    regions[regions < 0] = len(classes)
    return regions, classes


def _sum_regions(
    regions: np.ndarray, confidence: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of each region, and the sum of their confidences."""
    pixels, sums = np.zeros(count, np.int64), np.zeros(count)
    for top in range(0, len(regions), 1024):  # rows: bincount takes 16 bytes a pixel
        numbers, weights = (map_[top : top + 1024].ravel() for map_ in (regions, confidence))
        pixels += np.bincount(numbers, minlength=count)
        sums += np.bincount(numbers, weights, count)
    return pixels, sums


def _trace_rings(regions: np.ndarray) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Yield (region, is it the outline, ring (n,2) of corners as x, y) of all simple rings.

    A run is a straight part of a border. At its end the border turns right around the same pixel,
    or left to the one ahead; so pixels that touch by a corner alone are kept apart. A ring that
    meets itself in a corner is taken apart there.
    """
    width = regions.shape[1]
    parts = [_find_runs(regions, direction) for direction in range(EAST, NORTH + 1)]
    keys, following = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(keys)
    keys = keys[order]
    after = np.searchsorted(keys, following[order]).tolist()
    pixels, directions = keys // 4, keys % 4
    corners = np.stack([pixels % width, pixels // width], 1) + STARTS[directions]
    vertices = (corners[:, 1] * (width + 1) + corners[:, 0]).tolist()
    numbers = regions.reshape(-1)[pixels].tolist()
    seen, outlined = bytearray(len(after)), bytearray(int(regions.max()) + 1)
    for first in range(len(after)):
        run, ring, places = first, list[int](), dict[int, int]()
        while not seen[run]:
            seen[run] = True
            vertex = vertices[run]
            place = places.get(vertex)
            if place is not None:  # the part since the last visit is a ring of its own
                yield numbers[run], False, corners[ring[place:]]
                for other in ring[place:]:
                    del places[vertices[other]]
                del ring[place:]
            places[vertex] = len(ring)
            ring.append(run)
            run = after[run]
        if ring:  # the region's first run is its first pixel's upper side
            region = numbers[first]
            yield region, not outlined[region], corners[ring]
            outlined[region] = True


def _find_runs(regions: np.ndarray, direction: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys of the runs in a direction, and of each the key of the run that follows.

    A key is 4 times the pixel at which a run starts (row times width plus column), and the
    direction. The map is turned so that the direction is east, along the top of its pixels.
    """
    here = np.rot90(np.pad(regions, 1, constant_values=-1), direction)
    pixels = np.rot90(np.arange(regions.size).reshape(regions.shape), direction).reshape(-1)
    above, ahead, beyond = here[:-2, 1:-1], here[1:-1, 2:], here[:-2, 2:]
    here = here[1:-1, 1:-1]
    width = here.shape[1]
    side = here != above
    right, left = side & (here != ahead), side & (here == ahead) & (here == beyond)
    straight = side & ~right & ~left
    start = side.copy()
    start[:, 1:] &= ~straight[:, :-1]
    end = np.flatnonzero(right | left)  # as many as starts, and in their order
    turns_right = right.reshape(-1)[end]
    turned = np.where(turns_right, end, end - width + 1)
    turned = pixels[turned] * 4 + (direction + np.where(turns_right, 1, 3)) % 4
    return pixels[np.flatnonzero(start)] * 4 + direction, turned


def _simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    return cv2.approxPolyDP(ring.astype(np.int32)[:, None], tolerance, closed=True)[:, 0]
