"""Outcomes of steps, read at once or a step later."""

import torch

from segtrain.training.nonfinite import OutcomeReader, StepOutcome


def test_outcomes_are_read_at_once_without_a_gpu():
    outcomes = OutcomeReader(torch.device("cpu"))
    outcomes.add(7, torch.tensor([1.0, 15.0]))
    outcomes.add(8, torch.tensor([0.0, 0.0]))
    assert list(outcomes.read()) == [StepOutcome(7, True, 15), StepOutcome(8, False, 0)]
    assert list(outcomes.read()) == []


def test_a_gpus_outcomes_are_read_a_step_later_and_all_after_a_stop_request():
    outcomes = OutcomeReader(torch.device("cpu"))
    outcomes.on_gpu = True

    def add(step: int, bad: float, signum: float) -> list[StepOutcome]:
        outcomes.pending.append((step, torch.tensor([bad, signum]), None))
        return list(outcomes.read())

    assert add(1, 0, 0) == []
    assert add(2, 1, 0) == [StepOutcome(1, False, 0)]
    assert add(3, 0, 15) == [StepOutcome(2, True, 0)]
    # step 4 was taken before the host could know
    assert add(4, 1, 15) == [StepOutcome(3, False, 15), StepOutcome(4, True, 15)]
    assert add(5, 0, 0) == [] and list(outcomes.read(wait=True)) == [StepOutcome(5, False, 0)]
