"""Confidence intervals by bootstrap: images, or groups of them, drawn with replacement."""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
DRAWN_AT_ONCE = 2**20  # indices in memory together, 8 bytes each, and two matrices of that size


def grouped(counts: np.ndarray, groups: list[str]) -> np.ndarray:
    """int64 (I,3,C) of images -> (G,3,C): summed by group, in order of first appearance.

    Frames of one video look alike: they are no independent draws, their sequences nearly are. A
    group without a pixel that counts is left out: drawing it would draw nothing.
    """
    order: dict[str, int] = {}
    index = [order.setdefault(group, len(order)) for group in groups]
    sums = np.zeros((len(order), *counts.shape[1:]), np.int64)
    np.add.at(sums, index, counts)
    return sums[sums.any((1, 2))]


def resampled(counts: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(G,3,C) of groups -> float64 (B,3,C): sums of G groups drawn with replacement, B times.

    counts: integers; tp, fp, fn along axis 1. The sums are exact below 2**53. The draws depend on
    G, B and the seed alone, so two evaluations of the same groups can be compared resample by
    resample (Efron & Tibshirani 1993, chapter 13).
    """
    groups = len(counts)
    rng = np.random.default_rng(seed)
    flat = counts.reshape(groups, -1).astype(np.float64)
    sums = np.empty((resamples, flat.shape[1]))
    step = max(1, DRAWN_AT_ONCE // groups)
    for first in range(0, resamples, step):
        rows = sums[first : first + step]
        drawn = rng.integers(groups, size=(len(rows), groups))
        drawn += groups * np.arange(len(rows))[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        np.matmul(times.astype(np.float64), flat, out=rows)
    return sums.reshape(resamples, *counts.shape[1:])


def ious(sums: np.ndarray) -> np.ndarray:
    """(...,3,C) of tp, fp, fn -> (...,C): tp / (tp + fp + fn), nan where a class is absent."""
    union = sums.sum(-2)
    return np.divide(sums[..., 0, :], union, out=np.full(union.shape, np.nan), where=union > 0)


def mious(by_class: np.ndarray) -> np.ndarray:
    """(...,C) -> (...): the mean over the classes that are not nan; nan where all are.

    A class that a resample happens to miss leaves that resample's mean, as an absent class does.
    """
    present = ~np.isnan(by_class)
    total, count = by_class.sum(-1, where=present), present.sum(-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def interval(values: np.ndarray) -> list[float] | None:
    """[low, high]: the 2.5 and 97.5 percentiles of (B,) values that are not nan; None without any.

    The percentile interval, at 95 percent.
    """
    defined = values[~np.isnan(values)]
    return np.percentile(defined, [2.5, 97.5]).tolist() if len(defined) else None
