"""Loss expressions become modules: sums, refusals, precision, and the empty batch."""

import pytest
import torch

from segtrain.errors import UsageError
from segtrain.losses import build_loss

EXPRESSIONS = ["ce", "ohem", "dice", "ohem(thresh=0.6)+0.5*dice"]


def batch() -> tuple:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator)
    target = torch.randint(0, 3, (2, 6, 5), generator=generator)
    target[0, 0] = 255
    return logits, target


@pytest.mark.parametrize(
    "expression, parts",
    [
        ("ohem+0.5*dice", {"ohem": 1, "dice": 0.5}),
        ("2*ce", {"ce": 2}),
        ("ce*2", {"ce": 2}),
        ("ce + ce", {"ce": 2}),
        ("0.1*ohem(thresh=0.3) + dice(smooth=1)*3 + ce",
         {"ohem(thresh=0.3)": 0.1, "dice(smooth=1)": 3, "ce": 1}),
    ],
)  # fmt: skip
def test_a_sum_is_the_sum_of_its_parts(expression, parts):
    value = build_loss(expression, 3)(*batch()).item()
    expected = sum(w * build_loss(part, 3)(*batch()).item() for part, w in parts.items())
    assert value == pytest.approx(expected, rel=1e-6)


def test_an_argument_wins_over_the_default_that_the_config_gives():
    default, own, both = (
        build_loss(expression, 3, thresh=thresh, n_min_factor=16)(*batch()).item()
        for expression, thresh in (("ohem", 0.9), ("ohem", 0.2), ("ohem(thresh=0.2)", 0.9))
    )
    assert both == own != default


@pytest.mark.parametrize(
    "expression, told",
    [
        ("ohm", "did you mean ohem?"),
        ("ohem+dise", "did you mean dice?"),
        ("focal", "ce, ohem, dice"),
        ("ohem(tresh=0.7)", "it takes thresh, n_min_factor"),
        ("ohem(num_classes=3)", "no argument 'num_classes'"),
        ("ohem(thresh=0)", "(0, 1], got 0"),
        ("ohem(thresh=1.5)", "(0, 1], got 1.5"),
        ("ohem(thresh='high')", "is a number, got 'high'"),
        ("ohem(thresh=True)", "is a number, got True"),
        ("ohem(n_min_factor=0)", "whole number from 1, got 0"),
        ("dice(smooth=0)", "above 0, got 0"),
        ("ohem(0.7)", "not a loss expression"),
        ("ce(thresh=0.7)", "it takes none"),
        ("ce(args=1)", "it takes none"),
        ("ohem(n_min_factor=2.5)", "whole number from 1"),
        ("ohem(n_min_factor=1e999)", "n_min_factor is a number, got inf"),
        ("dice(smooth=1e999)", "smooth is a number, got inf"),
        ("1e999*ce", "not a loss expression"),
    ],
)
def test_refusals_say_what_is_allowed(expression, told):
    with pytest.raises(UsageError) as refusal:
        build_loss(expression, 3)
    assert told in str(refusal.value)


def test_one_class_is_refused():
    with pytest.raises(UsageError, match="num_classes is 1"):
        build_loss("ce", 1)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_without_a_valid_pixel_value_and_gradient_are_0(expression, dtype):
    # 6e4 * 16 pixels is past the largest float16: a sum times 0 would be NaN
    logits = torch.full((1, 3, 4, 4), 6e4, dtype=dtype, requires_grad=True)
    value = build_loss(expression, 3)(logits, torch.full((1, 4, 4), 255))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_autocast_changes_nothing(expression):
    logits, target = batch()
    logits = logits.bfloat16()
    loss = build_loss(expression, 3)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(logits.float(), target))
