"""Temperature and biases of logits, fitted to pixels whose class is known."""

from __future__ import annotations

import numpy as np

from segtrain.metrics.bootstrap import compute_ious, compute_mious

HOTTEST = 100.0  # temperatures are in 1 / HOTTEST to HOTTEST
# changes of a bias that are tried, in log-odds of a calibrated network
STEPS = np.arange(-100, 101) / 20
ROUNDS = 10  # over all classes
LEAST_GAIN = 1e-5  # of the mIoU, for another round


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the T at which softmax(logits / T) has the least negative log-likelihood.

    logits: (P,C); truth: (P,) class ids. Newton's method on 1 / T, in which it is convex (Guo et
    al. 2017, arXiv:1706.04599).
    """
    centred = logits - logits.max(1, keepdims=True)
    own = np.take_along_axis(centred, truth[:, None].astype(np.int64), 1).mean(dtype=np.float64)
    inverse = 1.0
    for _ in range(50):
        shares = np.exp(inverse * centred)
        shares /= shares.sum(1, keepdims=True)
        mean = (shares * centred).sum(1, dtype=np.float64)
        spread = (shares * centred**2).sum(1, dtype=np.float64) - mean**2
        step = (mean.mean() - own) / max(spread.mean(), np.finfo(np.float32).tiny)
        # far from the least, the curvature says little
        found = np.clip(inverse - step, inverse / 2, inverse * 2)
        inverse, last = float(np.clip(found, 1 / HOTTEST, HOTTEST)), inverse
        if abs(inverse - last) < 1e-6 * last:
            break
    return 1 / inverse


def fit_biases(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return (C,) biases, 0 for the first class, whose argmax(logits + biases) has a high mIoU.

    logits: (P,C); truth: (P,) class ids. One class after the other gets the best of STEPS, for as
    long as that helps. Of two classes, the second's bias is minus the logit of its threshold.
    Classes that the truth lacks count in no mean: where they occur is not known.
    """
    present = np.unique(truth)
    biases, best = np.zeros(logits.shape[1]), -1.0
    steps = STEPS * fit_temperature(logits, truth)
    for _ in range(ROUNDS):
        before = best
        for c in present[len(biases) == 2 :]:
            mious = score_steps(logits + biases.astype(np.float32), truth, c, steps)
            order = np.argsort(abs(steps), kind="stable")  # of equal ones the smallest
            chosen = order[mious[order].argmax()]
            if mious[chosen] > best:
                biases[c] += steps[chosen]
                best = float(mious[chosen])
        if best - before < LEAST_GAIN:
            break
    return biases - biases[0]


def score_steps(logits: np.ndarray, truth: np.ndarray, c: int, steps: np.ndarray) -> np.ndarray:
    """Return the mIoU (S,) of logits (P,C) with each of `steps`, in rising order, added to class c.

    It is the mean over the classes in the truth. Each pixel is of its best other class up to a step
    of its own, and of class c from there on.
    """
    classes, count = logits.shape[1], len(steps)
    others = logits.copy()
    others[:, c] = -np.inf
    rival = others.argmax(1)
    margin = np.take_along_axis(others, rival[:, None], 1)[:, 0] - logits[:, c]
    turn = np.searchsorted(steps, margin)  # its step, or `count` where none is large enough

    def count_pixels(chosen: np.ndarray) -> np.ndarray:
        """Return (S,C): the chosen pixels by their class at each step."""
        cells = turn[chosen] * classes + rival[chosen]
        by_step = np.bincount(cells, minlength=(count + 1) * classes).reshape(-1, classes)
        pixels = by_step.sum(0) - by_step[:count].cumsum(0)
        pixels[:, c] = by_step[:count].sum(1).cumsum()
        return pixels

    everywhere = np.ones(len(truth), bool)
    predicted = count_pixels(everywhere)
    hits = count_pixels(rival == truth)
    hits[:, c] = np.bincount(turn[truth == c], minlength=count + 1)[:count].cumsum()
    true = np.bincount(truth, minlength=classes)
    ious = compute_ious(np.stack([hits, predicted - hits, true - hits], 1))
    return compute_mious(ious[:, true > 0])
