"""Bootstrap intervals against numbers by hand, scipy, and properties of any counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segtrain.metrics import bootstrap
from segtrain.metrics.bootstrap import (
    compute_ious,
    compute_mious,
    percentile_interval,
    resample_sums,
    sum_by_group,
)

# (2 groups, tp fp fn, 2 classes); class 1 is only in the second
TWO = np.array([[[6, 0], [2, 0], [2, 0]], [[1, 3], [0, 3], [3, 0]]])


def random_counts(seed: int, images: int = 20, classes: int = 4) -> np.ndarray:
    counts = np.random.default_rng(seed).integers(0, 50, (images, 3, classes))
    counts[::3, :, 1] = 0  # a class that many images lack
    return counts


def test_groups_worked_out_by_hand():
    counts = np.arange(4 * 3).reshape(4, 3, 1)
    sums = sum_by_group(counts, ["b", "a", "b", "a"])
    assert sums.dtype == np.int64
    assert sums[..., 0].tolist() == [[0 + 6, 1 + 7, 2 + 8], [3 + 9, 4 + 10, 5 + 11]]


def test_ious_and_their_means_worked_out_by_hand():
    assert compute_ious(TWO[1]).tolist() == [1 / 4, 3 / 6]
    first = compute_ious(TWO[0])
    assert first[0] == 6 / 10 and np.isnan(first[1])
    assert compute_mious(compute_ious(TWO)).tolist() == [6 / 10, 3 / 8]
    assert np.isnan(compute_mious(compute_ious(np.zeros((3, 2), int))))


def test_one_group_has_no_spread():
    by_class = compute_ious(resample_sums(TWO[1:]))
    assert [percentile_interval(column) for column in by_class.T] == [[0.25, 0.25], [0.5, 0.5]]
    assert percentile_interval(compute_mious(by_class)) == [0.375, 0.375]


def test_two_groups_worked_out_by_hand():
    """Twice the first, one of each or twice the second, in one, two and one of four resamples."""
    by_class = compute_ious(resample_sums(TWO, 4000))
    values, times = np.unique(by_class[:, 0], return_counts=True)
    assert values.tolist() == [1 / 4, 7 / 14, 6 / 10]
    assert times / 4000 == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.03)
    # class 1 is absent from those of the first group only, and leaves their mean
    means = {1 / 4: (1 / 4 + 1 / 2) / 2, 1 / 2: (1 / 2 + 1 / 2) / 2, 6 / 10: 6 / 10}
    assert compute_mious(by_class).tolist() == [means[value] for value in by_class[:, 0]]
    assert (np.isnan(by_class[:, 1]) == (by_class[:, 0] == 6 / 10)).all()
    assert percentile_interval(by_class[:, 1]) == [0.5, 0.5]


def test_interval_worked_out_by_hand():
    values = np.concatenate([np.arange(201), np.full(50, np.nan)]) / 200
    assert percentile_interval(np.random.default_rng(0).permutation(values)) == [0.025, 0.975]
    assert percentile_interval(np.full(9, np.nan)) is None


@pytest.mark.parametrize("at_once", [2**20, 30, 1])
def test_each_resample_draws_as_many_groups_as_there_are(at_once, monkeypatch):
    monkeypatch.setattr(bootstrap, "CHUNK", at_once)
    drawn = resample_sums(np.eye(12, dtype=int).reshape(12, 3, 4), 3000).reshape(3000, 12)
    assert (drawn.sum(1) == 12).all()
    assert drawn.mean(0) == pytest.approx(1, abs=0.1)
    assert drawn.var(0) == pytest.approx(11 / 12, abs=0.15)  # of a multinomial
    assert abs(np.corrcoef(drawn[1:].ravel(), drawn[:-1].ravel())[0, 1]) < 0.03


def test_draws_are_the_same_for_all_counts_of_as_many_groups_and_sums_exact():
    drawn = resample_sums(np.eye(12, dtype=int).reshape(12, 3, 4), 200, seed=7).reshape(200, 12)
    counts = np.random.default_rng(1).integers(2**48, 2**49, (12, 3, 5))
    expected = drawn.astype(int).astype(object) @ counts.reshape(12, 15).astype(object)
    assert (resample_sums(counts, 200, seed=7).reshape(200, 15) == expected).all()
    assert (resample_sums(counts, 200, seed=8).reshape(200, 15) != expected).any()


@given(st.integers(0, 2**32), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_groups_of_one_image_and_another_order(seed, images):
    counts = random_counts(seed, images)
    assert (sum_by_group(counts, [f"image {i}" for i in range(images)]) == counts).all()
    rng = np.random.default_rng(seed)
    groups, order = rng.choice(list("abcde"), images), rng.permutation(images)
    one, other = (
        sum_by_group(counts, list(groups)),
        sum_by_group(counts[order], list(groups[order])),
    )
    assert (one.sum(0) == counts.sum(0)).all() and len(one) == len(set(groups))
    assert sorted(one.tolist()) == sorted(other.tolist())


def pixels_miou(prediction: np.ndarray, target: np.ndarray) -> float:
    """Return the mIoU from the pixels themselves; classes in neither map are left out."""
    classes = set(prediction.flat) | set(target.flat)
    shares = [
        ((prediction == c) & (target == c)).sum() / ((prediction == c) | (target == c)).sum()
        for c in classes
    ]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", range(3))
def test_equals_scipys_bootstrap(seed):
    """Images differ in how well they are predicted; class 3 is in a few of them only."""
    rng = np.random.default_rng(seed)
    images = 25
    target = rng.choice(3, (images, 30), p=[0.6, 0.3, 0.1])
    target[:3, :5] = 3
    right = rng.random((images, 30)) < rng.uniform(0.3, 1, (images, 1))
    prediction = np.where(right, target, rng.integers(0, 3, target.shape))
    counts = np.array([
        [[((p == c) & (t == c)).sum() for c in range(4)],
         [((p == c) & (t != c)).sum() for c in range(4)],
         [((p != c) & (t == c)).sum() for c in range(4)]]
        for p, t in zip(prediction, target, strict=True)
    ])  # fmt: skip
    low, high = percentile_interval(compute_mious(compute_ious(resample_sums(counts))))
    expected = stats.bootstrap(
        (np.arange(images),), lambda drawn: pixels_miou(prediction[drawn], target[drawn]),
        n_resamples=2000, vectorized=False, method="percentile", rng=seed,
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert (low, high) == pytest.approx(tuple(expected), abs=0.1 * width)
    assert low < pixels_miou(prediction, target) < high
