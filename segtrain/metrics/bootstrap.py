"""Confidence intervals by bootstrap: images, or groups of images, drawn with replacement."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
CHUNK = 2**20  # indices drawn at a time: 8 bytes each, and two matrices of that size


def sum_by_group(counts: np.ndarray, groups: list[str]) -> np.ndarray:
    """int64 (I,3,C) of images -> (G,3,C): sums by group, in order of first appearance.

    Frames of one video look alike: they are no independent draws, while their sequences nearly
    are. A group without a counted pixel is left out: drawing it would draw nothing.
    """
    order: dict[str, int] = {}
    index = [order.setdefault(group, len(order)) for group in groups]
    sums = np.zeros((len(order), *counts.shape[1:]), np.int64)
    np.add.at(sums, index, counts)
    return sums[sums.any((1, 2))]


def resample_sums(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(G,3,C) of groups -> float64 (B,3,C): sums of G groups drawn with replacement, B times.

    counts: integers; tp, fp, fn along axis 1. The sums are exact below 2**53. The draws depend
    only on G, B and the seed, so two evaluations of the same groups can be compared resample by
    resample (Efron & Tibshirani 1993, chapter 13).
    """
    groups = len(counts)
    rng = np.random.default_rng(seed)
    flat = counts.reshape(groups, -1).astype(np.float64)
    sums = np.empty((resamples, flat.shape[1]))
    step = max(1, CHUNK // groups)
    for first in range(0, resamples, step):
        rows = sums[first : first + step]
        drawn = rng.integers(groups, size=(len(rows), groups))
        # one bincount counts all rows, each in a range of its own
        drawn += groups * np.arange(len(rows))[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        # as float64: numpy has no fast product of integer matrices
        np.matmul(times.astype(np.float64), flat, out=rows)
    return sums.reshape(resamples, *counts.shape[1:])


def compute_ious(sums: np.ndarray) -> np.ndarray:
    """(...,3,C) of tp, fp, fn -> (...,C): tp / (tp + fp + fn), nan where a class is absent."""
    union = sums.sum(-2)
    return np.divide(sums[..., 0, :], union, out=np.full(union.shape, np.nan), where=union > 0)


def compute_mious(ious: np.ndarray) -> np.ndarray:
    """(...,C) -> (...): the mean over the classes that are not nan; nan where all are.

    A class absent from a resample counts in no mean of it, as an absent class does in a score.
    """
    present = ~np.isnan(ious)
    total, count = ious.sum(-1, where=present), present.sum(-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def percentile_interval(values: np.ndarray) -> list[float] | None:
    """Return [low, high], the 95 % percentile interval of (B,) values; None where all are nan."""
    defined = values[~np.isnan(values)]
    return np.percentile(defined, [2.5, 97.5]).tolist() if len(defined) else None
