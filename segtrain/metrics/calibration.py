"""Calibration: confidence against accuracy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

UNITS = 2**24  # of confidence 1; one unit is float32's step between 1/2 and 1


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
        logits = logits.float()
        top, prediction = logits.max(1, keepdim=True)
        confidence = (logits - top).exp_().sum(1).reciprocal().nan_to_num(0)
        units = (confidence * UNITS).long()
        correct = (prediction.squeeze(1) == target).long()
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
