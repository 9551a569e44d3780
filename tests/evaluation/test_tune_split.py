"""Choices on a split: known answers are found, noise is not stored, memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from segtrain.errors import SegtrainError, UsageError
from segtrain.evaluation import tuning as module
from segtrain.evaluation.prediction import Prediction
from segtrain.evaluation.tuning import PixelSample, Trials, halve_groups, tune_split
from segtrain.metrics.calibration import Calibration, compute_ece, compute_eces
from segtrain.models.tuning import Tuning


def draw(classes: int, seed: int, size: tuple[int, int] = (24, 32)) -> tuple[Tensor, Tensor]:
    """Return calibrated logits (1,C,H,W), and a target (1,H,W) drawn by their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, classes, *size, generator=generator)
    shares = logits.softmax(1).movedim(1, -1).flatten(0, -2)
    target = torch.multinomial(shares, 1, generator=generator).view(1, *size)
    target[:, :3] = 255
    return logits, target


def made_up(
    images: list[tuple[Tensor, Tensor]], groups: list[str], rows: int = 24
) -> SimpleNamespace:
    """Return an evaluation of these logits and targets, read in bands; None can't be read."""

    def predict(indices: range, reader) -> Iterator[Prediction]:
        for index in indices:
            if images[index] is None:
                continue
            logits, target = images[index]
            for top in range(0, logits.shape[2], rows):
                band = slice(top, top + rows)
                reader.update(logits[:, :, band], target[:, band], 255)
            yield Prediction(index, target[0], logits[0].argmax(0))

    classes = [str(c) for c in range(next(filter(None, images))[0].shape[1])]
    data = SimpleNamespace(lb_ignore=255, config=SimpleNamespace(path="set"))
    return SimpleNamespace(
        classes=classes, split="val", image_groups=groups, data=data, pairs=images, predict=predict
    )


def names(count: int, each: int = 1) -> list[str]:
    return [f"{i // each:03d}" for i in range(count)]


@pytest.mark.parametrize("scale", [3, 0.5])
def test_a_network_that_is_too_sure_gets_its_temperature(scale: float):
    images = [(scale * logits, target) for logits, target in (draw(4, i) for i in range(12))]
    tuning, (biases, temperature) = tune_split(made_up(images, names(12)))
    assert tuning.temperature == pytest.approx(scale, rel=0.1)
    assert temperature.helps and temperature in tuning.choices
    assert temperature.after < 0.03 < temperature.before
    assert temperature.gain == pytest.approx(temperature.before - temperature.after)
    low, high = temperature.interval
    assert 0 < low < temperature.gain < high
    if not biases.helps:
        assert tuning.biases == [0.0] * 4


def test_a_network_of_two_classes_gets_its_threshold():
    shift = torch.tensor([0.0, -2.0]).view(1, 2, 1, 1)
    images = [(logits + shift, target) for logits, target in (draw(2, i) for i in range(12))]
    tuning, (biases, _) = tune_split(made_up(images, names(12)))
    assert biases.helps and biases.interval[0] > 0
    assert tuning.biases == [0.0, pytest.approx(2, abs=0.5)]
    assert biases.after - biases.before == pytest.approx(biases.gain)


def test_noise_is_not_stored():
    """A calibrated network's choices on few images are noise: on others they don't help."""
    tuning, choices = tune_split(made_up([draw(4, i, (8, 8)) for i in range(4)], names(4)))
    assert tuning is None
    assert [choice.helps for choice in choices] == [False, False]


def test_a_choice_that_helps_one_half_alone_is_not_stored():
    """Its cross-fitted gain shows it: the halves want opposite thresholds."""
    images = []
    for i in range(8):
        logits, target = draw(2, i)
        images.append(
            (logits + torch.tensor([0.0, 3.0 if i < 4 else -3.0]).view(1, 2, 1, 1), target)
        )
    tuning, (biases, _) = tune_split(made_up(images, names(8)))
    assert biases.gain < 0 and not biases.helps
    assert tuning is None or tuning.biases == [0.0, 0.0]


def test_before_and_after_are_the_scores_of_all_pixels(monkeypatch):
    """Recomputed for each image with the tuning that the other half's sample gives."""
    images = [(3 * logits, target) for logits, target in (draw(3, i) for i in range(6))]
    monkeypatch.setattr(module, "SAMPLED", 900)
    _, (biases, temperature) = tune_split(made_up(images, names(6), rows=5))
    sample = PixelSample(3)
    for logits, target in images:
        for top in range(0, 24, 5):
            sample.update(logits[:, :, top : top + 5], target[:, top : top + 5], 255)
        sample.current += 1
    assert len(sample.truth) <= 300
    calibrations = [Calibration(), Calibration()]
    for i, (logits, target) in enumerate(images):
        fitted = sample.fit([(other < 3) != (i < 3) for other in range(6)])
        for calibration, tuning in zip(calibrations, fitted[2 * biases.helps :], strict=False):
            calibration.update(tuning.apply(logits), target, 255)
    found = [compute_ece(c.matrix) for c in calibrations]
    assert [temperature.before, temperature.after] == pytest.approx(found, abs=1e-9)


def test_groups_stay_in_one_half():
    assert halve_groups(["b", "a", "c", "a", "d"]) == [0, 0, 1, 0, 1]
    assert halve_groups(["b", "a", "c"]) == [0, 0, 1]


def test_a_sample_is_bounded_and_of_all_images_alike(monkeypatch):
    monkeypatch.setattr(module, "SAMPLED", 4000)
    sample = PixelSample(2)
    for i in range(40):
        sample.update(*draw(2, i), 255)
        sample.current += 1
        assert len(sample.truth) == len(sample.logits) == len(sample.image) <= 2000
    assert len(sample.truth) > 900
    counts = np.bincount(sample.image, minlength=40)
    expected = len(sample.truth) / 40
    assert abs(counts - expected).max() < 5 * expected**0.5
    assert 255 not in sample.truth


def test_an_image_that_cannot_be_read_shifts_no_other():
    images = [(3 * logits, target) for logits, target in (draw(3, i) for i in range(6))]
    whole = tune_split(made_up(images, names(6)))
    gap = tune_split(made_up([images[0], None, *images[1:]], ["000", "no", *names(6)[1:]]))
    assert gap == whole


def test_one_group_is_refused():
    with pytest.raises(UsageError, match=r"set: val is one group of images, 'a'; .* data.group_by"):
        tune_split(made_up([draw(2, 0), draw(2, 1)], ["a", "a"]))


def test_a_half_without_labels_is_refused():
    images = [draw(2, 0), draw(2, 1)]
    images[1][1].fill_(255)
    with pytest.raises(SegtrainError, match="every pixel of half of the groups is ignored"):
        tune_split(made_up(images, names(2)))


def test_trials_count_bands_as_whole_images():
    fitted = [[Tuning([0.0, 1.0, -1.0], 2.0)], [Tuning([0.0, 0.0, 3.0], 0.5)]]
    logits, target = draw(3, 0)
    whole, banded = (Trials(fitted, [0, 1], 3) for _ in range(2))
    whole.update(logits, target, 255)
    for top in range(0, 24, 7):
        banded.update(logits[:, :, top : top + 7], target[:, top : top + 7], 255)
    assert (whole.counts == banded.counts).all() and (whole.bins == banded.bins).all()
    ids = fitted[1][0].apply(logits).argmax(1)[target != 255]
    hits = (ids == target[target != 255]).sum()
    assert whole.counts[0, 0, 0].sum() == hits == whole.bins[0, 0, :, 1].sum()


def test_calibration_errors_of_many_matrices_are_those_of_each():
    matrices = []
    for i in range(3):
        calibration = Calibration()
        calibration.update(*draw(4, i), 255)
        matrices.append(calibration.matrix)
    expected = [compute_ece(matrix) for matrix in matrices]
    assert compute_eces(torch.stack(matrices).numpy()) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(compute_eces(np.zeros((1, 15, 3), np.int64)))
