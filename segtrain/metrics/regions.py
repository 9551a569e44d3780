"""Connected regions of the truth by size, and the share that a prediction finds."""

from __future__ import annotations

import cv2
import numpy as np

# pixels: small below the first, medium below the second, else large; the areas of COCO's scores
AREAS = (32**2, 96**2)


def count_regions(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    """Return int64 (C,3,2): regions in the truth by class and size, and how many are found.

    A region is a maximal set of pixels of one class that touch by side or corner; ignored pixels
    belong to none. It is found where the prediction gives its class to at least half of it.

    prediction and target: (H,W) of any integers; class ids, in the target also an id of ignored
    pixels outside 0..C-1.
    """
    counts = np.zeros((num_classes, len(AREAS) + 1, 2), np.int64)
    for c in list_present(target, num_classes):
        mask = (target == c).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        box = np.s_[y : y + height, x : x + width]
        number, regions, stats, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]  # the first row is the background
        right = np.bincount(regions[mask[box] & (prediction[box] == c) > 0], minlength=number)[1:]
        size = np.searchsorted(AREAS, areas, side="right")  # 32 x 32 pixels are medium
        np.add.at(counts[c], size, np.stack([np.ones_like(size), 2 * right >= areas], 1))
    return counts


def list_present(target: np.ndarray, num_classes: int) -> list[int]:
    """Return the classes in (H,W), read in bands: an index array takes 8 bytes a pixel."""
    present = np.zeros(num_classes, bool)
    for band in np.array_split(target, max(1, target.size >> 20)):
        present[band[(band >= 0) & (band < num_classes)]] = True
    return np.flatnonzero(present).tolist()
