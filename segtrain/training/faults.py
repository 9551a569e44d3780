"""Faults in mid-training: the state is saved first, and all ranks end alike."""

from __future__ import annotations

import shlex
import signal
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import NoReturn

import torch

from segtrain.data.loading.batch import Batch
from segtrain.distributed.collectives import max_over_ranks
from segtrain.distributed.launch import is_lost_peer
from segtrain.distributed.signals import FAULT, StopRequest
from segtrain.errors import SegtrainError, Stopped, TrainingEnded, first_line, translate_errors
from segtrain.runs.folder import STATE
from segtrain.training.checkpoints import save_checkpoint
from segtrain.training.session import Session


class ReadAhead:
    """The micro-batches of a step, read some steps before the step is due.

    One process needs none: there a fault of the loader is raised at once. Several ranks need as
    many as they take until they know of it: the rank requests a stop and still has batches for the
    last steps, so that no other one waits for it in a collective.
    """

    def __init__(self, batches: Iterator[Batch], count: int, steps: int, request: StopRequest):
        self.batches, self.count, self.steps, self.request = batches, count, steps, request
        self.waiting: deque[list[Batch]] = deque()

    def fill(self) -> None:
        """Read the batches of the next step, and of the steps after it."""
        while len(self.waiting) <= self.steps and self.request.error is None:
            try:
                step = list(islice(self.batches, self.count))
            except SegtrainError as error:
                if not self.steps:
                    raise
                self.request.error = error
                break
            if not step:  # the last one was read
                break
            self.waiting.append(step)

    def next_step(self) -> list[Batch]:
        """Return the batches of the next step."""
        self.fill()
        return self.waiting.popleft()


class SaveOnFault:
    """A context manager that saves the state where its block raises an exception.

    A SegtrainError gets a line on how to continue; of other exceptions that line is printed.
    `recover` brings the state to the last completed step, or returns False where that is lost.
    """

    def __init__(self, session: Session, recover: Callable[[], bool] = lambda: True):
        self.session, self.recover = session, recover

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session = self.session
        if not isinstance(error, Exception) or isinstance(error, (Stopped, TrainingEnded)):
            return
        lost = isinstance(error, RuntimeError) and is_lost_peer(error)
        if lost or session.rank_monitor.lost or not session.is_rank_zero:
            return
        end = save_last_step(session, self.recover)
        if not isinstance(error, SegtrainError):
            session.reporter.write(end)
            return
        ended = TrainingEnded(f"{error}; {end}")
        ended.exit_code = error.exit_code
        raise ended from error


def describe_end(session: Session) -> str:
    """Return what was saved of a run, and how to continue it."""
    resume = f"segtrain fit --resume {shlex.quote(str(session.run))}"
    return f"stopped and saved after step {session.training.state.step}; continue with: {resume}"


def save_last_step(session: Session, recover: Callable[[], bool] = lambda: True) -> str:
    """Save the state of the last completed step, if possible; return what is saved, in words."""
    resume = f"segtrain fit --resume {shlex.quote(str(session.run))}"
    if not session.training.state.step:
        return f"stopped before its first step was done; start it again with: {resume}"
    try:
        # whatever a device raises after a fault of its own
        with translate_errors(first_line):
            if recover():
                save_checkpoint(session)
                return describe_end(session)
    except SegtrainError:
        pass  # as on a full disk: the first fault is the one to report
    if not (session.run / STATE).exists():
        return f"nothing is saved yet; start it again with: {resume}"
    return f"the last checkpoint is intact; continue with: {resume}"


def stop_on_fault(session: Session, error: SegtrainError | None = None) -> None:
    """End the training on all ranks if one of them has a fault: `error`, or one that waits."""
    request = session.stop_request
    request.error = request.error or error
    has_fault = torch.tensor(int(request.error is not None), device=session.fabric.device)
    if max_over_ranks(has_fault):
        stop_training(session, FAULT)


def stop_training(session: Session, code: int) -> NoReturn:
    """Save a checkpoint, and raise Stopped on a signal or TrainingEnded on a fault.

    All ranks call it after the same step, with the code of a stop request. A fault of any rank goes
    before signals; rank 0 reports it.
    """
    fabric, error = session.fabric, session.stop_request.error
    # in validation a rank may not have got the signal yet; the exit codes must be equal
    agreed = int(max_over_ranks(torch.tensor(code, device=fabric.device)))
    if agreed == FAULT:
        own = torch.tensor(fabric.global_rank + 1 if error else 0, device=fabric.device)
        error = fabric.broadcast(error, src=int(max_over_ranks(own)) - 1)
    end = ""
    if session.is_rank_zero:
        if error is None:
            save_checkpoint(session)
        end = save_last_step(session) if error else describe_end(session)
    fabric.barrier()  # no rank leaves while another may still need it
    if error is None:
        raise Stopped(end and f"{signal.Signals(agreed).name}: {end}", agreed)
    raise TrainingEnded(f"{error}; {end}") if end else Stopped("", 0)
