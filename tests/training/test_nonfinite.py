"""Verdicts on steps, read at once or a step later."""

import torch

from segtrain.training.nonfinite import Verdict, Verdicts


def test_verdicts_are_read_at_once_without_a_gpu():
    verdicts = Verdicts(torch.device("cpu"))
    verdicts.note(7, torch.tensor([1.0, 15.0]))
    verdicts.note(8, torch.tensor([0.0, 0.0]))
    assert list(verdicts.read()) == [Verdict(7, True, 15), Verdict(8, False, 0)]
    assert list(verdicts.read()) == []


def test_a_gpus_verdicts_are_read_a_step_later_and_all_once_somebody_wishes_to_stop():
    verdicts = Verdicts(torch.device("cpu"))
    verdicts.on_gpu = True

    def note(step: int, bad: float, signum: float) -> list[Verdict]:
        verdicts.pending.append((step, torch.tensor([bad, signum]), None))
        return list(verdicts.read())

    assert note(1, 0, 0) == []
    assert note(2, 1, 0) == [Verdict(1, False, 0)]
    assert note(3, 0, 15) == [Verdict(2, True, 0)]
    # step 4 was taken before anybody could know
    assert note(4, 1, 15) == [Verdict(3, False, 15), Verdict(4, True, 15)]
    assert note(5, 0, 0) == [] and list(verdicts.read(all_=True)) == [Verdict(5, False, 0)]
