"""Confidence of predictions, and its calibration: confidence against accuracy."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

UNITS = 2**24  # of confidence 1; one unit is float32's step between 1/2 and 1


def measure_confidence(logits: Tensor) -> Tensor:
    """Return the highest softmax probability (N,H,W) of logits (N,C,H,W), in float32; 0 for NaN."""
    logits = logits.float()
    return (logits - logits.amax(1, keepdim=True)).exp_().sum(1).reciprocal_().nan_to_num_(0)


class LogitReader(Protocol):
    """A reader of the logits of all predictions."""

    def update(self, logits: Tensor, target: Tensor, lb_ignore: int) -> None:
        """Read logits (N,C,H,W) and target (N,H,W)."""


class ConfidenceMap:
    """The confidence of each pixel of images whose rows are read from top to bottom."""

    def __init__(self) -> None:
        self.bands = list[Tensor]()

    def update(self, logits: Tensor, target: Tensor, lb_ignore: int) -> None:
        """Read logits (N,C,h,W) of the next rows."""
        self.bands.append(measure_confidence(logits))

    @property
    def whole(self) -> Tensor | None:
        """(N,H,W), 0..1; None where nothing was read."""
        return torch.cat(self.bands, 1) if self.bands else None


class Calibration:
    """Sums over pixels by confidence, the highest softmax probability, in bins of equal width.

    Bin b holds the confidences in (b / bins, (b + 1) / bins], as in Guo et al. 2017
    (arXiv:1706.04599). `matrix`, int64 (bins,3) on the device: pixels, correct ones, and the sum
    of their confidences in units of 2**-24. They are integers, so neither the order of the images
    nor a sum over processes changes a digit.
    """

    def __init__(self, bins: int = 15, device: torch.device | str = "cpu"):
        self.bins = bins
        self.matrix = torch.zeros(bins, 3, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, target: Tensor, lb_ignore: int) -> None:
        """Count logits (N,C,H,W) of any float dtype and target (N,H,W), without ignored pixels.

        The softmax is computed in float32; where it is nan, confidence is 0. Never synchronizes
        with the device.
        """
        units = (measure_confidence(logits) * UNITS).long()
        correct = (logits.max(1).indices == target).long()
        # - 1: a bin's upper bound belongs to it, as in the paper
        bins = ((units * self.bins - 1) // UNITS).clamp(0, self.bins - 1)
        bins = bins.where(target != lb_ignore, self.bins).flatten()
        for column, values in enumerate((torch.ones_like(units), correct, units)):
            sums = torch.zeros(self.bins + 1, dtype=torch.int64, device=self.matrix.device)
            self.matrix[:, column] += sums.scatter_add_(0, bins, values.flatten())[:-1]


def compute_ece(matrix: Tensor) -> float | None:
    """Return the expected calibration error: the mean over pixels of |accuracy - confidence| of
    their bin.

    0 where the network is right as often as its confidence says, 1 at worst; None without pixels.
    """
    rows = matrix.tolist()
    total = sum(pixels for pixels, _, _ in rows)
    gap = sum(abs(correct * UNITS - units) for _, correct, units in rows)
    return gap / (total * UNITS) if total else None


def compute_eces(sums: np.ndarray) -> np.ndarray:
    """Return `compute_ece` (...) of matrices (...,B,3), nan without pixels."""
    pixels, correct, units = np.moveaxis(sums.astype(np.float64), -1, 0)
    total, gap = pixels.sum(-1), abs(correct * UNITS - units).sum(-1)
    return np.divide(gap, total * UNITS, out=np.full(total.shape, np.nan), where=total > 0)


def tabulate_bins(matrix: Tensor) -> list[dict[str, Any]]:
    """Return a row a bin: its bounds, pixels, mean confidence and accuracy (None where empty)."""
    bins = len(matrix)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "pixels": pixels,
            "confidence": units / (pixels * UNITS) if pixels else None,
            "accuracy": correct / pixels if pixels else None,
        }
        for b, (pixels, correct, units) in enumerate(matrix.tolist())
    ]
