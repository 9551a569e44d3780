"""Sums over the predictions of a split, and 3C integers of each image."""

from __future__ import annotations

import os
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from segtrain.evaluation.prediction import Prediction
from segtrain.losses.kernels.plain import double_device
from segtrain.metrics.boundary import count_boundaries
from segtrain.metrics.calibration import Calibration
from segtrain.metrics.confusion import Confusion, derive_counts
from segtrain.metrics.regions import count_regions
from segtrain.models.tuning import Tuning

TOP_CONFUSED = 5  # images remembered for each pair of classes
# predictions that may wait to be counted on the host while the device goes on
MAX_WAITING_IMAGES, MAX_WAITING_PIXELS = 32, 2**25


@dataclass(frozen=True)
class HostCounts:
    """Counts of one image that are made on the host."""

    index: int
    confusion: Tensor  # (C,C) int64
    boundary: np.ndarray  # (2,C): intersections and unions of boundary regions
    regions: np.ndarray  # (C,3,2): regions of the truth by size, and those found
    size: tuple[int, int]  # (height, width)
    checksums: tuple[int, int]  # of the truth and of the prediction


class Accumulator:
    """Sums over predictions, fed one at a time within a `with` block and read after it.

    The device's part is added at once; threads count the host's part beside the device's work.
    All sums but `kept` are of integers, so the order of the images changes no digit.
    """

    def __init__(
        self,
        num_classes: int,
        lb_ignore: int,
        device: torch.device | str,
        calibrated: bool,
        tuning: Tuning | None = None,
    ):
        """With a `tuning` of the logits that are read, count them without it as well."""
        self.num_classes, self.lb_ignore, self.tuning = num_classes, lb_ignore, tuning
        self.confusion = Confusion(num_classes, lb_ignore, device)
        self.calibration = Calibration(device=device) if calibrated else None
        self.confusion_before = Confusion(num_classes, lb_ignore, device)
        self.calibration_before = Calibration(device=device)
        self.boundary = np.zeros((2, num_classes), np.int64)
        self.regions = np.zeros((num_classes, 3, 2), np.int64)
        home = double_device(torch.device(device))
        self.kept = torch.zeros(num_classes, dtype=torch.float64, device=home)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.image_counts: dict[int, np.ndarray] = {}  # (3,C) of each image: tp, fp, fn
        self.truths: dict[int, int] = {}  # checksum of each image
        self.predictions: dict[int, int] = {}
        # for each pair of classes the images that confuse most of their pixels, and how many
        shape = num_classes, num_classes, TOP_CONFUSED
        self._top_pixels = np.zeros(shape, np.int64)
        self._top_images = np.zeros(shape, np.int64)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        self._waiting: deque[Future[HostCounts]] = deque()
        self._waiting_pixels = 0

    def __enter__(self) -> Accumulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and kind is None:  # after an error nobody reads the sums
                self._add_next()
        finally:
            self._threads.shutdown(cancel_futures=True)

    def update(self, logits: Tensor, target: Tensor, lb_ignore: int) -> None:
        """Calibrate logits (N,C,h,W) of some rows, whose predictions are added as class ids."""
        if self.calibration:
            self.calibration.update(logits, target, lb_ignore)
        if self.tuning:
            before = self.tuning.undo(logits)
            self.calibration_before.update(before, target, lb_ignore)
            self.confusion_before.update(before.max(1).indices, target)

    def add(self, prediction: Prediction) -> None:
        """Add one image; wait for earlier ones where too many are not yet counted."""
        matrix = self.confusion.update(prediction.class_ids, prediction.target)
        if prediction.kept is not None:
            self.kept += sum_by_class(prediction.kept, prediction.target, self.num_classes)
        if (
            prediction.target.device.type == "mps"
        ):  # threads would crash in it (pytorch issue 197805)
            prediction, matrix = prediction.to_host(), matrix.cpu()
        self._waiting_pixels += prediction.target.numel()
        self._waiting.append(self._threads.submit(self._count, prediction, matrix))
        while len(self._waiting) > MAX_WAITING_IMAGES or self._waiting_pixels > MAX_WAITING_PIXELS:
            self._add_next()

    def _count(self, prediction: Prediction, matrix: Tensor) -> HostCounts:
        """Count on a thread, so that the main one need not wait for the device."""
        ids, truth = prediction.class_ids.cpu().numpy(), prediction.target.cpu().numpy()
        boundary = count_boundaries(ids, truth, self.num_classes, self.lb_ignore)
        regions = count_regions(ids, truth, self.num_classes)
        checksums = sum_ids(truth, self.lb_ignore), sum_ids(ids, self.lb_ignore)
        return HostCounts(prediction.index, matrix.cpu(), boundary, regions, ids.shape, checksums)

    def _add_next(self) -> None:
        """Wait for the first image in the queue and add its counts."""
        counts = self._waiting.popleft().result()
        self._waiting_pixels -= counts.size[0] * counts.size[1]
        self.boundary += counts.boundary
        self.regions += counts.regions
        self.sizes[counts.size] += 1
        self.image_counts[counts.index] = derive_counts(counts.confusion).numpy()
        self.truths[counts.index], self.predictions[counts.index] = counts.checksums
        self._rank_confused(counts)

    def _rank_confused(self, counts: HostCounts) -> None:
        """Insert the image where it confuses two classes more than the last of those ranked."""
        confused = counts.confusion.numpy() * (1 - np.eye(self.num_classes, dtype=np.int64))
        cells = np.nonzero(confused > self._top_pixels[..., -1])
        if len(cells[0]):
            pixels = np.column_stack([self._top_pixels[cells], confused[cells]])
            images = np.column_stack([self._top_images[cells], np.full(len(pixels), counts.index)])
            # stable: of images that confuse as many pixels the earlier stays first
            order = np.argsort(-pixels, axis=1, kind="stable")[:, :TOP_CONFUSED]
            self._top_pixels[cells] = np.take_along_axis(pixels, order, 1)
            self._top_images[cells] = np.take_along_axis(images, order, 1)

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that are ignored, 0..1."""
        pixels = sum(height * width * count for (height, width), count in self.sizes.items())
        return 1 - int(self.confusion.matrix.sum()) / pixels

    def most_confused(self) -> Iterator[tuple[tuple[int, int], list[tuple[int, int]]]]:
        """Yield ((true, predicted), [(image, pixels), ...]) of all confused classes, most first."""
        for true, predicted in np.argwhere(self._top_pixels[..., 0]).tolist():
            pixels, images = self._top_pixels[true, predicted], self._top_images[true, predicted]
            ranked = zip(images.tolist(), pixels.tolist(), strict=True)
            yield (true, predicted), [(image, count) for image, count in ranked if count]


def sum_ids(ids: np.ndarray, lb_ignore: int) -> int:
    """Return the CRC-32 of class ids (H,W), the same for any dtype, byte order and lb_ignore."""
    plain = ids.astype("<i2", order="C")
    plain[ids == lb_ignore] = -1
    return zlib.crc32(plain.data, zlib.crc32(repr(ids.shape).encode()))


def sum_by_class(kept: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Return (C,) float64: how many pixels of each true class a mining loss keeps.

    kept: (H,W), 0..1, and 0 at ignored pixels; target: (H,W) class ids and lb_ignore.
    """
    kept, target = (values.to(double_device(values.device)) for values in (kept, target))
    classes = target.long().where(kept > 0, num_classes)
    sums = torch.zeros(num_classes + 1, dtype=torch.float64, device=classes.device)
    sums.scatter_add_(0, classes.flatten(), kept.double().flatten())
    return sums[:-1]
