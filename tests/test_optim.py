"""What is decayed, and the learning rate of every step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segtrain.config import Optim
from segtrain.optim import build_optimizer, lr_at


@pytest.mark.parametrize(
    "step, warmup, power, lr",
    [
        (0, 0.1, 1, 2 * 1 / 11),
        (9, 0.1, 1, 2 * 10 / 11),
        (10, 0.1, 1, 2),
        (55, 0.1, 1, 2 * 45 / 90),
        (55, 0.1, 2, 2 * 0.25),
        (99, 0.1, 1, 2 / 90),
        (0, 0, 0.9, 2),
        (99, 0, 0.5, 2 * 0.1),
    ],
)
def test_lr_by_hand(step, warmup, power, lr):
    assert lr_at(step, 100, Optim(lr=2, warmup=warmup, power=power)) == pytest.approx(lr)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.5), st.floats(0.1, 3), st.randoms())
def test_lr_rises_to_its_peak_once_and_falls_towards_0(steps, warmup, power, random):
    config = Optim(lr=0.5, warmup=warmup, power=power)
    rates = [lr_at(step, steps, config) for step in range(steps)]
    peak = rates.index(0.5)
    assert rates[: peak + 1] == sorted(set(rates[: peak + 1]))
    assert rates[peak:] == sorted(set(rates[peak:]), reverse=True)
    assert 0 < min(rates) and max(rates) == 0.5
    step = random.randrange(steps)
    assert lr_at(step, steps, config) == rates[step]


def test_norms_and_biases_are_not_decayed():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    network[2].requires_grad_(False)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(network, Optim(lr=0.1, weight_decay=0.5)).step()
    after = {name: p.unique().item() for name, p in network.named_parameters()}
    assert after.pop("0.weight") == pytest.approx(1 - 0.1 * 0.5)
    assert set(after) == {"0.bias", "1.weight", "1.bias", "2.weight"}  # the last is frozen
    assert set(after.values()) == {1.0}
