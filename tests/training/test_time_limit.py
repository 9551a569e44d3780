"""train.max_time: the length that is chosen from measured times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config.loading import make_config
from segtrain.errors import SegtrainError, UsageError
from segtrain.training.time_limit import SPARE, Costs, choose_length


@dataclass(frozen=True)
class Plan:
    """What choosing a length reads of a plan."""

    config: Any
    epochs: int
    steps_per_epoch: int


def plan_of(epochs: int, steps: int, time: str = "100s", every: int = 1, **optim: Any) -> Plan:
    sections = {"train": {"max_time": time}, "eval": {"every": every}, "optim": optim}
    return Plan(make_config(sections), epochs, steps)


def duration(costs: Costs, epochs: int, steps: int, every: int = 1, frozen: int = 0) -> float:
    """The seconds of a training, added up epoch by epoch."""
    total = 0.0
    for epoch in range(epochs):
        total += steps * (costs.frozen_step if epoch < frozen else costs.step) + costs.checkpoint
        if (epoch + 1) % every == 0 or epoch + 1 == epochs:
            total += costs.validation
    return total


def test_by_hand():
    costs = Costs(step=1, frozen_step=1, validation=5, checkpoint=2)
    # 97 s are left: three epochs of 25 steps take 96, four of 17 take 96, too, for fewer steps
    chosen = choose_length(plan_of(50, 25), costs, used=0)
    assert (chosen.epochs, chosen.steps_per_epoch) == (3, 25)
    # an epoch longer than the time: one, shorter
    chosen = choose_length(plan_of(50, 1000), costs, used=7)
    assert (chosen.epochs, chosen.steps_per_epoch) == (1, 83)
    # all that the config asks for fits
    chosen = choose_length(plan_of(2, 10), costs, used=0)
    assert (chosen.epochs, chosen.steps_per_epoch) == (2, 10)
    # two epochs of frozen steps at half the price
    chosen = choose_length(
        plan_of(50, 20, freeze_epochs=2), Costs(2, 1, validation=0, checkpoint=0), used=0
    )
    assert (chosen.epochs, chosen.steps_per_epoch) == (4, 16)  # 96 s


def test_frozen_epochs_do_not_take_all_the_time():
    """Five frozen epochs of 100 steps would be most steps, and leave the encoder as it was."""
    costs = Costs(step=10, frozen_step=3, validation=5, checkpoint=1)
    chosen = choose_length(plan_of(50, 100, "30min", freeze_epochs=5), costs, used=0)
    assert chosen.epochs == 6
    # where the config asks for no more, there is nothing to leave time for
    assert choose_length(plan_of(5, 100, "30min", freeze_epochs=5), costs, used=0).epochs == 5


seconds = st.floats(0.001, 30)


@settings(max_examples=150, deadline=None)
@given(seconds, seconds, seconds, seconds, st.floats(0, 90), st.integers(1, 40),
       st.integers(1, 60), st.integers(1, 5), st.integers(0, 3))  # fmt: skip
def test_it_is_the_longest_that_fits(step, frozen, validation, checkpoint, used, epochs, steps,
                                     every, freeze):  # fmt: skip
    costs = Costs(step, min(frozen, step), validation, checkpoint)
    plan = plan_of(epochs, steps, every=every, freeze_epochs=freeze)
    left = 100 * (1 - SPARE) - used
    fitting = [
        e * s
        for e in range(min(freeze + 1, epochs), epochs + 1)
        for s in range(1, steps + 1)
        if duration(costs, e, s, every, freeze) <= left
    ]
    try:
        chosen = choose_length(plan, costs, used)
    except SegtrainError as error:
        assert not fitting and "too short" in str(error)
        return
    assert duration(costs, chosen.epochs, chosen.steps_per_epoch, every, freeze) <= left + 1e-6
    assert chosen.epochs * chosen.steps_per_epoch >= max(fitting, default=0)
    assert chosen.epochs <= epochs and chosen.steps_per_epoch <= steps


def test_the_time_that_it_names_is_enough():
    costs = Costs(step=2, frozen_step=2, validation=50, checkpoint=1)
    with pytest.raises(SegtrainError, match="max_time: 10s is too short.*give 66s or more"):
        choose_length(plan_of(9, 9, "10s"), costs, used=11)
    assert choose_length(plan_of(9, 9, "66s"), costs, used=11).steps_per_epoch == 1


def test_a_warm_up_that_does_not_fit_is_refused():
    costs = Costs(step=1, frozen_step=1, validation=1, checkpoint=1)
    with pytest.raises(UsageError, match="optim.warmup: 500 steps, and the training has 95"):
        choose_length(plan_of(9, 1000, warmup=500), costs, used=0)


def test_very_many_epochs_take_no_time_to_choose_from():
    costs = Costs(step=0.1, frozen_step=0.1, validation=1, checkpoint=1)
    assert math.isclose(choose_length(plan_of(10**15, 5), costs, 0).epochs, 38)
