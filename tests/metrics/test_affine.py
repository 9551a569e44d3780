"""Temperature and biases against scipy, brute force, and networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logit
from sklearn.metrics import jaccard_score

from segtrain.metrics.affine import HOTTEST, fit_biases, fit_temperature, score_steps


def draw(pixels: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (P,C) in float32, and classes drawn by their softmax: they are calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(pixels, classes)).astype(np.float32) * 2
    shares = np.exp(log_softmax(logits, 1)).cumsum(1)
    return logits, (shares > rng.random((pixels, 1))).argmax(1)


@pytest.mark.parametrize("scale, classes", [(3, 4), (0.2, 4), (1, 2), (20, 19)])
def test_a_temperature_equals_scipys_least(scale: float, classes: int):
    logits, truth = draw(20_000, classes)
    logits = logits * np.float32(scale)

    def nll(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), 1)[range(len(truth)), truth].mean()

    best = minimize_scalar(nll, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(np.exp(best), rel=1e-4)
    assert found == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("scale", [1e-3, 5, 1e4])
def test_a_temperature_has_ends(scale: float):
    """Of a network that is always right, any lower one is better; always wrong, any higher one."""
    logits = np.array([[scale, 0], [0, scale]], np.float32)
    assert 1 / HOTTEST <= fit_temperature(logits, np.array([0, 1])) < 1.01
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(HOTTEST)


def test_logits_without_any_difference_have_the_temperature_1():
    assert fit_temperature(np.ones((7, 3), np.float32), np.array([0, 1, 2, 0, 1, 2, 0])) == 1


def score(logits: np.ndarray, truth: np.ndarray) -> float:
    found = logits.argmax(1)
    classes = np.unique(truth)
    return jaccard_score(truth, found, labels=classes, average="macro")


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_each_step_scores_as_its_own_argmax(classes: int):
    logits, truth = draw(500, classes, seed=classes)
    truth[truth == 1] = 0  # absent from the truth, so only counted where it is predicted
    steps = np.linspace(-6, 6, 25)
    for c in range(classes):
        one = np.eye(classes, dtype=np.float32)[c]
        expected = [score(logits + step * one, truth) for step in steps.astype(np.float32)]
        assert score_steps(logits, truth, c, steps) == pytest.approx(expected, abs=1e-12)


def test_classes_that_the_truth_lacks_are_not_driven_out():
    """They may occur elsewhere: only those that occur here move, against each other."""
    logits, truth = draw(2_000, 4)
    logits[:, 3] += 1
    kept = truth < 2
    biases = fit_biases(logits[kept], truth[kept])
    assert biases[2] == biases[3] and abs(biases).max() < 3


@pytest.mark.parametrize("scale", [1, 0.1, 30])
def test_of_two_classes_the_bias_is_the_best_threshold(scale: float):
    logits, truth = draw(20_000, 2)
    shift = logit(0.8)  # the network names class 1 from what is 0.8 on
    shifted = (logits - np.array([0, shift], np.float32)) * np.float32(scale)
    biases = fit_biases(shifted, truth)
    assert biases[0] == 0
    scores = [score(logits + np.array([0, b], np.float32), truth) for b in np.linspace(-1, 1, 201)]
    assert score(shifted + biases, truth) == pytest.approx(max(scores), abs=2e-3)
    assert biases[1] / scale == pytest.approx(shift, abs=0.4)


def test_biases_undo_those_of_a_network():
    logits, truth = draw(30_000, 4)
    shifted = logits + np.array([0, 1, -2, 0.5], np.float32)
    biases = fit_biases(shifted, truth)
    assert biases[1] < 0 < biases[2] and biases[0] == 0
    assert score(shifted + biases, truth) > score(logits, truth) - 0.002
    assert score(logits, truth) > score(shifted, truth) + 0.05
