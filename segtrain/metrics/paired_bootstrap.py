"""Differences between runs over the same images: each resample is drawn for all of them alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segtrain.metrics.bootstrap import RESAMPLES, interval, ious, mious, resampled


@dataclass(frozen=True)
class Measured:
    """The scores of one contender: column 0 is mIoU, then one a class; nan where undefined.

    Where it has several runs, which differ in their seed, its score is their mean.
    """

    by_run: np.ndarray  # (S,1+C) over all images
    drawn: np.ndarray  # (B,1+C) the mean over the runs in each resample

    @property
    def scores(self) -> np.ndarray:
        return self.by_run.mean(0)

    @property
    def intervals(self) -> list[list[float] | None]:
        return [interval(column) for column in self.drawn.T]


@dataclass(frozen=True)
class Difference:
    """One contender less another; lists of 1+C, mIoU first.

    A difference is beyond noise where its interval leaves out 0 and, with several seeds on either
    side, the two ranges of seeds have no score in common.
    """

    scores: np.ndarray  # (1+C,)
    intervals: list[list[float] | None]
    leaves_out_0: list[bool]
    seeds_overlap: list[bool]  # False for one seed on both sides

    @property
    def beyond_noise(self) -> list[bool]:
        both = zip(self.leaves_out_0, self.seeds_overlap, strict=True)
        return [out and not overlap for out, overlap in both]


def measure(runs: list[np.ndarray], resamples: int = RESAMPLES) -> Measured:
    """runs: for each seed int64 (G,3,C) of tp, fp, fn by image, or group of images."""
    by_run = np.stack([_scores(counts.sum(0)) for counts in runs])
    if len(runs[0]) == 1:  # the same draw each time: no spread to be seen
        return Measured(by_run, np.full((1, by_run.shape[1]), np.nan))
    drawn = np.mean([_scores(resampled(counts, resamples)) for counts in runs], 0)
    return Measured(by_run, drawn)


def difference(one: Measured, against: Measured) -> Difference:
    """Paired: both must come from the same groups in the same order."""
    intervals = [interval(column) for column in (one.drawn - against.drawn).T]
    several = len(one.by_run) > 1 or len(against.by_run) > 1
    lowest = np.maximum(one.by_run.min(0), against.by_run.min(0))
    highest = np.minimum(one.by_run.max(0), against.by_run.max(0))
    return Difference(
        scores=one.scores - against.scores,
        intervals=intervals,
        leaves_out_0=[bool(ends and (ends[0] > 0 or ends[1] < 0)) for ends in intervals],
        seeds_overlap=(several & (lowest <= highest)).tolist(),
    )


def _scores(sums: np.ndarray) -> np.ndarray:
    """(...,3,C) of tp, fp, fn -> (...,1+C): mIoU and the IoU of each class."""
    by_class = ious(sums)
    return np.concatenate([mious(by_class)[..., None], by_class], -1)
