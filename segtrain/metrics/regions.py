"""Connected regions of the truth by size, and the share that a prediction finds."""

from __future__ import annotations

import cv2
import numpy as np

# pixels: small below the first, medium below the second, else large; the areas of COCO's scores
AREAS = (32**2, 96**2)


def region_counts(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 (C,3,2): the truth's regions of each class and size, and those of them that are found.

    A region is a largest set of pixels of one class that touch by side or corner; ignored pixels
    belong to none. It is found where the prediction gives its class to at least half of it.

    prediction and target: (H,W) of any integers; class ids, in the target also an id of ignored
    pixels, which is none of 0..C-1.
    """
    counts = np.zeros((num_classes, len(AREAS) + 1, 2), np.int64)
    for c in present(target, num_classes):
        mask = (target == c).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        box = np.s_[y : y + height, x : x + width]
        number, regions, facts, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=8)
        pixels = facts[1:, cv2.CC_STAT_AREA]  # the first is what is not of the class
        right = np.bincount(regions[mask[box] & (prediction[box] == c) > 0], minlength=number)[1:]
        size = np.searchsorted(AREAS, pixels, side="right")
        np.add.at(counts[c], size, np.stack([np.ones_like(size), 2 * right >= pixels], 1))
    return counts


def present(target: np.ndarray, num_classes: int) -> list[int]:
    """The classes in (H,W), looked at by bands: an index takes 8 bytes a pixel."""
    found = np.zeros(num_classes, bool)
    for band in np.array_split(target, max(1, target.size >> 20)):
        found[band[(band >= 0) & (band < num_classes)]] = True
    return np.flatnonzero(found).tolist()
