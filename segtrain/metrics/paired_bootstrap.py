"""Paired bootstrap: differences between runs over the same resamples of the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segtrain.metrics.bootstrap import (
    RESAMPLES,
    compute_ious,
    compute_mious,
    percentile_interval,
    resample_sums,
)


@dataclass(frozen=True)
class GroupScores:
    """Scores of one run group: column 0 is mIoU, then one column a class; nan where undefined.

    The score of a group of several runs, which differ in their seed, is their mean.
    """

    by_run: np.ndarray  # (S,1+C) over all images
    resampled: np.ndarray  # (B,1+C): the mean over the runs in each resample

    @property
    def scores(self) -> np.ndarray:
        """(1+C,): the mean over the runs."""
        return self.by_run.mean(0)

    @property
    def intervals(self) -> list[list[float] | None]:
        """[low, high] of each column, None where undefined."""
        return [percentile_interval(column) for column in self.resampled.T]


@dataclass(frozen=True)
class Difference:
    """One run group minus another; lists of 1+C, mIoU first.

    A difference is beyond noise where its interval excludes 0 and, with several seeds on either
    side, the score ranges of the two groups' seeds don't overlap.
    """

    scores: np.ndarray  # (1+C,)
    intervals: list[list[float] | None]
    excludes_0: list[bool]
    seeds_overlap: list[bool]  # False where both groups have one seed

    @property
    def beyond_noise(self) -> list[bool]:
        """True in the columns whose difference is more than noise."""
        both = zip(self.excludes_0, self.seeds_overlap, strict=True)
        return [excludes and not overlap for excludes, overlap in both]


def score_group(runs: list[np.ndarray], resamples: int = RESAMPLES) -> GroupScores:
    """Return the scores of runs that each have int64 (G,3,C): tp, fp, fn by group of images."""
    by_run = np.stack([_score(counts.sum(0)) for counts in runs])
    if len(runs[0]) == 1:  # each resample would be the same: it has no spread
        return GroupScores(by_run, np.full((1, by_run.shape[1]), np.nan))
    resampled = np.mean([_score(resample_sums(counts, resamples)) for counts in runs], 0)
    return GroupScores(by_run, resampled)


def subtract_scores(group: GroupScores, reference: GroupScores) -> Difference:
    """Return group minus reference; both must come from the same images in the same order."""
    differences = (group.resampled - reference.resampled).T
    intervals = [percentile_interval(column) for column in differences]
    several = len(group.by_run) > 1 or len(reference.by_run) > 1
    lowest = np.maximum(group.by_run.min(0), reference.by_run.min(0))
    highest = np.minimum(group.by_run.max(0), reference.by_run.max(0))
    return Difference(
        scores=group.scores - reference.scores,
        intervals=intervals,
        excludes_0=[bool(ends and (ends[0] > 0 or ends[1] < 0)) for ends in intervals],
        seeds_overlap=(several & (lowest <= highest)).tolist(),
    )


def _score(sums: np.ndarray) -> np.ndarray:
    """(...,3,C) of tp, fp, fn -> (...,1+C): mIoU and the IoU of each class."""
    ious = compute_ious(sums)
    return np.concatenate([compute_mious(ious)[..., None], ious], -1)
