"""Boundary IoU against binary erosion class by class, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from segtrain.metrics.boundary import count_boundaries


def twin(prediction, target, num_classes: int, ignore: int, ratio: float) -> np.ndarray:
    """Return the counts as Cheng et al. 2021 define them, one mask at a time."""
    height, width = target.shape
    times = max(1, round(ratio * (height**2 + width**2) ** 0.5))

    def boundary(mask):
        inner = binary_erosion(mask, np.ones((3, 3)), iterations=times, border_value=0)
        return mask & ~inner

    pairs = [
        (boundary((prediction == c) & (target != ignore)), boundary(target == c))
        for c in range(num_classes)
    ]
    return np.array([[(p & t).sum() for p, t in pairs], [(p | t).sum() for p, t in pairs]])


@st.composite
def cases(draw):
    """Maps of a few blocks, so that boundary regions have an inside; some pixels are ignored."""
    num_classes = draw(st.sampled_from([1, 2, 3, 5, 255, 256, 300]))
    ignore = draw(st.sampled_from([-1, 255, 1000])) if num_classes < 255 else -1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    block = draw(st.sampled_from([1, 4, 9]))
    some = rng.integers(0, num_classes, 4)  # close together in space, any in value
    coarse = rng.choice(some, (height // block + 1, width // block + 1))
    target = np.kron(coarse, np.ones((block, block), int))[:height, :width]
    prediction = np.roll(target, draw(st.integers(0, 3)), draw(st.integers(0, 1)))
    noise = rng.random(target.shape) < draw(st.sampled_from([0, 0.1]))
    prediction = np.where(noise, rng.choice(some, target.shape), prediction)
    target[rng.random(target.shape) < draw(st.sampled_from([0, 0.02, 0.5, 1]))] = ignore
    return prediction, target, num_classes, ignore


@given(cases(), st.sampled_from([0.001, 0.02, 0.1, 0.2, 0.6]))
@settings(max_examples=150, deadline=None)
def test_equals_erosion_of_each_mask(case, ratio):
    counts = count_boundaries(*case, ratio)
    assert counts.dtype == np.int64
    assert counts.tolist() == twin(*case, ratio).tolist()


def square(left: int) -> np.ndarray:
    image = np.zeros((7, 7), np.int64)
    image[2:5, left : left + 3] = 1
    return image


def test_counts_worked_out_by_hand():
    """A square of 3 x 3, predicted a column too far right; regions are one pixel wide.

    Class 1: two rings of 8 that share 4. Class 0: of the truth all 40, as each touches the square
    or the image's border; of the prediction 35, without the 5 between border and square at the
    left, of which 3 are in the true square.
    """
    expected = [[32, 4], [40 + 35 - 32, 8 + 8 - 4]]
    assert count_boundaries(square(3), square(2), 2, 255).tolist() == expected


def test_equal_masks_agree_everywhere_and_wide_regions_are_whole_masks():
    assert count_boundaries(square(2), square(2), 3, 255).tolist() == [[40, 8, 0]] * 2
    wide = count_boundaries(square(3), square(2), 2, 255, ratio=1)
    assert wide.tolist() == [[37, 6], [43, 12]]  # those of the plain IoU


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_any_integers_in_any_layout(dtype):
    rng = np.random.default_rng(0)
    prediction, target = rng.integers(0, 3, (2, 20, 31)).astype(dtype)
    target[:3] = 200 if dtype == np.uint8 else 1000
    ignore, before = int(target[0, 0]), target.copy()
    expected = twin(prediction, target, 3, ignore, 0.1).tolist()
    assert count_boundaries(prediction, target, 3, ignore, 0.1).tolist() == expected
    assert count_boundaries(prediction.T, target.T, 3, ignore, 0.1).tolist() == expected
    flipped = prediction[::-1, ::-1], target[::-1, ::-1]
    assert count_boundaries(*flipped, 3, ignore, 0.1).tolist() == expected
    assert (target == before).all()
