"""Boundary IoU: overlap of the contours of prediction and truth."""

from __future__ import annotations

import cv2
import numpy as np

SQUARE = np.ones((3, 3), np.uint8)


def count_boundaries(
    prediction: np.ndarray,
    target: np.ndarray,
    num_classes: int,
    lb_ignore: int,
    ratio: float = 0.02,  # of the paper
) -> np.ndarray:
    """Return int64 (2,C): pixels in the intersection and in the union of the boundary regions.

    Sums over images give the Boundary IoU of a data set (Cheng et al. 2021, arXiv:2103.16562). A
    mask's boundary region is its own pixels within d of its contour: the mask without its erosion
    by a 3x3 square, d times, where d is `ratio` of the image's diagonal, at least 1 pixel. The
    image's border is contour, as in the authors' code. Ignored pixels are first removed from both
    masks, so that both have an edge towards them.

    prediction and target: (H,W) of any integers; class ids, in the target also lb_ignore.
    """
    distance = max(1, round(ratio * np.hypot(*target.shape)))
    ignored = target == lb_ignore
    predicted, true = (
        _keep_boundaries(x, ignored, num_classes, distance) for x in (prediction, target)
    )
    sizes = _count_pixels(predicted, num_classes) + _count_pixels(true, num_classes)
    both = _count_pixels(true[predicted == true], num_classes)
    return np.stack([both, sizes - both])


def _keep_boundaries(
    labels: np.ndarray, ignored: np.ndarray, no_class: int, distance: int
) -> np.ndarray:
    """Return (H,W): the class of each pixel in its class's boundary region, else no_class.

    Contour pixels have a neighbour of another class; a pixel within d of another class is within
    d - 1 of a contour pixel of any class. Beyond the image is no_class, the highest id.
    """
    # types that cv2's morphology takes
    labels = labels.astype(np.uint8 if no_class <= 255 else np.int16)
    labels[ignored] = no_class
    higher = cv2.dilate(labels, SQUARE, borderType=cv2.BORDER_CONSTANT, borderValue=no_class)
    contour = (higher != cv2.erode(labels, SQUARE)).view(np.uint8)
    size = 2 * distance - 1  # one dilation for distance - 1 of them by SQUARE
    near = cv2.dilate(contour, np.ones((size, size), np.uint8))
    labels[near == 0] = no_class
    return labels


def _count_pixels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (C,): the number of pixels of each class."""
    return np.bincount(labels[labels < num_classes], minlength=num_classes)
