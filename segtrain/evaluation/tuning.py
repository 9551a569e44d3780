"""Choices made on a split: fitted on one half of its groups and scored on the other, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segtrain.console import progress
from segtrain.errors import SegtrainError, UsageError
from segtrain.evaluation.accumulator import sum_ids
from segtrain.evaluation.evaluation import Evaluation
from segtrain.evaluation.prediction import Prediction
from segtrain.evaluation.score_record import digest_images
from segtrain.metrics.affine import fit_biases, fit_temperature
from segtrain.metrics.bootstrap import (
    compute_ious,
    compute_mious,
    percentile_interval,
    resample_sums,
    sum_by_group,
)
from segtrain.metrics.calibration import Calibration, compute_eces
from segtrain.metrics.confusion import Confusion, derive_counts
from segtrain.models.tuning import MeasuredChoice, Tuning

SAMPLED = 2**22  # logits that are kept to fit on: 16 MiB
DIGITS = 4  # of a bias and a temperature
LEAST_GROUPS = 5  # that fewer all gain is chance: more than 1 in 2**5


class PixelSample:
    """Random pixels of a split, each as likely as any other, in bounded memory.

    Each counted pixel draws a number in 0..1 and stays while that is below `share`, which is halved
    whenever there are too many. The seed is fixed.
    """

    def __init__(self, num_classes: int):
        self.limit, self.share, self.current = SAMPLED // num_classes, 1.0, 0
        self.generator = torch.Generator().manual_seed(0)
        self.drawn, self.image, self.truth = (np.zeros(0, kind) for kind in (float, int, int))
        self.logits = np.zeros((0, num_classes), np.float32)

    def update(self, logits: Tensor, target: Tensor, lb_ignore: int) -> None:
        """Draw from logits (1,C,H,W) of an image, or of a part of it, and target (1,H,W)."""
        drawn = torch.rand(target.shape, generator=self.generator).to(target.device)
        chosen = (drawn < self.share) & (target != lb_ignore)
        truth = target[chosen].cpu().numpy()
        self.drawn = np.append(self.drawn, drawn[chosen].cpu().numpy())
        self.image = np.append(self.image, np.full(len(truth), self.current))
        self.truth = np.append(self.truth, truth)
        self.logits = np.append(self.logits, logits.movedim(1, -1)[chosen].cpu().numpy(), 0)
        while len(self.drawn) > self.limit:
            self.share /= 2
            kept = self.drawn < self.share
            for name in ("drawn", "image", "truth", "logits"):
                setattr(self, name, getattr(self, name)[kept])

    def fit(self, images: Sequence[bool]) -> list[Tuning]:
        """Return the tunings of Trials fitted to the images that are True."""
        used = np.array(images)[self.image]
        logits, truth = self.logits[used], self.truth[used]
        biases = fit_biases(logits, truth).round(DIGITS)
        plain = Tuning([0.0] * len(biases))
        tunings = []
        for each in (plain, replace(plain, biases=biases.tolist())):
            raised = logits + np.array(each.biases, np.float32)
            temperature = round(fit_temperature(raised, truth), DIGITS)
            tunings += [each, replace(each, temperature=temperature)]
        return tunings


class Trials:
    """Counts of each image under four tunings: none, the temperature, biases, both.

    An image's tunings are fitted on the half that it isn't in.
    """

    def __init__(self, fitted: Sequence[list[Tuning]], halves: Sequence[int], num_classes: int):
        """Take the tunings fitted on each half, and the half that each image is in."""
        self.fitted, self.halves, self.num_classes = fitted, halves, num_classes
        self.current, shape = 0, (len(fitted[0]), len(halves))
        self.counts = np.zeros((*shape, 3, num_classes), np.int64)  # tp, fp, fn
        self.bins = np.zeros((*shape, *Calibration().matrix.shape), np.int64)

    def update(self, logits: Tensor, target: Tensor, lb_ignore: int) -> None:
        """Count logits (1,C,H,W) of an image, or of a part of it, and target (1,H,W)."""
        for k, tuning in enumerate(self.fitted[1 - self.halves[self.current]]):
            tuned = tuning.apply(logits)
            confusion = Confusion(self.num_classes, lb_ignore, logits.device)
            calibration = Calibration(device=logits.device)
            confusion.update(tuned.max(1).indices, target)
            calibration.update(tuned, target, lb_ignore)
            self.counts[k, self.current] += derive_counts(confusion.matrix).cpu().numpy()
            self.bins[k, self.current] += calibration.matrix.cpu().numpy()


def halve_groups(groups: Sequence[str]) -> list[int]:
    """Return the half, 0 or 1, of each image: the first groups by name, or the last.

    So neighbouring frames of a video are in one half, also where each is a group of its own.
    """
    order = sorted(set(groups))
    first = set(order[: (len(order) + 1) // 2])
    return [int(group not in first) for group in groups]


def tune_split(evaluation: Evaluation) -> tuple[Tuning | None, list[MeasuredChoice]]:
    """Return the tuning of a network that is predicted without one, and all choices.

    Those that help are in it; it is None where none does. The evaluation's images are one a batch,
    with no other views. Raise UsageError where the split has a single group.
    """
    num_classes, split = len(evaluation.classes), evaluation.split
    place, groups = f"{evaluation.data.config.path}: {split}", evaluation.image_groups
    if len(set(groups)) < 2:
        raise UsageError(
            f"{place} is one group of images, {groups[0]!r}; a choice is fitted on half of the "
            "groups and scored on the others: take a split of more images, or another data.group_by"
        )
    sample, truths = PixelSample(num_classes), dict[int, int]()
    for prediction in _predict_with(evaluation, sample, "sampling"):
        target = prediction.target.cpu().numpy()
        truths[prediction.index] = sum_ids(target, evaluation.data.lb_ignore)
    groups = [groups[index] for index in truths]
    halves = halve_groups(groups)
    if len({halves[image] for image in set(sample.image.tolist())}) < 2:
        raise SegtrainError(
            f"{place}: every pixel of half of the groups is ignored; a choice is fitted on that "
            "half and scored on the other: check data.classes and data.label_map"
        )
    fitted = [sample.fit([half == fold for half in halves]) for fold in (0, 1)]
    trials = Trials(fitted, halves, num_classes)
    for _ in _predict_with(evaluation, trials, "scoring"):
        pass
    biases = _measure("biases", trials.counts[[0, 2]], groups)
    base = 2 * biases.helps
    temperature = _measure("temperature", trials.bins[[base, base + 1]], groups)
    choices = [biases, temperature]
    found = sample.fit([True] * len(halves))[base + temperature.helps]
    kept = [choice for choice in choices if choice.helps]
    found = replace(found, split=split, truth=digest_images(truths), choices=kept)
    return found if kept else None, choices


def _predict_with(
    evaluation: Evaluation, reader: PixelSample | Trials, label: str
) -> Iterator[Prediction]:
    """Yield the predictions of a split while `reader` reads their logits, image by image."""
    indices = range(len(evaluation.pairs))
    for prediction in progress(evaluation.predict(indices, reader), label, len(indices)):
        yield prediction
        reader.current += 1  # the next logits are of the next image; unreadable ones have none


def _measure(
    name: Literal["biases", "temperature"], counts: np.ndarray, groups: list[str]
) -> MeasuredChoice:
    """Return a choice with its gain over images, of counts before and after it (2,I,3,C).

    Biases are measured by the mIoU, the temperature by the calibration error, of bins (2,I,B,3).
    """
    score, sign = (compute_eces, -1) if name == "temperature" else (_compute_mious, 1)
    sums = [sum_by_group(each, groups) for each in counts]
    before, after = (float(score(each.sum(0))) for each in sums)
    worse, better = (score(resample_sums(each)) for each in sums)
    low, high = percentile_interval(sign * (better - worse)) or (0.0, 0.0)
    if len(sums[0]) < LEAST_GROUPS:
        low, high = min(low, 0.0), max(high, 0.0)
    return MeasuredChoice(name, before, after, sign * (after - before), [low, high])


def _compute_mious(sums: np.ndarray) -> np.ndarray:
    return compute_mious(compute_ious(sums))
