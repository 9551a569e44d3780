"""U-Net's weights of borders between objects that are near each other, around any pixel loss."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import PixelLoss
from segtrain.losses.class_weights import ClassWeights
from segtrain.losses.cross_entropy import inner_loss
from segtrain.losses.pixel_arguments import BorderArguments
from segtrain.losses.pixel_pass import Pixels


class Border(PixelLoss):
    __doc__ = BorderArguments.__doc__

    def __init__(
        self,
        w0: float = BorderArguments.w0,
        sigma: float = BorderArguments.sigma,
        background: bool = BorderArguments.background,
        weight: Sequence[float] | None = None,
        inner: PixelLoss | None = None,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(BorderArguments, w0, sigma, background, weight)
        inner = inner_loss(inner, lb_ignore)
        super().__init__(lb_ignore, reads_logits=inner.reads_logits)
        self.w0, self.sigma, self.background = checked.w0, checked.sigma, checked.background
        self.weights, self.inner = ClassWeights(checked.weight), inner

    def costs(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        cost, weight = self.inner.costs(pixels)
        with torch.no_grad():
            border = self.border_weights(pixels)
        return border * cost, border * weight

    def border_weights(self, pixels: Pixels) -> Tensor:
        """Return (N,H,W): w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), 0 at ignored pixels."""
        lowest = 0 if self.background else 1
        # a label out of range makes the loss NaN on a GPU; here it is no object
        labels = pixels.target.long()
        objects = pixels.valid & (labels >= lowest) & (labels < pixels.num_classes)
        squares = squared_distances(labels.where(objects, -1))
        distance = squares.to(pixels.nll).sqrt().sum(0) / self.sigma
        near = self.w0 * torch.exp(-(distance**2) / 2)
        return self.weights.times(pixels.valid, pixels) + near.where(pixels.valid, 0)

    def observe(self) -> dict[str, Tensor]:
        return self.inner.observe()


@torch.library.custom_op("segtrain::squared_distances", mutates_args=())  # torch.compile skips it
def squared_distances(labels: Tensor) -> Tensor:
    """Return (2,N,H,W): squared distances, in pixels, to the nearest two objects of each image.

    Of labels (N,H,W), -1 outside objects. Infinite in an image with fewer than two objects.
    """
    images = labels.cpu().numpy()  # a GPU is waited for
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(_nearest_two, images))
    stacked = np.stack(found, axis=1) if found else np.empty((2, *labels.shape), np.float32)
    return torch.from_numpy(stacked).to(labels.device)


@squared_distances.register_fake
def _(labels: Tensor) -> Tensor:
    return labels.new_empty((2, *labels.shape), dtype=torch.float32)


def _nearest_two(labels: np.ndarray) -> np.ndarray:
    """Return squared distances (2,H,W) to the nearest and to the second nearest object.

    For any bit of the objects' numbers, the nearer of the objects with and of those without it is
    the nearest; the second nearest differs from the nearest in one of the bits at least. So the
    distance transforms are two for each bit, not one for each object.
    """
    nearest, second = np.full((2, *labels.shape), np.inf, np.float32)
    numbers, count = _number_objects(labels)
    for bit in range(int(count - 1).bit_length() if count else 0):
        has_bit = (numbers >> bit & 1).astype(bool)
        with_bit, without = (
            cv2.distanceTransform((~chosen).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for chosen in (has_bit & (numbers >= 0), ~has_bit)
        )
        nearest = np.minimum(with_bit, without)
        second = np.minimum(second, np.maximum(with_bit, without))
    return np.rint(np.stack([nearest, second]) ** 2)  # whole numbers: a root lost digits


def _number_objects(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Return each pixel's object, from 0, or -1 for none, and the number of objects.

    An object is a maximal set of pixels of one class that touch by side or corner.
    """
    numbers, count = np.full(labels.shape, -1, np.int32), 0
    for c in np.flatnonzero(np.bincount(labels[labels >= 0])):
        mask = (labels == c).view(np.uint8)
        found, regions = cv2.connectedComponents(mask, connectivity=8)
        np.copyto(numbers, regions + (count - 1), where=mask.view(bool))
        count += found - 1  # the first is what is outside
    return numbers, count
