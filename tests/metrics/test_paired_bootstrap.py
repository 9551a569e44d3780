"""Paired differences: against plain loops, by properties, and where pairing matters."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.metrics.paired_bootstrap import score_group, subtract_scores


def counts_of(draw: random.Random, images: int, better: float) -> list[list[list[int]]]:
    """tp, fp, fn by image of three classes, of each of which an image has 100 pixels."""
    found = []
    for _ in range(images):
        hit = [min(100, max(0, round(draw.gauss(60 + better, 15)))) for _ in range(3)]
        found.append([hit, [draw.randint(0, 20) for _ in range(3)], [100 - h for h in hit]])
    return found


def twin_scores(rows: list) -> list[float]:
    """mIoU and IoU of each class, of counts of images: no numpy, nothing of ours."""
    by_class = []
    for c in range(3):
        tp, fp, fn = (sum(row[kind][c] for row in rows) for kind in range(3))
        by_class.append(tp / (tp + fp + fn))
    return [sum(by_class) / 3, *by_class]


def test_a_twin_in_plain_loops_agrees():
    draw = random.Random(3)
    a, b = counts_of(draw, 25, 0), counts_of(draw, 25, 4)
    drawn = []
    for _ in range(1500):
        chosen = [draw.randrange(25) for _ in range(25)]
        one, other = (twin_scores([rows[i] for i in chosen]) for rows in (b, a))
        drawn.append([x - y for x, y in zip(one, other, strict=True)])
    found = subtract_scores(score_group([np.array(b)]), score_group([np.array(a)]))
    exact = [x - y for x, y in zip(twin_scores(b), twin_scores(a), strict=True)]
    assert found.scores.tolist() == pytest.approx(exact)
    for values, (low, high) in zip(zip(*drawn, strict=True), found.intervals, strict=True):
        values = sorted(values)
        width = high - low
        assert low == pytest.approx(values[37], abs=0.15 * width)
        assert high == pytest.approx(values[1462], abs=0.15 * width)


def test_pairing_narrows_the_interval():
    """Images are hard or easy for both: independent draws would call this noise."""
    hard = [[[10 * i] * 2, [5] * 2, [100 - 10 * i] * 2] for i in range(1, 9)]
    easier = [[[10 * i + 2] * 2, [5] * 2, [98 - 10 * i] * 2] for i in range(1, 9)]
    one, against = score_group([np.array(easier)]), score_group([np.array(hard)])
    found = subtract_scores(one, against)
    assert found.beyond_noise[0]
    assert one.intervals[0][0] < against.intervals[0][1]


COUNTS = st.lists(
    st.lists(st.lists(st.integers(0, 30), min_size=2, max_size=2), min_size=3, max_size=3),
    min_size=3, max_size=3,
)  # fmt: skip
RUNS = st.lists(COUNTS.map(np.array), min_size=1, max_size=3)


@given(RUNS, RUNS)
@settings(deadline=None, max_examples=60)
def test_swapping_the_two_turns_the_sign(one: list, other: list):
    a, b = score_group(one, 40), score_group(other, 40)
    forth, back = subtract_scores(a, b), subtract_scores(b, a)
    np.testing.assert_array_equal(forth.scores, -back.scores)
    for there, here in zip(forth.intervals, back.intervals, strict=True):
        assert (there is None) == (here is None)
        assert there is None or there == pytest.approx([-here[1], -here[0]], abs=1e-12)
    assert forth.seeds_overlap == back.seeds_overlap


@given(RUNS)
@settings(deadline=None, max_examples=30)
def test_nothing_differs_from_itself(runs: list):
    found = subtract_scores(score_group(runs, 40), score_group(runs, 40))
    assert all(np.isnan(score) or score == 0 for score in found.scores)
    assert all(ends in (None, [0, 0]) for ends in found.intervals)
    assert not any(found.beyond_noise)
