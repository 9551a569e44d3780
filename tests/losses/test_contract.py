"""Contract of every loss: the twin's value and gradient, ignored pixels, precision, shapes."""

import math

import numpy as np
import pytest
import torch
from scenes import (
    CLOSE,
    CLOSE_GRADIENT,
    KINDS,
    ignore_all_but,
    scene,
    some_ignored,
    value_and_gradient,
)  # fmt: skip
from twins import sum_twin

from segtrain.losses import build_loss

WEIGHT = [0.5, 1.0, 3.0]
# expression -> its parts for the twin: weight, name, arguments
ROWS = {
    "ce": [(1, "ce", {})],
    "ce(label_smoothing=0.1)": [(1, "ce", {"label_smoothing": 0.1})],
    "ohem": [(1, "ohem", {})],
    "ohem(thresh=0.3, n_min_factor=3)": [(1, "ohem", {"thresh": 0.3, "n_min_factor": 3})],
    "topk": [(1, "topk", {})],
    "topk(keep=0.5)": [(1, "topk", {"keep": 0.5})],
    "topk(keep=7)": [(1, "topk", {"keep": 7})],
    "ohem(thresh=0.3, n_min_factor=3, per_image=True)": [
        (1, "ohem", {"thresh": 0.3, "n_min_factor": 3, "per_image": True})],
    "topk(keep=0.4, per_image=True)": [(1, "topk", {"keep": 0.4, "per_image": True})],
    "topk(ghm, keep=3, per_image=True)": [
        (1, "topk", {"inner": ("ghm", {}), "keep": 3, "per_image": True})],
    "focal": [(1, "focal", {})],
    "focal(gamma=0.5)": [(1, "focal", {"gamma": 0.5})],
    "ghm": [(1, "ghm", {})],
    "ghm(bins=3, momentum=0)": [(1, "ghm", {"bins": 3, "momentum": 0})],
    "poly": [(1, "poly", {})],
    "poly(epsilon=-0.5)": [(1, "poly", {"epsilon": -0.5})],
    "border": [(1, "border", {})],
    "border(focal(gamma=1), w0=3, sigma=1.5, background=True)": [
        (1, "border", {"inner": ("focal", {"gamma": 1}), "w0": 3, "sigma": 1.5,
                       "background": True})],
    "dice": [(1, "dice", {})],
    "dice(smooth=1, squared=True)": [(1, "dice", {"smooth": 1, "squared": True})],
    "dice(classes=all)": [(1, "dice", {"classes": "all"})],
    "dice(per_image=True)": [(1, "dice", {"per_image": True})],
    "dice(background=False)": [(1, "dice", {"background": False})],
    "dice(background=False, classes=all, per_image=True)": [
        (1, "dice", {"background": False, "classes": "all", "per_image": True})],
    "dice(average=micro)": [(1, "dice", {"average": "micro"})],
    "dice(average=micro, squared=True, background=False, per_image=True)": [
        (1, "dice", {"average": "micro", "squared": True, "background": False,
                     "per_image": True})],
    "dice(average=generalised)": [(1, "dice", {"average": "generalised"})],
    "dice(average=generalised, classes=all, background=False, per_image=True)": [
        (1, "dice", {"average": "generalised", "classes": "all", "background": False,
                     "per_image": True})],
    "tversky": [(1, "tversky", {})],
    "tversky(gamma=1.5)": [(1, "tversky", {"gamma": 1.5})],
    "tversky(gamma=0.5, average=generalised, per_image=True)": [
        (1, "tversky", {"gamma": 0.5, "average": "generalised", "per_image": True})],
    "tversky(alpha=0.8, beta=0, squared=True, classes=all, per_image=True)": [
        (1, "tversky", {"alpha": 0.8, "beta": 0, "squared": True, "classes": "all",
                        "per_image": True})],
    "jaccard": [(1, "jaccard", {})],
    "jaccard(smooth=2, classes=all)": [(1, "jaccard", {"smooth": 2, "classes": "all"})],
    "jaccard(average=generalised, squared=True)": [
        (1, "jaccard", {"average": "generalised", "squared": True})],
    "jaccard(squared=True, per_image=True)": [
        (1, "jaccard", {"squared": True, "per_image": True})],
    "lovasz": [(1, "lovasz", {})],
    "lovasz(classes=all)": [(1, "lovasz", {"classes": "all"})],
    "lovasz(per_image=False)": [(1, "lovasz", {"per_image": False})],
    "lovasz(background=False)": [(1, "lovasz", {"background": False})],
    "cldice": [(1, "cldice", {})],
    "cldice(iterations=1, smooth=0.1, background=True, per_image=True, classes=all)": [
        (1, "cldice", {"iterations": 1, "smooth": 0.1, "background": True, "per_image": True,
                       "classes": "all"})],
    "ohem(focal(gamma=2))": [(1, "ohem", {"inner": ("focal", {"gamma": 2})})],
    "ohem(ce(label_smoothing=0.1), thresh=0.6)": [
        (1, "ohem", {"inner": ("ce", {"label_smoothing": 0.1}), "thresh": 0.6})],
    "topk(ghm, keep=0.5)": [(1, "topk", {"inner": ("ghm", {}), "keep": 0.5})],
    "ohem(border(ce(label_smoothing=0.1), sigma=2), thresh=0.6)": [
        (1, "ohem", {"inner": ("border", {"inner": ("ce", {"label_smoothing": 0.1}), "sigma": 2}),
                     "thresh": 0.6})],
    "ohem(thresh=0.7)+0.5*dice+0.1*lovasz": [
        (1, "ohem", {"thresh": 0.7}), (0.5, "dice", {}), (0.1, "lovasz", {})],
}  # fmt: skip
# rows that name each of three classes
BY_CLASS = {
    f"ce(weight={WEIGHT})": [(1, "ce", {"weight": WEIGHT})],
    f"ce(weight={WEIGHT}, label_smoothing=0.2)": [
        (1, "ce", {"weight": WEIGHT, "label_smoothing": 0.2})],
    f"ohem(weight={WEIGHT})": [(1, "ohem", {"weight": WEIGHT})],
    f"ohem(weight={WEIGHT}, per_image=True)": [
        (1, "ohem", {"weight": WEIGHT, "per_image": True})],
    f"topk(keep=0.3, weight={WEIGHT})": [(1, "topk", {"keep": 0.3, "weight": WEIGHT})],
    f"poly(epsilon=2, weight={WEIGHT})": [(1, "poly", {"epsilon": 2, "weight": WEIGHT})],
    f"border(ce(weight={WEIGHT}), sigma=2, weight={WEIGHT})": [
        (1, "border", {"inner": ("ce", {"weight": WEIGHT}), "sigma": 2, "weight": WEIGHT})],
    f"focal(gamma=1, alpha={WEIGHT})": [(1, "focal", {"gamma": 1, "alpha": WEIGHT})],
}  # fmt: skip
ROWS_OF_3 = ROWS | BY_CLASS
all_rows = pytest.mark.parametrize("row", ROWS_OF_3)


def assert_equals_twin(row, logits, target, ignore=255, gradient=True):
    value, slopes = value_and_gradient(build_loss(row, logits.shape[1], ignore), logits, target)
    expected, expected_slopes = sum_twin(
        ROWS_OF_3[row], logits.double().numpy(), target.numpy(), ignore
    )
    np.testing.assert_allclose(value, expected, **CLOSE)
    assert slopes.isfinite().all()
    if gradient:
        np.testing.assert_allclose(slopes, expected_slopes, **CLOSE_GRADIENT)


def is_kinked(row: str) -> bool:
    return "lovasz" in row or "cldice" in row


# ---- the definition


@all_rows
@pytest.mark.parametrize("kind", [*KINDS, "tied"])
def test_equals_twin_for_every_number_of_valid_pixels(row, kind):
    for n_valid in (*range(7), 13, 20, 31, 32, 33, 39, 40):
        logits, target = scene(kind, seed=n_valid)
        target = ignore_all_but(target, n_valid)
        # at a tie an order, and a maximum, have more than one gradient
        assert_equals_twin(row, logits, target, gradient=not is_kinked(row) or kind != "tied")


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(
    "shape, classes, present",
    [
        ((1, 7, 5), 2, 2), ((1, 1, 1), 2, 2), ((3, 3, 1), 5, 3),  # a class absent
        ((2, 3, 4), 4, 1), ((1, 3, 3), 150, 150), ((2, 1, 9), 19, 19),
    ],
)  # fmt: skip
def test_equals_twin_whatever_the_shape(row, shape, classes, present):
    logits, target = some_ignored(shape=shape, classes=classes, present=present, seed=1)
    if target.numel() == 1:
        target.zero_()
    assert_equals_twin(row, logits, target)


@all_rows
def test_ignored_pixels_may_have_any_id(row):
    logits, target = scene(seed=2)
    target.view(-1)[::3] = -1
    assert_equals_twin(row, logits, target, ignore=-1)


@all_rows
def test_gradient_is_that_of_finite_differences(row):
    logits, target = some_ignored(shape=(2, 3, 3), seed=5)
    loss = build_loss(row, 3)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits.double().requires_grad_(),))


# ---- ignored pixels


@all_rows
@pytest.mark.parametrize("channels", [slice(None), 0, 1], ids=["all", "first", "second"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_ignored_pixels_change_nothing(row, bad, channels):
    logits, target = some_ignored(seed=3)
    ignored = target == 255
    spoilt = logits.clone()
    spoilt[:, channels].movedim(0, -3)[..., ignored] = bad
    value, gradient = value_and_gradient(build_loss(row, 3), logits, target)
    bad_value, bad_gradient = value_and_gradient(build_loss(row, 3), spoilt, target)
    assert torch.equal(bad_value, value)
    assert torch.equal(bad_gradient, gradient)
    for slopes in (gradient, bad_gradient):
        assert slopes.movedim(1, -1)[ignored].eq(0).all() and slopes.ne(0).any()


@all_rows
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_without_a_valid_pixel_value_and_gradient_are_0(row, dtype, training):
    # 6e4 * 16 pixels is past the largest float16: a sum times 0 would be NaN
    logits = torch.full((1, 3, 4, 4), 6e4, dtype=dtype)
    loss = build_loss(row, 3).train(training)
    value, gradient = value_and_gradient(loss, logits, torch.full((1, 4, 4), 255))
    assert abs(value.item()) < 1e-12
    assert gradient.eq(0).all() and gradient.dtype == dtype


@all_rows
def test_an_image_without_a_valid_pixel_counts_for_nothing(row):
    logits, target = some_ignored(seed=4)
    value, gradient = value_and_gradient(build_loss(row, 3), logits, target)
    more = torch.cat([torch.full((1, 3, 5, 4), math.nan), logits])
    more_target = torch.cat([torch.full((1, 5, 4), 255), target])
    more_value, more_gradient = value_and_gradient(build_loss(row, 3), more, more_target)
    torch.testing.assert_close(more_value, value, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(more_gradient[1:], gradient, rtol=1e-5, atol=1e-7)
    assert more_gradient[0].eq(0).all()


@all_rows
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_garbage_at_a_valid_pixel_makes_the_loss_nan(row, bad, everywhere):
    logits, target = some_ignored(seed=3)
    logits.view(-1)[slice(None) if everywhere else 1] = bad
    assert target[0, 0, 1] not in (0, 255)
    loss = build_loss(row, 3)
    assert loss(logits, target).isnan()
    assert loss.eval()(logits, target).isnan()


# ---- numbers


@all_rows
def test_double_precision_stays_and_single_is_near_it(row):
    logits, target = some_ignored(seed=6, shape=(2, 16, 17))
    single, slopes = value_and_gradient(build_loss(row, 3), logits, target)
    double, exact = value_and_gradient(build_loss(row, 3), logits.double(), target)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(slopes.double(), exact, rtol=1e-4, atol=1e-7)
    expected, _ = sum_twin(ROWS_OF_3[row], logits.double().numpy(), target.numpy())
    assert double.item() == pytest.approx(expected, rel=1e-11)


@all_rows
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_single_of_the_rounded_logits(row, dtype):
    logits, target = some_ignored(seed=7)
    logits = logits.to(dtype)
    value, gradient = value_and_gradient(build_loss(row, 3), logits, target)
    expected, slopes = value_and_gradient(build_loss(row, 3), logits.float(), target)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert gradient.dtype == dtype and torch.equal(gradient, slopes.to(dtype))


@all_rows
def test_autocast_changes_nothing(row):
    logits, target = some_ignored(seed=8)
    logits = logits.bfloat16()
    expected, slopes = value_and_gradient(build_loss(row, 3), logits, target)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = build_loss(row, 3)(leaf, target)
    value.backward()
    assert torch.equal(value, expected) and torch.equal(leaf.grad, slopes)


@all_rows
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_logits_stay_finite(row, size):
    logits, target = some_ignored(seed=9)
    value, gradient = value_and_gradient(build_loss(row, 3), size * logits.sign(), target)
    assert value.isfinite() and gradient.isfinite().all()


@all_rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_twice_and_the_logits_untouched(row, dtype):
    logits, target = some_ignored(seed=10, shape=(2, 33, 31))
    logits = logits.to(dtype)
    given = logits.clone(), target.clone()
    first, second = (value_and_gradient(build_loss(row, 3), logits, target) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(logits, given[0]) and torch.equal(target, given[1])


@all_rows
def test_a_factor_goes_through_and_a_graph_may_be_walked_twice(row):
    logits, target = some_ignored(seed=14)
    _, gradient = value_and_gradient(build_loss(row, 3), logits, target)
    leaf = logits.clone().requires_grad_()
    value = 3 * build_loss(row, 3)(leaf, target)
    value.backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, 3 * gradient, rtol=1e-5, atol=1e-7)
    value.backward()
    torch.testing.assert_close(leaf.grad, 6 * gradient, rtol=1e-5, atol=1e-7)


@all_rows
def test_memory_layout_changes_nothing(row):
    logits, target = some_ignored(seed=11, shape=(2, 8, 9))
    value, gradient = value_and_gradient(build_loss(row, 3), logits, target)
    layouts = [
        logits.contiguous(memory_format=torch.channels_last),
        logits.mT.contiguous().mT,
        logits.repeat_interleave(2, 3)[..., ::2],
    ]
    for other in layouts:
        found, slopes = value_and_gradient(build_loss(row, 3), other, target.mT.contiguous().mT)
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(slopes, gradient, rtol=1e-5, atol=1e-8)


# ---- a batch in parts

SEPARABLE = [  # means over pixels, or over images
    row for row in ROWS_OF_3
    if row.startswith(("ce", "focal", "lovasz", "poly"))
    or "per_image=True" in row and not row.startswith(("ohem", "topk"))
]  # fmt: skip
SEPARABLE.remove("lovasz(per_image=False)")


def weight_of_part(row, target) -> float:
    """Return the weight of a part of a batch in the mean over the batch."""
    if "per_image" in row or row.startswith("lovasz"):
        return (target != 255).any(2).any(1).sum().item()
    if f"weight={WEIGHT}" in row:
        return sum(w * (target == c).sum().item() for c, w in enumerate(WEIGHT))
    return (target != 255).sum().item()


@pytest.mark.parametrize("row", SEPARABLE)
def test_a_batch_is_the_mean_of_its_parts(row):
    logits, target = some_ignored(seed=12, shape=(5, 4, 3))
    target[3] = 255
    loss = build_loss(row, 3)
    parts = [(logits[s], target[s]) for s in (slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5))]
    shares = [weight_of_part(row, part[1]) for part in parts]
    total = sum(s * loss(*part).item() for s, part in zip(shares, parts, strict=True))
    assert loss(logits, target).item() == pytest.approx(total / sum(shares), rel=1e-6)


# ---- torch.compile


@pytest.mark.parametrize(
    "row",
    [
        f"ce(weight={WEIGHT}, label_smoothing=0.2) + focal(gamma=0.5) + ghm + poly + border",
        f"ohem(weight={WEIGHT}) + topk(keep=7)", "topk(ghm, keep=3, per_image=True)",
        "dice + tversky(alpha=0.8, beta=0, squared=True, classes=all, per_image=True) + "
        "jaccard(smooth=2, classes=all) + lovasz",
        "tversky(gamma=0.5, average=generalised, per_image=True) + "
        "dice(average=micro, background=False) + cldice",
        "ohem(thresh=0.7)+0.5*dice+0.1*lovasz",
    ],
)  # fmt: skip
def test_compiles_to_one_graph(row):
    logits, target = some_ignored(seed=13, shape=(2, 3, 4))
    torch._dynamo.reset()
    compiled = torch.compile(build_loss(row, 3), fullgraph=True, backend="aot_eager", dynamic=False)
    value, gradient = value_and_gradient(compiled, logits, target)
    expected, slopes = value_and_gradient(build_loss(row, 3), logits, target)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-7)
