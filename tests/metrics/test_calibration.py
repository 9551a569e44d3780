"""Calibration against torchmetrics, a loop in float64 and numbers by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from segtrain.metrics.calibration import Calibration, compute_ece, tabulate_bins
from segtrain.metrics.confusion import Confusion


def batch(seed: int, ignore: int = 255, images: int = 6, classes: int = 4) -> tuple:
    """Logits of a network that is too sure, its target, a tenth of it ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, 13, 11, generator=generator)
    target = torch.multinomial(logits.softmax(1).movedim(1, -1).flatten(0, -2), 1,
                               generator=generator).view(images, 13, 11)  # fmt: skip
    target[torch.rand(target.shape, generator=generator) < 0.1] = ignore
    return logits * 2, target


def counted(logits, target, ignore: int = 255, bins: int = 15) -> torch.Tensor:
    calibration = Calibration(bins)
    calibration.update(logits, target, ignore)
    return calibration.matrix


def certain(classes: list[int], logit: float = 100) -> torch.Tensor:
    """Return logits (1,4,1,W) with all confidence on these classes."""
    return logit * torch.eye(4)[classes].T[None, :, None]


@pytest.mark.parametrize("seed, ignore", [(0, 255), (1, -1), (2, 1000)])
def test_equals_torchmetrics(seed, ignore):
    logits, target = batch(seed, ignore)
    expected = MulticlassCalibrationError(4, n_bins=15, norm="l1", ignore_index=ignore)
    found = compute_ece(counted(logits, target, ignore))
    assert found > 0.05
    assert found == pytest.approx(expected(logits.softmax(1), target).item(), abs=1e-6)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equals_a_loop_in_float64(bins):
    logits, target = batch(3)
    found = [[] for _ in range(bins)]
    vectors = logits.movedim(1, -1).reshape(-1, 4).double().numpy()
    for vector, label in zip(vectors, target.flatten().tolist(), strict=True):
        if label != 255:
            odds = np.exp(vector)
            confidence = odds.max() / odds.sum()
            found[math.ceil(confidence * bins) - 1].append((confidence, vector.argmax() == label))
    table = tabulate_bins(counted(logits, target, bins=bins))
    assert [row["pixels"] for row in table] == [len(pixels) for pixels in found]
    for b, (row, pixels) in enumerate(zip(table, found, strict=True)):
        assert (row["low"], row["high"]) == (b / bins, (b + 1) / bins)
        confidence, accuracy = np.mean(pixels, 0) if pixels else (None, None)
        assert row["accuracy"] == accuracy
        assert row["confidence"] == pytest.approx(confidence, abs=1e-6)
    gaps = [abs(sum(right - sure for sure, right in pixels)) for pixels in found]
    expected = sum(gaps) / sum(map(len, found))
    assert compute_ece(counted(logits, target, bins=bins)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batches_order_and_processes_change_no_digit(dtype):
    logits, target = batch(4)
    logits = logits.to(dtype)
    whole = counted(logits, target)
    assert whole.dtype == torch.int64 and whole[:, 0].sum() == (target != 255).sum()
    backwards = Calibration()
    for i in reversed(range(6)):
        backwards.update(logits[i : i + 1], target[i : i + 1], 255)
    assert torch.equal(backwards.matrix, whole)
    ranks = [counted(logits[r::2], target[r::2]) for r in range(2)]
    assert torch.equal(sum(ranks), whole)
    assert torch.equal(counted(logits.float(), target), whole)  # the softmax is in float32
    dense = logits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(counted(dense, target), whole)


def test_is_right_as_often_as_the_confusion_matrix_says():
    """The same class is taken as predicted, also where two are as likely."""
    logits, target = batch(5)
    logits = logits.round()
    confusion = Confusion(4, 255)
    confusion.update(logits.argmax(1), target)
    matrix = counted(logits, target)
    assert matrix[:, 1].sum() == confusion.matrix.trace()
    assert matrix[:, 0].sum() == confusion.matrix.sum()


def test_bins_worked_out_by_hand():
    target = torch.tensor([[[0, 1, 2, 3]]])
    assert compute_ece(counted(certain([0, 1, 2, 3]), target)) == 0
    assert compute_ece(counted(certain([1, 2, 3, 0]), target)) == 1
    half = counted(certain([0, 1, 3, 2]), target)
    assert half[:-1].sum() == 0 and half[-1].tolist() == [4, 2, 4 * 2**24]
    assert compute_ece(half) == 0.5
    # what is ignored is in no sum
    target[0, 0, 2:] = 255
    assert counted(certain([0, 1, 3, 2]), target)[-1].tolist() == [2, 2, 2 * 2**24]


@pytest.mark.parametrize("classes, bins", [(2, 2), (4, 4), (5, 5), (3, 15), (2, 10)])
def test_a_confidence_between_two_bins_is_of_the_lower(classes, bins):
    """Guo et al. 2017: bins are open below and closed above."""
    matrix = counted(torch.zeros(1, classes, 1, 1), torch.zeros(1, 1, 1, dtype=int), bins=bins)
    assert matrix[:, 0].tolist().index(1) == bins // classes - 1


def test_nothing_counted_is_undefined():
    matrix = counted(certain([0, 1]), torch.full((1, 1, 2), 255))
    assert matrix.sum() == 0 and compute_ece(matrix) is None
    assert {
        (row["pixels"], row["confidence"], row["accuracy"]) for row in tabulate_bins(matrix)
    } == {(0, None, None)}


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_have_no_confidence(broken):
    logits = certain([0, 0])
    logits[..., 0] = broken
    matrix = counted(logits, torch.ones(1, 1, 2, dtype=int))
    assert matrix[0, [0, 2]].tolist() == [1, 0] and matrix[-1].tolist() == [1, 0, 2**24]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_a_gpu_counts_without_waiting():
    logits, target = batch(6)
    on_gpu = Calibration(device="cuda")
    for i in range(6):
        pair = logits[i : i + 1].cuda(), target[i : i + 1].cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            on_gpu.update(*pair, 255)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    expected = counted(logits, target)
    assert torch.equal(on_gpu.matrix[:, :2].cpu(), expected[:, :2])
    assert compute_ece(on_gpu.matrix) == pytest.approx(compute_ece(expected), abs=1e-6)
