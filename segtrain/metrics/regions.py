"""Connected regions of the truth by size, and how many of them a prediction finds."""

from __future__ import annotations

import cv2
import numpy as np

# pixels: small below the first, medium below the second, else large; the areas of COCO's scores
SIZES = (32**2, 96**2)


def region_counts(
    prediction: np.ndarray, target: np.ndarray, num_classes: int, lb_ignore: int
) -> np.ndarray:
    """int64 (C,3,2): the truth's regions of each class and size, and those of them that are found.

    A region is a largest set of pixels of one class that touch by side or corner; ignored pixels
    belong to none. It is found where the prediction gives its class to at least half of it.

    prediction and target: (H,W) of any integers; class ids, in the target also lb_ignore.
    """
    counts = np.zeros((num_classes, len(SIZES) + 1, 2), np.int64)
    for c in range(num_classes):
        mask = (target == c).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        box = np.s_[y : y + height, x : x + width]
        number, regions = cv2.connectedComponents(mask[box], connectivity=8)
        pixels = np.bincount(regions.ravel())[1:]  # the first is what is not of the class
        right = np.bincount(regions[prediction[box] == c], minlength=number)[1:]
        size = np.searchsorted(SIZES, pixels, side="right")
        np.add.at(counts[c], size, np.stack([np.ones_like(size), 2 * right >= pixels], 1))
    return counts
