"""Regions by size against scipy's labels, and by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from segtrain.metrics.regions import count_regions


def twin(prediction, target, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, 3, 2), int)
    for c in range(num_classes):
        regions, number = label(target == c, np.ones((3, 3)))
        for region in range(1, number + 1):
            here = regions == region
            size = 0 if here.sum() < 1024 else 1 if here.sum() < 9216 else 2
            counts[c, size] += [1, (prediction[here] == c).mean() >= 0.5]
    return counts


@given(
    seed=st.integers(0, 2**32),
    ignore=st.sampled_from([-1, 255, 1000]),
    cell=st.sampled_from([(1, 1), (32, 32), (24, 40), (60, 61)]),
    dtype=st.sampled_from([np.int16, np.int64]),
)
@settings(max_examples=40, deadline=None)
def test_equals_scipys_labels(seed, ignore, cell, dtype):
    """Small maps, and the same in cells so large that all sizes are there."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 8, 2)
    target = rng.choice([0, 1, 1, 2, ignore], shape).astype(dtype)
    prediction = np.where(rng.random(shape) < 0.5, target.clip(0, 3), rng.integers(0, 4, shape))
    target, prediction = (np.kron(x, np.ones(cell, dtype)) for x in (target, prediction))
    before = target.copy()
    counts = count_regions(prediction, target, 4)
    assert counts.dtype == np.int64
    assert counts.tolist() == twin(prediction, target, 4).tolist()
    assert count_regions(prediction.T, target.T, 4).tolist() == counts.tolist()
    assert (target == before).all()


def test_counts_worked_out_by_hand():
    """Corners connect, ignored pixels separate; half of the pixels is enough, fewer are not."""
    target = np.array([
        [1, 0, 0, 0, 0, 2],
        [0, 1, 0, 0, 9, 9],
        [0, 0, 0, 0, 9, 2],
        [0, 0, 0, 0, 9, 2],
        [0, 0, 0, 0, 9, 2],
    ])  # fmt: skip
    prediction = np.zeros_like(target)
    prediction[0, 0] = 1  # one of two
    prediction[2, 5] = 2  # one of three
    prediction[0, 5] = 1
    assert count_regions(prediction, target, 3)[:, 0].tolist() == [[1, 1], [1, 1], [2, 0]]


def test_sizes_are_those_of_coco():
    target = np.zeros((200, 400), np.uint8)
    for c, (height, width) in enumerate([(31, 33), (32, 32), (95, 97), (96, 96)], 1):
        target[1 : 1 + height, 100 * c - 99 : 100 * c - 99 + width] = c
    counts = count_regions(target, target, 6)
    sizes = [by_size.index([1, 1]) for by_size in counts[1:5].tolist()]
    assert sizes == [0, 1, 1, 2]
    assert counts.sum(1).tolist() == [[1, 1]] * 5 + [[0, 0]]
