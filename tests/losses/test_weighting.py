"""Cross entropy and OHEM against slow twins, and the k-th largest value that OHEM stands on."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.losses import build_loss
from segtrain.losses.weighting import OhemCE, kth_largest


def ohem_twin(logits, target, thresh=0.7, factor=16, ignore=255):
    """Value and gradient of OHEM by a sort: the mean of the k largest losses.

    k is the number of pixels whose true class has a probability under thresh, but at least
    max(1, n_valid // factor). Those tied at the cut share its places. thresh=None keeps all.
    """
    pixels = []  # loss, its gradient, place
    for n, y, x in np.ndindex(target.shape):
        if (label := target[n, y, x]) != ignore:
            z = logits[n, :, y, x].astype(np.float64)
            others = sum(math.exp(v - z[label]) for c, v in enumerate(z) if c != label)
            softmax = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            slope = softmax - (np.arange(len(z)) == label)
            pixels.append((math.log1p(others), slope, (n, y, x)))
    hard = sum(thresh is None or math.exp(-loss) < thresh for loss, *_ in pixels)
    kept = left = min(len(pixels), max(1, len(pixels) // factor, hard))
    value, gradient = 0.0, np.zeros(logits.shape)
    ordered = sorted(pixels, key=lambda pixel: -pixel[0])
    for loss, ties in itertools.groupby(ordered, key=lambda pixel: pixel[0]):
        ties = list(ties)
        share = min(1.0, left / len(ties))
        left -= share * len(ties)
        for _, slope, (n, y, x) in ties:
            value += share * loss / kept
            gradient[n, :, y, x] = share * slope / kept
    return value, gradient


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.item(), logits.grad


def assert_equal_twin(loss, logits, target, *args, **kwargs):
    value, gradient = value_and_gradient(loss, logits, target)
    expected, slopes = ohem_twin(logits.numpy(), target.numpy(), *args, **kwargs)
    assert math.isfinite(value)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


# what is added to the logit of the truth: the probability of the true class follows
KINDS = {"hard": -2.0, "mixed": 0.5, "easy": 5.0, "saturated": 60.0}


def scene(kind: str, seed: int, shape=(2, 5, 4), classes: int = 3) -> tuple:
    """Logits (N,C,H,W) and labels (N,H,W) of one kind; 'tied' repeats three easy pixels."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, shape, generator=generator)
    if kind == "tied":
        boost = 3 + 0.5 * torch.randint(0, 3, shape, generator=generator)
        return torch.zeros(shape[0], classes, *shape[1:]).scatter_(
            1, target.unsqueeze(1), boost.unsqueeze(1)), target  # fmt: skip
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator)
    truth = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    return logits + KINDS[kind] * truth, target


def ignore_all_but(target: torch.Tensor, n_valid: int, seed: int = 0) -> torch.Tensor:
    order = torch.randperm(target.numel(), generator=torch.Generator().manual_seed(seed))
    return target.flatten().index_fill(0, order[n_valid:], 255).view(target.shape)


def test_ohem_known_answer():
    torch.manual_seed(20)
    logits = torch.randn(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4))
    value = build_loss("ohem(thresh=0.7, n_min_factor=16)", 3)(logits, target)
    assert value.item() == pytest.approx(1.3310734, abs=2e-7)


@pytest.mark.parametrize("kind", [*KINDS, "tied"])
@pytest.mark.parametrize("factor", [3, 16])
def test_ohem_equals_twin_for_every_number_of_valid_pixels(kind, factor):
    loss = build_loss("ohem", 3, thresh=0.7, n_min_factor=factor)
    for n_valid in range(41):
        logits, target = scene(kind, seed=n_valid)
        assert_equal_twin(loss, logits, ignore_all_but(target, n_valid), 0.7, factor)


@pytest.mark.parametrize("thresh, factor", [(0.7, 16), (0.2, 2), (0.95, 5), (1.0, 16), (1e-3, 1)])
@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("ignore", [255, -1])
def test_ohem_equals_twin_whatever_its_arguments(thresh, factor, classes, ignore):
    loss = build_loss("ohem", classes, ignore, thresh=thresh, n_min_factor=factor)
    logits, target = scene("mixed", seed=factor, classes=classes)
    target.view(-1)[::7] = ignore
    assert_equal_twin(loss, logits, target, thresh, factor, ignore)


@pytest.mark.parametrize("kind", ["hard", "mixed", "easy"])
def test_ce_is_the_mean_over_valid_pixels(kind):
    logits, target = scene(kind, seed=3)
    assert_equal_twin(build_loss("ce", 3), logits, ignore_all_but(target, 29), thresh=None)


def test_thresh_1_keeps_every_pixel_that_has_a_loss():
    logits, target = scene("mixed", seed=4)
    ohem, ce = (build_loss(e, 3)(logits, target) for e in ("ohem(thresh=1)", "ce"))
    assert ohem.item() == pytest.approx(ce.item(), rel=1e-6)


@pytest.mark.parametrize(
    "n_valid, factor, kept",
    [(0, 16, 0), (1, 16, 1), (15, 16, 1), (31, 16, 1), (32, 16, 2), (10, 1, 10), (10, 3, 3)],
)
def test_ohem_keeps_at_least_one_in_factor_and_one(n_valid, factor, kept):
    nll = torch.linspace(0.01, 0.3, 40).view(1, 5, 8)  # all under -log(0.7)
    weights, count = OhemCE(0.7, factor).weights(nll, torch.arange(40).view(1, 5, 8) < n_valid)
    assert count.item() == kept
    assert weights.flatten().nonzero().flatten().tolist() == list(range(n_valid - kept, n_valid))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(40)), st.sampled_from([*KINDS, "tied"]), st.sampled_from([2, 16]))
def test_ohem_does_not_depend_on_the_order_of_pixels(order, kind, factor):
    loss = OhemCE(0.7, factor)
    logits, target = scene(kind, seed=1, shape=(1, 40, 1))
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    nll = nll.flatten().requires_grad_()
    valid = torch.arange(40) < 37
    for places in (list(range(40)), order):
        nll.grad = None
        value = loss(nll[places], valid[places])
        value.backward()
        if places == list(range(40)):
            expected, slopes = value.item(), nll.grad
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(nll.grad, slopes)


# ties, both zeros, a subnormal, the extremes, and anything between
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, 0.25, 0.25, 1.0, math.inf]),
    st.floats(0, width=32, allow_nan=False),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(FLOATS, st.booleans()), min_size=1, max_size=30), st.data())
def test_kth_largest_is_that_of_a_sort(dtype, pairs, data):
    values, valid = (np.array(column) for column in zip(*pairs))
    valid[data.draw(st.integers(0, len(pairs) - 1))] = True
    k = data.draw(st.integers(1, int(valid.sum())))
    values = values.astype(np.float32)
    found = kth_largest(torch.tensor(values).to(dtype), torch.tensor(valid), torch.tensor(k))
    assert found.item() == np.sort(values[valid])[::-1][k - 1]
