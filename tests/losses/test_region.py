"""Losses over regions: their relations, known ends, and what other libraries compute."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from scenes import scene, some_ignored, value_and_gradient

from segtrain.losses import build_loss
from segtrain.losses.region import finite_power

OPTIONS = [
    "", "squared=True", "classes=all", "per_image=True", "smooth=1", "background=False",
    "average=micro", "average=generalised",
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "name, as_tversky",
    [("dice", "tversky(alpha=0.5, beta=0.5, "), ("jaccard", "tversky(alpha=1, beta=1, ")],
)
def test_dice_and_jaccard_are_tversky(name, as_tversky, options):
    logits, target = some_ignored(classes=4, present=3)
    value, gradient = value_and_gradient(build_loss(f"{name}({options})", 4), logits, target)
    expected, slopes = value_and_gradient(build_loss(f"{as_tversky}{options})", 4), logits, target)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-8)


def test_tversky_weighs_false_positives_by_alpha_and_misses_by_beta():
    target = torch.tensor([[[1, 1, 0, 0]]])
    guess = torch.tensor([[[1, 1, 1, 0]]])  # one false positive of class 1, a miss of class 0
    logits = 100.0 * F.one_hot(guess, 2).movedim(-1, 1)
    value = build_loss("tversky(alpha=0.2, beta=0.6)", 2)(logits, target).item()
    assert value == pytest.approx(1 - (1 / (1 + 0.6) + 2 / (2 + 0.2)) / 2, abs=1e-5)


# at a perfect prediction a power under 1 has an infinite slope
@pytest.mark.parametrize(
    "name",
    ["dice", "jaccard", "tversky", "lovasz", "tversky(gamma=3)", "dice(average=micro)",
     "dice(average=generalised)", "dice(background=False)"],
)  # fmt: skip
def test_perfect_and_opposite_predictions(name):
    target = torch.tensor([[[0, 1], [1, 0]]])
    truth = 100.0 * F.one_hot(target, 2).movedim(-1, 1)
    loss = build_loss(name, 2)
    value, gradient = value_and_gradient(loss, truth, target)
    assert value.item() == pytest.approx(0, abs=1e-6) and gradient.isfinite().all()
    assert loss(-truth, target).item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
def test_an_absent_class_adds_no_gradient_and_to_all_a_constant(name):
    logits, target = some_ignored(classes=5, present=2, shape=(2, 9, 8))
    present, slopes = value_and_gradient(build_loss(name, 5), logits, target)
    of_all, of_all_slopes = value_and_gradient(
        build_loss(f"{name}(classes=all)", 5), logits, target
    )
    assert of_all.item() == pytest.approx((2 * present.item() + 3) / 5, abs=1e-5)
    torch.testing.assert_close(of_all_slopes, slopes * 2 / 5, rtol=1e-4, atol=1e-8)


def test_micro_over_all_classes_is_the_mean_probability_of_the_truth():
    logits, target = scene(classes=4, present=3)
    true = logits.softmax(1).gather(1, target.unsqueeze(1)).mean().item()
    value = build_loss("dice(average=micro, classes=all)", 4)(logits, target).item()
    assert value == pytest.approx(1 - true, abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky(gamma=2)", "lovasz", "cldice"])
def test_a_batch_of_background_alone_has_no_foreground_to_match(name):
    logits, _ = scene()
    target = torch.zeros(2, 5, 4, dtype=torch.int64)
    expression = f"{name.rstrip(')')}{', ' if '(' in name else '('}background=False)"
    value, gradient = value_and_gradient(build_loss(expression, 3), logits, target)
    assert value == 0 and gradient.eq(0).all()


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "lovasz", "cldice"])
def test_with_all_classes_an_image_of_background_alone_is_in_the_mean(name):
    logits, target = scene()
    target[0] = 0
    loss = build_loss(f"{name}(classes=all, per_image=True, background=False)", 3)
    alone = [loss(logits[n : n + 1], target[n : n + 1]).item() for n in range(2)]
    assert all(alone) and loss(logits, target).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_a_power_under_1_has_a_finite_slope_at_0():
    base = torch.tensor([0, 1e-44, 1e-30, 0.25, math.nan], requires_grad=True)
    value = finite_power(base, 0.5)
    value.sum().backward()
    torch.testing.assert_close(value[:4], torch.tensor([0, 0, 0, 0.5]))
    assert base.grad[:3].eq(0).all() and base.grad[3] == 1 and value[4].isnan()


# ---- skeletons


def decided(mask: torch.Tensor) -> torch.Tensor:
    """Return logits (1,2,H,W) that are sure of a mask (H,W)."""
    return 100.0 * F.one_hot(mask.unsqueeze(0), 2).movedim(-1, 1)


def test_cldice_minds_gaps_in_a_line_and_not_its_width():
    line = torch.zeros(7, 9, dtype=torch.int64)
    line[3] = 1
    broken, wide = line.clone(), line.clone()
    broken[3, 3:6] = 0
    wide[2:5] = 1
    loss = build_loss("cldice(smooth=1e-6)", 2)
    found = [loss(decided(guess), line.unsqueeze(0)).item() for guess in (line, wide, broken)]
    # the skeleton of the guess is all true; that of the truth, to 6 of 9
    assert found == pytest.approx([0, 0, 1 - 2 * (6 / 9) / (1 + 6 / 9)], abs=1e-5)


@pytest.mark.parametrize("options", ["", "iterations=6, background=True"])
def test_an_ignored_pixel_is_to_cldice_one_beyond_the_border(options):
    logits, target = scene(seed=3, shape=(2, 9, 12))
    target[:, 6:] = target[..., 8:] = 255
    loss = build_loss(f"cldice({options})", 3)
    value, gradient = value_and_gradient(loss, logits, target)
    cropped, slopes = value_and_gradient(loss, logits[:, :, :6, :8], target[:, :6, :8])
    torch.testing.assert_close(value, cropped, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient[:, :, :6, :8], slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("per_image", [True, False])
def test_lovasz_of_a_decided_prediction_is_the_jaccard_loss(per_image):
    _, target = some_ignored(seed=1, shape=(3, 6, 5), classes=4)
    _, guess = scene(seed=2, shape=(3, 6, 5), classes=4)
    logits = 1000.0 * F.one_hot(guess, 4).movedim(-1, 1)
    ious = []
    for t, g in zip(target, guess, strict=True) if per_image else [(target, guess)]:
        counts = [((t == c) & (g == c), (t == c) | ((g == c) & (t != 255))) for c in range(4)]
        ious.append(np.mean([both.sum() / either.sum() for both, either in counts]))
    value = build_loss(f"lovasz(per_image={per_image})", 4)(logits, target)
    assert value.item() == pytest.approx(1 - np.mean(ious), rel=1e-6)


# ---- against segmentation_models_pytorch


@pytest.mark.parametrize(
    "expression, theirs",
    [
        ("dice(smooth=2)", smp.losses.DiceLoss("multiclass", smooth=1, ignore_index=255)),
        ("jaccard(smooth=2)", smp.losses.JaccardLoss("multiclass", smooth=1, ignore_index=255)),
        ("tversky(smooth=2)", smp.losses.TverskyLoss(
            "multiclass", smooth=1, alpha=0.3, beta=0.7, ignore_index=255)),
        ("dice(smooth=1e-9)", smp.losses.DiceLoss("multiclass", ignore_index=255)),
        ("jaccard(smooth=1e-9)", smp.losses.JaccardLoss("multiclass", ignore_index=255)),
    ],
)  # fmt: skip
def test_regions_are_those_of_smp_where_every_class_is_present(expression, theirs):
    logits, target = some_ignored(seed=7, shape=(2, 7, 6), classes=4)
    value, gradient = value_and_gradient(build_loss(expression, 4), logits, target)
    expected, slopes = value_and_gradient(theirs, logits, target)
    torch.testing.assert_close(value, expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(gradient, slopes, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "expression, theirs",
    [
        ("dice(background=False)", smp.losses.DiceLoss("binary")),
        ("jaccard(background=False)", smp.losses.JaccardLoss("binary")),
        # their gamma is the power itself
        ("tversky(background=False, gamma=1.3333333333)", smp.losses.TverskyLoss(
            "binary", alpha=0.3, beta=0.7, gamma=0.75)),
    ],
)  # fmt: skip
def test_regions_without_background_are_those_of_smps_binary_mode(expression, theirs):
    logits, target = scene(seed=8, shape=(2, 7, 6), classes=2)
    value, gradient = value_and_gradient(build_loss(expression, 2), logits[:, :1], target)
    expected, slopes = value_and_gradient(theirs, logits[:, :1], target.unsqueeze(1).float())
    torch.testing.assert_close(value, expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(gradient, slopes, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("per_image", [True, False])
def test_lovasz_is_that_of_smp(per_image):
    logits, target = scene(seed=3, shape=(3, 7, 6), classes=5, present=4)
    theirs = smp.losses.LovaszLoss("multiclass", per_image=per_image)
    value, gradient = value_and_gradient(
        build_loss(f"lovasz(per_image={per_image})", 5), logits, target
    )
    expected, slopes = value_and_gradient(theirs, logits, target)
    torch.testing.assert_close(value, expected, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(gradient, slopes, rtol=1e-4, atol=1e-7)


def test_lovasz_is_that_of_smp_on_the_valid_pixels_of_each_image():
    logits, target = some_ignored(seed=4, shape=(3, 7, 6))
    target[1] = 255
    theirs = smp.losses.LovaszLoss("multiclass", ignore_index=255)
    expected = (theirs(logits[:1], target[:1]) + theirs(logits[2:], target[2:])) / 2
    value = build_loss("lovasz", 3)(logits, target)
    assert value.item() == pytest.approx(expected.item(), rel=2e-6)
