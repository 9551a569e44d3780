"""Copy-paste: an object of a rare class, cut out of one image and put into the crop of another.

As in Ghiasi et al. 2021, arXiv:2012.07177, without blending; masks have no instances, so that an
object is a connected region of its class.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

LARGEST = 0.5  # part of a crop: larger objects are shrunk, or little would be left of the crop
WHOLE = 0.5  # a pixel of a resized object is its own where it covers this part or more

Box = tuple[slice, slice]  # rows and columns


class CropView(NamedTuple):
    """A crop's part of its image, before it is flipped, in pixels of the crop."""

    size: tuple[int, int]  # height, width; without padding
    factor: float  # pixels for a pixel of the image
    top: float  # of the image, and its bottom; both may lie outside
    bottom: float


class Patch(NamedTuple):
    """An object in its image, and its place in the crop of another."""

    source: Box  # in the image
    target: Box  # in the crop
    pixels: np.ndarray  # bool, of the target's size: those of the object
    flipped: tuple[int, ...]  # axes

    def paste(self, image: np.ndarray, crop: np.ndarray) -> None:
        """Paste the object's pixels of the image (H,W,C) into the crop (h,w,C)."""
        height, width = self.pixels.shape
        resized = cv2.resize(image[self.source], (width, height), interpolation=cv2.INTER_LINEAR)
        resized = np.flip(resized.reshape(height, width, -1), self.flipped)
        crop[self.target][self.pixels] = resized[self.pixels]


def draw_patch(
    mask: np.ndarray,
    class_id: int,
    view: CropView,
    flips: tuple[float, float],
    rng: np.random.Generator,
) -> Patch | None:
    """Draw an object of a class and its place; None where the mask (H,W) has no pixel of it.

    Each pixel of the class is as likely to be in it, so that specks are rare. It has the crop's
    scale, is flipped by itself, with probabilities by axis, and lies in the crop as a whole: at its
    height in its own image where the crop shows that, for a scene has its objects at their heights.
    """
    found = find_object(mask, class_id, rng)
    if found is None:
        return None
    source, pixels = found
    pixels = resize_object(pixels, view)
    flipped = tuple(axis for axis, chance in enumerate(flips) if rng.random() < chance)
    (height, width), (rows, columns) = pixels.shape, view.size
    middle = (source[0].start + source[0].stop) / 2 / len(mask)
    top = round(view.top + middle * (view.bottom - view.top) - height / 2)
    if not 0 <= top <= rows - height:
        top = int(rng.integers(rows - height + 1))
    left = int(rng.integers(columns - width + 1))
    target = slice(top, top + height), slice(left, left + width)
    return Patch(source, target, np.flip(pixels, flipped), flipped)


def find_object(
    mask: np.ndarray, class_id: int, rng: np.random.Generator
) -> tuple[Box, np.ndarray] | None:
    """Return the box of the object around a random pixel of a class, and bool pixels in it."""
    of_class = (mask == class_id).view(np.uint8)
    pixels = np.flatnonzero(of_class)
    if not len(pixels):
        return None
    row, column = divmod(int(rng.choice(pixels)), mask.shape[1])
    *_, (x, y, width, height) = cv2.floodFill(of_class, None, (column, row), 2, flags=8)
    box = slice(y, y + height), slice(x, x + width)
    return box, of_class[box] == 2


def resize_object(pixels: np.ndarray, view: CropView) -> np.ndarray:
    """Return an object's pixels (h,w) in the crop's scale, or smaller to fit; at least one."""
    (height, width), (rows, columns) = pixels.shape, view.size
    area = math.sqrt(LARGEST * rows * columns / np.count_nonzero(pixels))
    factor = min(view.factor, rows / height, columns / width, area)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    covered = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return covered >= min(WHOLE, covered.max())
