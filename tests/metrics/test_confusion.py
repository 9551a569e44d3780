"""The confusion matrix and its scores against scikit-learn, torchmetrics and numbers by hand."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from segtrain.metrics.confusion import Confusion, average_iou, derive_counts, score_matrix

NAMES = ["road", "tree", "sky", "car"]


def batch(seed: int, ignore: int, images: int = 3) -> tuple:
    """Predictions that are right in about two of three pixels; a tenth of the truth is ignored."""
    rng = np.random.default_rng(seed)
    target = rng.choice(4, (images, 9, 8), p=[0.5, 0.3, 0.15, 0.05])
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 4, target.shape))
    target[rng.random(target.shape) < 0.1] = ignore
    return torch.tensor(prediction), torch.tensor(target)


def confusion(prediction, target, classes: int = 4, ignore: int = 255) -> Confusion:
    found = Confusion(classes, ignore)
    found.update(torch.as_tensor(prediction), torch.as_tensor(target))
    return found


def column(scores, key: str) -> list:
    return [getattr(row, key) for row in scores.classes]


@pytest.mark.parametrize("seed, ignore", [(0, 255), (1, 255), (2, -1)])
def test_equals_torchmetrics(seed, ignore):
    prediction, target = batch(seed, ignore)
    matrix = confusion(prediction, target, ignore=ignore).matrix
    expected = MulticlassConfusionMatrix(4, ignore_index=ignore)(prediction, target)
    assert matrix.dtype == torch.int64 and torch.equal(matrix, expected)
    jaccard = {average: MulticlassJaccardIndex(4, average=average, ignore_index=ignore)
               for average in ("none", "macro")}  # fmt: skip
    scores = score_matrix(matrix, NAMES)
    assert column(scores, "iou") == pytest.approx(jaccard["none"](prediction, target).tolist())
    assert scores.miou == pytest.approx(jaccard["macro"](prediction, target).item())


@pytest.mark.parametrize("seed, ignore", [(3, 255), (4, -1)])
def test_equals_scikit_learn(seed, ignore):
    prediction, target = batch(seed, ignore)
    matrix = confusion(prediction, target, ignore=ignore).matrix
    truth, claimed = target[target != ignore].numpy(), prediction[target != ignore].numpy()
    assert matrix.tolist() == sk.confusion_matrix(truth, claimed).tolist()
    _, fp, fn, tp = sk.multilabel_confusion_matrix(truth, claimed).reshape(4, 4).T
    assert derive_counts(matrix).tolist() == [tp.tolist(), fp.tolist(), fn.tolist()]
    scores = score_matrix(matrix, NAMES)
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, claimed)
    assert column(scores, "precision") == pytest.approx(precision.tolist())
    assert column(scores, "recall") == pytest.approx(recall.tolist())
    assert column(scores, "dice") == pytest.approx(f1.tolist())
    assert column(scores, "share") == pytest.approx((support / support.sum()).tolist())
    assert scores.pixel_accuracy == pytest.approx(sk.accuracy_score(truth, claimed))
    assert scores.mean_accuracy == pytest.approx(sk.balanced_accuracy_score(truth, claimed))
    assert scores.fw_iou == pytest.approx(sk.jaccard_score(truth, claimed, average="weighted"))


def test_scores_worked_out_by_hand():
    prediction = [[0, 0, 1], [1, 1, 2], [1, 0, 2]]
    target = [[0, 0, 0], [1, 1, 255], [1, 1, 2]]
    matrix = confusion(prediction, target, classes=3).matrix
    assert matrix.tolist() == [[2, 1, 0], [1, 3, 0], [0, 0, 1]]
    assert derive_counts(matrix).tolist() == [[2, 3, 1], [1, 1, 0], [1, 1, 0]]
    scores = score_matrix(matrix, NAMES[:3])
    assert column(scores, "iou") == pytest.approx([2 / 4, 3 / 5, 1 / 1])
    assert column(scores, "dice") == pytest.approx([4 / 6, 6 / 8, 2 / 2])
    assert scores.miou == scores.miou_absent_as_0 == pytest.approx(0.7)
    assert scores.pixel_accuracy == pytest.approx(6 / 8)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 3 / 4 + 1) / 3)
    assert scores.fw_iou == pytest.approx((3 * 0.5 + 4 * 0.6 + 1 * 1) / 8)


def test_absent_and_invented_classes():
    # sky is predicted but never true, car is neither
    scores = score_matrix(confusion([[0, 0, 1, 2]], [[0, 0, 1, 1]]).matrix, NAMES)
    assert column(scores, "iou") == [1, 0.5, 0, None]
    assert column(scores, "recall") == [1, 0.5, None, None]
    assert column(scores, "precision") == [1, 1, 0, None]
    assert scores.miou == pytest.approx(1.5 / 3)
    assert scores.miou_absent_as_0 == pytest.approx(1.5 / 4)
    assert scores.mean_accuracy == pytest.approx(1.5 / 2)
    assert scores.absent == ["car"]


@pytest.mark.parametrize("present", [[0, 1, 2, 3], [1, 3], [2], []])
def test_the_average_on_the_device_is_the_same(present):
    torch.manual_seed(0)
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    for true in present:
        matrix[true, present] = torch.randint(1, 9, (len(present),))
    average = average_iou(matrix).item()
    expected = score_matrix(matrix, list("abcd")).miou
    assert np.isnan(average) if expected is None else average == pytest.approx(expected)


def test_everything_ignored_is_undefined():
    scores = score_matrix(confusion([[0, 1]], [[255, 255]]).matrix, NAMES)
    assert (scores.miou, scores.pixel_accuracy, scores.mean_accuracy, scores.fw_iou) == (None,) * 4
    assert scores.miou_absent_as_0 is None
    assert scores.absent == NAMES
    assert all(set(astuple(row)) == {row.name, None} for row in scores.classes)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_batch_size_changes_nothing(size):
    prediction, target = batch(5, 255, images=32)
    found = Confusion(4, 255)
    own = [
        found.update(p, t) for p, t in zip(prediction.split(size), target.split(size), strict=True)
    ]
    assert torch.equal(found.matrix, confusion(prediction, target).matrix)
    assert torch.equal(found.matrix, sum(own))
