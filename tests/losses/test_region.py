"""Dice against its sums, pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from segtrain.losses import build_loss


def dice_twin(logits, target, smooth=1e-5, ignore=255):
    """1 - mean over classes of (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)."""
    classes = logits.shape[1]
    overlap, total = [0.0] * classes, [0.0] * classes
    for n, y, x in np.ndindex(target.shape):
        if target[n, y, x] == ignore:
            continue
        z = [math.exp(v) for v in logits[n, :, y, x]]
        for c in range(classes):
            p, t = z[c] / sum(z), float(target[n, y, x] == c)
            overlap[c] += p * t
            total[c] += p + t
    return 1 - sum((2 * o + smooth) / (t + smooth) for o, t in zip(overlap, total)) / classes


def batch(classes: int, present: int, ignore: int = 255) -> tuple:
    """Logits (2,C,4,3) in double precision, labels of the first `present` classes, some ignored."""
    generator = torch.Generator().manual_seed(10 * classes + present)
    logits = torch.randn(2, classes, 4, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(0, present, (2, 4, 3), generator=generator)
    target.view(-1)[::4] = ignore
    return logits, target


@pytest.mark.parametrize("classes, present", [(2, 2), (4, 4), (4, 2), (5, 1)])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
@pytest.mark.parametrize("ignore", [255, -1])
def test_equals_the_formula(classes, present, smooth, ignore):
    logits, target = batch(classes, present, ignore)
    value = build_loss(f"dice(smooth={smooth})", classes, ignore)(logits, target)
    expected = dice_twin(logits.numpy(), target.numpy(), smooth, ignore)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_that_of_finite_differences_and_0_at_ignored_pixels():
    logits, target = batch(3, 2)
    loss = build_loss("dice", 3)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits.requires_grad_(),))
    spoilt = logits.detach().where((target != 255).unsqueeze(1), math.nan).requires_grad_()
    loss(spoilt, target).backward()
    assert spoilt.grad.movedim(1, -1)[target == 255].eq(0).all()
    assert spoilt.grad.isfinite().all()


def test_perfect_and_opposite_predictions():
    target = torch.tensor([[[0, 1], [1, 0]]])
    truth = 100.0 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1)
    dice = build_loss("dice", 2)
    assert dice(truth, target).item() == pytest.approx(0, abs=1e-6)
    assert dice(-truth, target).item() == pytest.approx(1, abs=1e-5)
