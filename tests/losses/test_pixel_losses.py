"""Losses over pixels: what each has of its own, and the k-th largest value behind mining."""

import copy
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import (
    CLOSE,
    CLOSE_GRADIENT,
    KINDS,
    ignore_all_but,
    pixel_nll,
    scene,
    some_ignored,
    value_and_gradient,
)  # fmt: skip
from twins import TWINS

from segtrain import losses
from segtrain.losses import build_loss, selection
from segtrain.losses.selection import kth_largest, kth_largest_key

# ---- ce


@pytest.mark.parametrize("weight", [None, [0.5, 1.0, 3.0], [0.0, 1.0, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_ce_is_that_of_torch(weight, smoothing):
    logits, target = some_ignored(seed=3)
    loss = build_loss(f"ce(weight={weight}, label_smoothing={smoothing})", 3)
    weights = None if weight is None else torch.tensor(weight)

    def torchs(logits, target):
        return F.cross_entropy(logits, target, weights, ignore_index=255, label_smoothing=smoothing)

    value, gradient = value_and_gradient(loss, logits, target)
    expected, slopes = value_and_gradient(torchs, logits, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slopes)


# ---- ohem and topk


def test_ohem_known_answer():
    torch.manual_seed(20)
    logits = torch.randn(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4))
    value = build_loss("ohem(thresh=0.7, n_min_factor=16)", 3)(logits, target)
    assert value.item() == pytest.approx(1.3310734, abs=5e-7)


@pytest.mark.parametrize("thresh, factor", [(0.7, 16), (0.2, 2), (0.95, 5), (1.0, 16), (1e-3, 1)])
@pytest.mark.parametrize("classes", [2, 7])
def test_ohem_equals_twin_whatever_its_arguments(thresh, factor, classes):
    loss = build_loss("ohem", classes, thresh=thresh, n_min_factor=factor)
    logits, target = some_ignored(seed=factor, classes=classes)
    value, gradient = value_and_gradient(loss, logits, target)
    expected, slopes = TWINS["ohem"](
        logits.double().numpy(), target.numpy(), thresh=thresh, n_min_factor=factor
    )
    np.testing.assert_allclose(value, expected, **CLOSE)
    np.testing.assert_allclose(gradient, slopes, **CLOSE_GRADIENT)


@pytest.mark.parametrize("all_of_it", ["ohem(thresh=1)", "topk(keep=1.0)", "focal(gamma=0)"])
@pytest.mark.parametrize("inner", ["ce", "ce(label_smoothing=0.1)", "focal", "ghm"])
def test_keeping_every_pixel_is_the_inner_loss(all_of_it, inner):
    if all_of_it.startswith("focal"):
        all_of_it, inner = f"topk({all_of_it}, keep=1.0)", "ce"
    logits, target = some_ignored(seed=4)
    nested = all_of_it if "(f" in all_of_it else all_of_it.replace("(", f"({inner}, ")
    kept, whole = (build_loss(e, 3)(logits, target) for e in (nested, inner))
    assert kept.item() == pytest.approx(whole.item(), rel=1e-6)


def kept_pixels(expression: str, n_valid: int, defaults: dict = {}) -> list[int]:
    """Return which of 40 pixels count; their losses rise from 0.01 to 0.3, n_valid are valid."""
    nll = torch.linspace(0.01, 0.3, 40)
    against = nll.double().expm1().log().float().view(1, 1, 5, 8)  # log(1 + e^z) is nll
    logits = torch.cat([torch.zeros_like(against), against], 1)
    target = torch.zeros(1, 5, 8, dtype=torch.int64)
    target.view(-1)[n_valid:] = 255
    _, gradient = value_and_gradient(build_loss(expression, 2, **defaults), logits, target)
    return gradient[0, 1].flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize(
    "expression, n_valid, kept",
    [
        *((f"ohem(n_min_factor={factor})", n_valid, kept)  # all are easy
          for n_valid, factor, kept in (
              (0, 16, 0), (1, 16, 1), (15, 16, 1), (31, 16, 1), (32, 16, 2), (10, 1, 10),
              (10, 3, 3))),
        *((f"topk(keep={keep})", n_valid, kept)
          for n_valid, keep, kept in (
              (0, 0.2, 0), (1, 0.2, 1), (7, 0.01, 1), (7, 1.0, 7), (7, 1, 1), (7, 3, 3), (7, 99, 7),
              (5, 0.5, 2), (7, 0.5, 4), (5, 0.3, 2), (15, 0.3, 4), (25, 0.1, 2), (35, 0.1, 4))),
    ],
)  # fmt: skip
def test_how_many_pixels_are_kept(expression, n_valid, kept):
    assert kept_pixels(expression, n_valid) == list(range(n_valid - kept, n_valid))


@pytest.mark.parametrize("mining", ["ohem", "topk"])
def test_the_inner_loss_may_have_the_weights(mining):
    outer, inner = (
        build_loss(expression, 3)(*some_ignored(seed=5))
        for expression in (f"{mining}(weight=[1, 2, 3])", f"{mining}(ce(weight=[1, 2, 3]))")
    )
    assert outer.item() == pytest.approx(inner.item(), rel=1e-6)


def test_mining_chooses_by_the_plain_likelihood():
    # weight and inner loss would choose otherwise: both favour class 0, which is easy
    logits = torch.tensor([[5.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    target = torch.tensor([[[0, 0]]])
    for inner in ("", "focal(alpha=[9, 1]), ", "ce(label_smoothing=0.9), ", "ghm, "):
        loss = build_loss(f"topk({inner}keep=1)", 2)
        _, gradient = value_and_gradient(loss, logits, target)
        assert gradient[0, :, 0, 0].eq(0).all() and gradient[0, :, 0, 1].ne(0).all()


def test_an_image_has_as_many_pixels_of_its_own_as_asked():
    logits, target = some_ignored(seed=6, shape=(3, 5, 4))
    logits[1] *= 9  # the hardest pixels of the batch
    target[2] = 255
    loss = build_loss("topk(keep=4, per_image=true)", 3)
    alone = [build_loss("topk(keep=4)", 3)(logits[i : i + 1], target[i : i + 1]) for i in (0, 1)]
    assert loss(logits, target).item() == pytest.approx(sum(alone).item() / 2, rel=1e-6)
    kept = loss.terms[0].kept(pixel_nll(logits, target), target)
    assert kept.sum((1, 2)).tolist() == [4, 4, 0]


@pytest.mark.parametrize("expression", ["ohem", "topk", "ohem(per_image=True)"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mining_of_an_empty_batch_is_0(expression, dtype):
    empty = torch.zeros(0, 3, 5, 4, dtype=dtype), torch.zeros(0, 5, 4, dtype=torch.int64)
    value, gradient = value_and_gradient(build_loss(expression, 3), *empty)
    assert value == 0 and gradient.numel() == 0


@settings(max_examples=30, deadline=None)
@given(
    st.permutations(range(40)),
    st.sampled_from([*KINDS, "tied"]),
    st.sampled_from(["ohem(n_min_factor=2)", "ohem", "topk", "topk(focal, keep=0.3)"]),
)
def test_mining_does_not_depend_on_the_order_of_pixels(order, kind, expression):
    loss = build_loss(expression, 3)
    logits, target = scene(kind, seed=1, shape=(1, 40, 1))
    target = ignore_all_but(target, 37)
    expected, slopes = value_and_gradient(loss, logits, target)
    value, gradient = value_and_gradient(loss, logits[:, :, order], target[:, order])
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slopes[:, :, order], rtol=1e-6, atol=0)


# ties, both zeros, a subnormal, the extremes, and anything between
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, 0.25, 0.25, 1.0, math.inf]),
    st.floats(0, width=32, allow_nan=False),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(FLOATS, st.booleans()), min_size=1, max_size=30),
    st.sampled_from([4, 1 << 18]),
    st.data(),
)
def test_kth_largest_is_that_of_a_sort(dtype, pairs, chunk, data):
    values, valid = (np.array(column) for column in zip(*pairs, strict=True))
    valid[data.draw(st.integers(0, len(pairs) - 1))] = True
    k = data.draw(st.integers(1, int(valid.sum())))
    values = values.astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "CHUNK", chunk)
        found = kth_largest(torch.tensor(values).to(dtype), torch.tensor(valid), torch.tensor(k))
    assert found.item() == np.sort(values[valid])[::-1][k - 1]


@pytest.mark.parametrize("power", [0, 1, 20])
def test_a_bound_from_a_sample_changes_no_kth_largest(power):
    random = np.random.default_rng(power)
    keys = (random.random(5000) ** power * 2**30).astype(np.int32) * (random.random(5000) < 0.9)
    for k in (1, 2, 300, 2500, 4990, 5000):
        assert kth_largest_key(keys.copy(), k) == np.sort(keys)[-k]
    assert kth_largest_key(np.arange(5000, dtype=np.int32) % 61, 300) == 57  # a sample of zeros


# ---- focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_of_two_classes_is_that_of_torchvision(gamma, alpha):
    logits, target = scene(seed=6, classes=2, shape=(2, 7, 3))
    logits[:, 0] = 0
    value, gradient = value_and_gradient(
        build_loss(f"focal(gamma={gamma}, alpha={alpha})", 2), logits, target
    )

    def torchvisions(logits, target):
        return torchvision.ops.sigmoid_focal_loss(
            logits[:, 1], target.float(), -1 if alpha is None else alpha, gamma, reduction="mean"
        )

    expected, slopes = value_and_gradient(torchvisions, logits, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[:, 1], slopes[:, 1])


@pytest.mark.parametrize("gamma", [0.01, 0.1, 0.5, 1, 2])
@pytest.mark.parametrize("margin", [20.0, 60.0, 90.0, 95.0, 100.0, 102.5, 200.0])
def test_focal_of_a_sure_pixel_has_a_finite_gradient(gamma, margin):
    logits = torch.tensor([margin, 0.0, -5.0]).view(1, 3, 1, 1)  # float32 ends at exp(-103.3)
    target = torch.zeros(1, 1, 1, dtype=torch.int64)
    value, gradient = value_and_gradient(build_loss(f"focal(gamma={gamma})", 3), logits, target)
    assert value.isfinite() and value < 1e-8 and gradient.abs().max() < 1e-8


def test_focal_alpha_may_be_a_list_for_two_classes():
    logits, target = some_ignored(classes=2)
    one, both = (build_loss(f"focal(alpha={a})", 2)(logits, target) for a in (0.3, [0.7, 0.3]))
    assert one.item() == pytest.approx(both.item(), rel=1e-6)


# ---- poly


def test_poly_adds_the_wrong_probability():
    logits = torch.tensor([0.25, 0.5, 0.25]).log().view(1, 3, 1, 1)
    value = build_loss("poly(epsilon=2)", 3)(logits, torch.tensor([[[0]]]))
    assert value.item() == pytest.approx(math.log(4) + 2 * 0.75)


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 3.0]])
def test_poly_with_epsilon_0_is_ce(weight):
    poly, ce = (build_loss(f"{name}weight={weight})", 3) for name in ("poly(epsilon=0, ", "ce("))
    assert torch.equal(poly(*some_ignored()), ce(*some_ignored()))


# ---- ghm

# kind, valid pixels, training: easy ones first, so that hard ones meet bins without a count
SEQUENCE = [("easy", 40, True), ("hard", 33, False), ("hard", 0, True), ("mixed", 40, True),
            ("saturated", 40, False), ("hard", 7, True)]  # fmt: skip


def batches() -> list[tuple]:
    scenes = (scene(kind, seed) for seed, (kind, *_) in enumerate(SEQUENCE))
    return [(z, ignore_all_but(t, n)) for (z, t), (_, n, _) in zip(scenes, SEQUENCE, strict=True)]


@pytest.mark.parametrize("bins, momentum", [(10, 0.75), (3, 0.0), (30, 0.99)])
def test_ghm_moves_its_counts_as_its_twin(bins, momentum):
    arguments = {"bins": bins, "momentum": momentum}
    loss = build_loss(f"ghm(bins={bins}, momentum={momentum})", 3)
    nested = build_loss(f"topk(ghm(bins={bins}, momentum={momentum}), keep=0.5)", 3)
    moving, nested_moving = [], []
    for (logits, target), (*_, training) in zip(batches(), SEQUENCE, strict=True):
        ghm = {**arguments, "moving": moving, "training": training}
        nested_ghm = {**arguments, "moving": nested_moving, "training": training}
        for name, module, given_arguments in (
            ("ghm", loss, ghm),
            ("topk", nested, {"inner": ("ghm", nested_ghm), "keep": 0.5}),
        ):
            before = copy.deepcopy(module.state_dict())
            value, gradient = value_and_gradient(module.train(training), logits, target)
            expected, slopes = TWINS[name](logits.numpy(), target.numpy(), **given_arguments)
            np.testing.assert_allclose(value, expected, **CLOSE)
            np.testing.assert_allclose(gradient, slopes, **CLOSE_GRADIENT)
            if not training or target.eq(255).all():
                assert_same_state(before, module.state_dict())
    assert any(torch.is_floating_point(v) and v.numel() >= bins for v in loss.buffers())


def assert_same_state(one: dict, other: dict) -> None:
    assert one and one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_ghm_of_a_batch_without_valid_pixels_starts_nothing():
    loss = build_loss("ghm", 3)
    logits, target = scene()
    loss(logits, torch.full_like(target, 255))
    assert_same_state(loss.state_dict(), build_loss("ghm", 3).state_dict())


def test_ghm_never_trained_measures_by_the_batch():
    logits, target = some_ignored()
    fresh, trained = build_loss("ghm", 3).eval(), build_loss("ghm", 3)
    assert torch.equal(fresh(logits, target), trained(logits, target))
    assert_same_state(fresh.state_dict(), build_loss("ghm", 3).state_dict())


@pytest.mark.parametrize("expression", ["ghm", "ce + 0.5*topk(ghm(bins=4), keep=0.5)"])
def test_ghm_continues_from_a_checkpoint(expression):
    first, file = build_loss(expression, 3), io.BytesIO()
    for logits, target in batches()[:2]:
        first(logits, target)
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build_loss(expression, 3)
    second.load_state_dict(torch.load(file))
    for logits, target in batches()[2:]:
        assert torch.equal(first(logits, target), second(logits, target))
    assert_same_state(first.state_dict(), second.state_dict())


def test_ghm_of_one_bin_is_ce():
    ghm, ce = build_loss("ghm(bins=1)", 3), build_loss("ce", 3)
    for logits, target in batches():
        value, gradient = value_and_gradient(ghm, logits, target)
        expected, slopes = value_and_gradient(ce, logits, target)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-8)


# ---- classes


def test_each_loss_is_a_class_that_takes_the_same_arguments():
    logits, target = some_ignored(seed=8)
    target[target == 255] = 254
    for module, expression in (
        (losses.CrossEntropy(label_smoothing=0.1, lb_ignore=254), "ce(label_smoothing=0.1)"),
        (losses.OhemCE(thresh=0.6, n_min_factor=4, lb_ignore=254),
         "ohem(thresh=0.6, n_min_factor=4)"),
        (losses.TopK(keep=0.4, weight=[1, 2, 3], lb_ignore=254), "topk(keep=0.4, weight=[1,2,3])"),
        (losses.Focal(gamma=1, alpha=[1, 2, 3], lb_ignore=254), "focal(gamma=1, alpha=[1, 2, 3])"),
        (losses.GHM(bins=5, lb_ignore=254), "ghm(bins=5)"),
        (losses.Poly(epsilon=2, weight=[1, 2, 3], lb_ignore=254),
         "poly(epsilon=2, weight=[1, 2, 3])"),
        (losses.Border(w0=3, sigma=2, inner=losses.Focal(), lb_ignore=254),
         "border(focal, w0=3, sigma=2)"),
        (losses.Dice(squared=True, lb_ignore=254), "dice(squared=True)"),
        (losses.Tversky(alpha=0.1, lb_ignore=254), "tversky(alpha=0.1)"),
        (losses.Jaccard(classes="present", lb_ignore=254), "jaccard(classes=present)"),
        (losses.Lovasz(per_image=False, lb_ignore=254), "lovasz(per_image=False)"),
    ):  # fmt: skip
        value = module(logits, target)
        assert torch.equal(value, build_loss(expression, 3, 254)(logits, target))
