"""Accumulator of the predictions of a split: sums, and 3C integers an image."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segtrain.evaluation.prediction import Predicted
from segtrain.metrics.boundary import boundary_counts
from segtrain.metrics.calibration import Calibration
from segtrain.metrics.confusion import Confusion, counts_of
from segtrain.metrics.regions import region_counts

CONFUSED = 5  # images that are remembered for each pair of classes
AHEAD = 32, 2**25  # images, and pixels, that may wait for the host while the device goes on


@dataclass(frozen=True)
class Counts:
    """What the host counts in one image."""

    index: int
    confusion: Tensor  # (C,C) int64
    boundary: np.ndarray  # (2,C): intersections and unions of boundary regions
    regions: np.ndarray  # (C,3,2): regions of the truth by size, and those found
    size: tuple[int, int]  # (height, width)


class Accumulator:
    """Adds up one image after another; all but `kept` in integers, so their order is nothing."""

    def __init__(
        self, num_classes: int, lb_ignore: int, device: torch.device | str, calibrated: bool
    ):
        self.num_classes, self.lb_ignore = num_classes, lb_ignore
        self.confusion = Confusion(num_classes, lb_ignore, device)
        self.calibration = Calibration(device=device) if calibrated else None
        self.boundary = np.zeros((2, num_classes), np.int64)
        self.regions = np.zeros((num_classes, 3, 2), np.int64)
        self.kept = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.of_image: dict[int, np.ndarray] = {}  # (3,C): tp, fp, fn
        shape = num_classes, num_classes, CONFUSED
        self.most = np.zeros(shape, np.int64)  # pixels of the images that confuse two classes most
        self.most_at = np.zeros(shape, np.int64)  # and those images

    def add_all(self, predictions: Iterable[Predicted]) -> Iterator[Predicted]:
        """Adds the predictions as they go by; the host's part is done beside the device's work."""
        waiting: deque[Future[Counts]] = deque()
        pixels = 0
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
            for predicted in predictions:
                matrix = self.confusion.update(predicted.prediction, predicted.target)
                if predicted.kept is not None:
                    self.kept += kept_by_class(predicted, self.num_classes)
                pixels += predicted.target.numel()
                waiting.append(threads.submit(self._count, predicted, matrix))
                while len(waiting) > AHEAD[0] or pixels > AHEAD[1]:
                    pixels -= self._add(waiting.popleft().result())
                yield predicted
            while waiting:
                self._add(waiting.popleft().result())

    def _count(self, predicted: Predicted, matrix: Tensor) -> Counts:
        """Off the main thread, which need not wait for the device then."""
        ids, truth = predicted.prediction.cpu().numpy(), predicted.target.cpu().numpy()
        boundary = boundary_counts(ids, truth, self.num_classes, self.lb_ignore)
        regions = region_counts(ids, truth, self.num_classes)
        return Counts(predicted.index, matrix.cpu(), boundary, regions, ids.shape)

    def _add(self, counts: Counts) -> int:
        """Adds what was counted in an image; its number of pixels."""
        self.boundary += counts.boundary
        self.regions += counts.regions
        self.sizes[counts.size] += 1
        self.of_image[counts.index] = counts_of(counts.confusion).numpy()
        # the images with most of each confusion: a new one goes in where it is above the last
        confused = counts.confusion.numpy() * (1 - np.eye(self.num_classes, dtype=np.int64))
        cells = np.nonzero(confused > self.most[..., -1])
        if len(cells[0]):
            most = np.column_stack([self.most[cells], confused[cells]])
            images = np.column_stack([self.most_at[cells], np.full(len(most), counts.index)])
            order = np.argsort(-most, axis=1, kind="stable")[:, :CONFUSED]
            self.most[cells] = np.take_along_axis(most, order, 1)
            self.most_at[cells] = np.take_along_axis(images, order, 1)
        return counts.size[0] * counts.size[1]

    @property
    def ignored(self) -> float:
        """The share of pixels that counted nowhere."""
        pixels = sum(height * width * count for (height, width), count in self.sizes.items())
        return 1 - int(self.confusion.matrix.sum()) / pixels

    def confused(self) -> Iterator[tuple[tuple[int, int], list[tuple[int, int]]]]:
        """((true, predicted), [(image, pixels), ...] by pixels) of all that was confused."""
        for true, predicted in np.argwhere(self.most[..., 0]).tolist():
            pixels, images = self.most[true, predicted], self.most_at[true, predicted]
            found = [(i, n) for i, n in zip(images.tolist(), pixels.tolist(), strict=True) if n]
            yield (true, predicted), found


def kept_by_class(predicted: Predicted, num_classes: int) -> Tensor:
    """(C,): how many pixels of each true class a loss that mines kept."""
    assert predicted.kept is not None
    places = predicted.target.long().where(predicted.kept > 0, num_classes)  # none of the ignored
    sums = torch.zeros(num_classes + 1, dtype=torch.float64, device=places.device)
    sums.scatter_add_(0, places.flatten(), predicted.kept.double().flatten())
    return sums[:-1]
