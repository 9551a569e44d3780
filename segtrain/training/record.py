"""Record of the steps of an epoch: outcomes, times and losses, which become part of the state."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.training.nonfinite import OutcomeReader, report_bad_step
from segtrain.training.session import Session
from segtrain.training.step import MicroBatch
from segtrain.training.timing import StepTimer


class EpochRecord:
    """Record of the steps that this process takes of an epoch."""

    def __init__(self, session: Session):
        self.session, state = session, session.training.state
        device = session.fabric.device
        self.outcomes, self.timer = OutcomeReader(device), StepTimer(device, state.seconds)
        # on the device: adding up there doesn't make the host wait for each step
        self.loss_sum = torch.tensor(float(state.loss_sum), device=device)
        # by step: micro-batches, and whether the loss was observed; a bad step may be known later
        self.recent: dict[int, tuple[list[MicroBatch], bool]] = {}
        self.observations = len(session.training.loss.observed)  # of completed steps

    def add(
        self, micro_batches: list[MicroBatch], loss: Tensor, outcome: Tensor, observed: bool
    ) -> None:
        """Complete a step: its loss (0-d) and outcome (2,) are as train_step returns them."""
        training = self.session.training
        self.loss_sum += torch.where(outcome[0] > 0, 0, loss)  # that of a bad step is no number
        self.timer.mark("other")
        training.buffers.close()
        self.observations = len(training.loss.observed)
        training.state.step += 1
        step = training.state.step
        self.recent = dict([*self.recent.items(), (step, (micro_batches, observed))][-2:])
        self.outcomes.add(step, outcome)

    def read(self, wait: bool) -> int:
        """Count the steps whose outcome is known; return the code of a stop request, or 0.

        Raise TrainingEnded after too many bad ones.
        """
        code, state = 0, self.session.training.state
        for result in self.outcomes.read(wait):  # oldest first; a stop request stays set
            code = result.signum
            state.count_step(result.bad)
            if result.bad:
                report_bad_step(self.session, result.step, *self.recent[result.step])
        return code

    def settle(self) -> None:
        """Add times and losses to the state; this waits for the device."""
        self.timer.settle()
        self.session.training.state.loss_sum = self.loss_sum.item()

    def recover(self) -> bool:
        """Bring the state to the last completed step; return False where that is lost."""
        if not self.session.training.buffers.undo():
            return False
        del self.session.training.loss.observed[self.observations :]
        self.read(wait=True)
        self.settle()
        return True
