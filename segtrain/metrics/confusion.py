"""The confusion matrix, and every score derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**24  # pixels, at 8 bytes several times


class Confusion:
    """Pixels by (true class, predicted class): an int64 (C,C) matrix on the device."""

    def __init__(self, num_classes: int, lb_ignore: int, device: torch.device | str = "cpu"):
        self.num_classes, self.lb_ignore = num_classes, lb_ignore
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Counts one batch: prediction and target of the same shape and any integers; returns its
        own matrix.

        Pixels whose target is lb_ignore count nowhere.
        """
        c = self.num_classes
        counts = torch.zeros(c * c + 1, dtype=torch.int64, device=self.matrix.device)
        parts = (pixels.flatten().split(AT_ONCE) for pixels in (prediction, target))
        for claimed, true in zip(*parts, strict=True):
            pairs = (true.long() * c + claimed).where(true != self.lb_ignore, c * c)
            counts.scatter_add_(0, pairs, torch.ones_like(pairs))
        batch = counts[:-1].view(c, c)
        self.matrix += batch
        return batch


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix; fractions, None where undefined.

    With tp, fp, fn of a class: iou = tp / (tp + fp + fn), dice = 2 tp / (2 tp + fp + fn),
    precision = tp / (tp + fp), recall = tp / (tp + fn), share = (tp + fn) / all pixels.
    A class absent from both truth and prediction has no iou and counts in no mean; `miou` is the
    mean over the others, `mean_accuracy` the mean recall over classes in the truth, `fw_iou` the
    mean of iou weighted by share (Long et al. 2015, arXiv:1411.4038). `miou_absent_as_0` is the
    mean over all classes where an absent one counts as 0, as some programs have it: for comparison
    with their figures only.
    """

    miou: float | None
    miou_absent_as_0: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    fw_iou: float | None
    classes: list[dict[str, Any]]  # name, iou, dice, precision, recall, share

    @property
    def absent(self) -> list[str]:
        """Names of the classes absent from both truth and prediction."""
        return [c["name"] for c in self.classes if c["iou"] is None]


def counts_of(matrix: Tensor) -> Tensor:
    """tp, fp, fn of each class, (3,C), of a (C,C) confusion matrix (rows true)."""
    tp = matrix.diag()
    return torch.stack([tp, matrix.sum(0) - tp, matrix.sum(1) - tp])


def score(matrix: Tensor, names: list[str]) -> Scores:
    """Scores of an int64 (C,C) confusion matrix (rows true, columns predicted)."""
    return scores_of(counts_of(matrix).T.tolist(), names)  # one transfer: a handful of numbers


def scores_of(counts: list[list[int]], names: list[str]) -> Scores:
    """Scores from tp, fp and fn of each class."""
    total = sum(tp + fn for tp, _, fn in counts)
    classes: list[dict[str, Any]] = [
        {
            "name": name,
            "iou": _ratio(tp, tp + fp + fn),
            "dice": _ratio(2 * tp, 2 * tp + fp + fn),
            "precision": _ratio(tp, tp + fp),
            "recall": _ratio(tp, tp + fn),
            "share": _ratio(tp + fn, total),
        }
        for name, (tp, fp, fn) in zip(names, counts, strict=True)
    ]
    ious = [c["iou"] for c in classes]
    weighted = [c["share"] * c["iou"] for c in classes if c["share"]]
    return Scores(
        miou=_mean(ious),
        miou_absent_as_0=_mean([iou or 0 for iou in ious]) if total else None,
        pixel_accuracy=_ratio(sum(tp for tp, _, _ in counts), total),
        mean_accuracy=_mean([c["recall"] for c in classes]),
        fw_iou=sum(weighted) if weighted else None,
        classes=classes,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
