"""Outcomes of steps, read at once or a step later."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from segtrain.errors import TrainingEnded
from segtrain.training.nonfinite import OutcomeReader, StepOutcome, report_bad_step


def session_of(run: Path) -> SimpleNamespace:
    """Return what a report of a bad step reads of a session: 3 classes, lb_ignore 255."""
    return SimpleNamespace(
        run=run,
        is_rank_zero=True,
        fabric=Mock(all_gather=lambda tensor: tensor),
        reporter=Mock(),
        training=SimpleNamespace(
            state=SimpleNamespace(bad_steps=[], bad_in_a_row=1), loss=Mock(lb_ignore=255)
        ),
        plan=SimpleNamespace(
            batch_files=lambda step: ["a.png", "b.png"],
            data=SimpleNamespace(classes=["x", "y", "z"]),
            config=SimpleNamespace(train=SimpleNamespace(max_bad_steps=9)),
        ),
    )


@pytest.mark.parametrize("label", [3, -7, 254, 2**32 + 1])
def test_a_label_that_is_no_class_ends_training_by_name(label: int, tmp_path: Path):
    target = torch.tensor([[[0, 1, 2, 255]]])
    batches = [(torch.zeros(1, 3, 1, 4), target), (torch.ones(1, 3, 1, 4), target.clone())]
    session = session_of(tmp_path)
    report_bad_step(session, 5, batches, observed=False)  # of labels that are all right
    batches[1][1][0, 0, 2] = label
    with pytest.raises(TrainingEnded) as ended:
        report_bad_step(session, 6, batches, observed=False)
    message = str(ended.value)
    assert f"step 6: the target has label {label}," in message
    assert "0 to 2, nor lb_ignore, 255" in message and "a.png, b.png" in message
    saved = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert saved["targets"].flatten().tolist().count(label) == 1
    assert session.training.state.bad_steps[-1] == {"step": 6, "files": "a.png b.png"}


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
