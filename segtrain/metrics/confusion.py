"""The confusion matrix, and all scores derived from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**24  # pixels counted at a time: each takes 8 bytes several times over


class Confusion:
    """Pixel counts by (true class, predicted class): an int64 (C,C) matrix on the device."""

    def __init__(self, num_classes: int, lb_ignore: int, device: torch.device | str = "cpu"):
        self.num_classes, self.lb_ignore = num_classes, lb_ignore
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Add one batch to the matrix and return the batch's own matrix.

        `prediction` and `target` have one shape and any integer dtype. Pixels whose target is
        lb_ignore are not counted.
        """
        c = self.num_classes
        counts = torch.zeros(c * c + 1, dtype=torch.int64, device=self.matrix.device)
        chunks = (pixels.flatten().split(CHUNK) for pixels in (prediction, target))
        for predicted, true in zip(*chunks, strict=True):
            cells = (true.long() * c + predicted).where(true != self.lb_ignore, c * c)
            counts.scatter_add_(0, cells, torch.ones_like(cells))
        batch = counts[:-1].view(c, c)
        self.matrix += batch
        return batch


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; fractions, None where undefined.

    With its true positives, false positives and false negatives: iou = tp / (tp + fp + fn),
    dice = 2 tp / (2 tp + fp + fn), precision = tp / (tp + fp), recall = tp / (tp + fn),
    share = (tp + fn) / all pixels.
    """

    name: str
    iou: float | None
    dice: float | None
    precision: float | None
    recall: float | None
    share: float | None


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion matrix; fractions, None where undefined.

    A class absent from both truth and prediction has no IoU and counts in no mean. `miou` is the
    mean IoU of the other classes, `mean_accuracy` the mean recall of the classes in the truth,
    `fw_iou` the mean IoU weighted by share (Long et al. 2015, arXiv:1411.4038).
    `miou_absent_as_0` averages over all classes and counts an absent one as 0, as some programs
    do; use it only for comparison with their figures.
    """

    miou: float | None
    miou_absent_as_0: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    fw_iou: float | None
    classes: list[ClassScores]

    @property
    def absent(self) -> list[str]:
        """Names of the classes absent from both truth and prediction."""
        return [scores.name for scores in self.classes if scores.iou is None]


def derive_counts(matrix: Tensor) -> Tensor:
    """Return tp, fp and fn of each class, (3,C), of a (C,C) confusion matrix (rows true)."""
    tp = matrix.diag()
    return torch.stack([tp, matrix.sum(0) - tp, matrix.sum(1) - tp])


def average_iou(matrix: Tensor) -> Tensor:
    """Return the mIoU of a (C,C) confusion matrix (rows true) on its device: 0-d, NaN if undefined.

    As that of `score_matrix`, in float32.
    """
    counts = derive_counts(matrix)
    return (counts[0] / counts.sum(0)).nanmean()


def score_matrix(matrix: Tensor, names: list[str]) -> Scores:
    """Return the scores of an int64 (C,C) confusion matrix (rows true, columns predicted)."""
    # one transfer from the device: a handful of numbers
    return score_counts(derive_counts(matrix).T.tolist(), names)


def score_counts(counts: list[list[int]], names: list[str]) -> Scores:
    """Return the scores of classes with these [tp, fp, fn]."""
    total = sum(tp + fn for tp, _, fn in counts)
    classes = [
        ClassScores(
            name=name,
            iou=_ratio(tp, tp + fp + fn),
            dice=_ratio(2 * tp, 2 * tp + fp + fn),
            precision=_ratio(tp, tp + fp),
            recall=_ratio(tp, tp + fn),
            share=_ratio(tp + fn, total),
        )
        for name, (tp, fp, fn) in zip(names, counts, strict=True)
    ]
    # a class in the truth has both a share and an IoU
    weighted = [each.share * each.iou for each in classes if each.share and each.iou is not None]
    return Scores(
        miou=_mean([each.iou for each in classes]),
        miou_absent_as_0=_mean([each.iou or 0 for each in classes]) if total else None,
        pixel_accuracy=_ratio(sum(tp for tp, _, _ in counts), total),
        mean_accuracy=_mean([each.recall for each in classes]),
        fw_iou=sum(weighted) if weighted else None,
        classes=classes,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
