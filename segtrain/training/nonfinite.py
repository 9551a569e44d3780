"""Steps with NaN or inf: skipped and reported; too many in a row end the run with the cause."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from segtrain.data.loading.sampling import seed_at
from segtrain.distributed.collectives import max_over_ranks
from segtrain.errors import TrainingEnded, shorten
from segtrain.files.tables import save_csv
from segtrain.losses.build import Loss
from segtrain.models.checkpoint import save_state
from segtrain.runs.folder import BAD_BATCH, BAD_STEPS
from segtrain.training.module import TrainingModule
from segtrain.training.session import Session
from segtrain.training.state import TrainState
from segtrain.training.step import MicroBatch


class StepOutcome(NamedTuple):
    """The outcome of a step (counted from 1), the same on all ranks."""

    step: int
    bad: bool  # its loss or gradient was not finite, and it was skipped
    signum: int  # the signal of a stop request; 0: none


class OutcomeReader:
    """Copies outcomes to the host; CUDA's are read a step later, so that it never waits."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, outcome: Tensor) -> None:
        """Add the outcome (2,) of a step as train_step returns it: [bad, signal]."""
        event = None
        if self.on_gpu:
            on_host = torch.empty(2, pin_memory=True)  # a copy to other memory would wait
            outcome = on_host.copy_(outcome, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((step, outcome, event))

    def read(self, wait: bool = False) -> Iterator[StepOutcome]:
        """Yield the outcomes not read yet; on CUDA all but the latest, unless `wait` is set."""
        while len(self.pending) > (self.on_gpu and not wait):
            step, outcome, event = self.pending.popleft()
            if event:
                event.synchronize()
            bad, signum = outcome.tolist()
            wait = wait or signum > 0  # the run stops here: no outcome may stay unread
            yield StepOutcome(step, bool(bad), int(signum))


def report_bad_step(
    session: Session, step: int, micro_batches: list[MicroBatch], observed: bool
) -> None:
    """Record the files of a skipped step.

    Raise TrainingEnded after too many in a row, and for a label that is no class, at which a GPU's
    loss is NaN.
    """
    state = session.training.state
    if observed:
        session.training.loss.forget(len(micro_batches))  # NaN would stay in the epoch's mean
    files = session.plan.batch_files(step - 1)
    state.bad_steps.append({"step": step, "files": " ".join(files)})
    if session.is_rank_zero:
        save_csv(session.run / BAD_STEPS, state.bad_steps)
        scaled = getattr(session.fabric.strategy.precision, "scaler", None) is not None
        likely = ", or fp16 overflowed while its scale is adjusted" if scaled else ""
        session.reporter.write(
            f"step {step}: skipped, its loss or gradient is not finite{likely} "
            f"({len(state.bad_steps)} so far); files: {shorten(files, 8)}"
        )
    label = find_wrong_label(session, [target for _, target in micro_batches])
    if label is not None:
        last, lb_ignore = len(session.plan.data.classes) - 1, session.training.loss.lb_ignore
        batch = save_batch(session, step, micro_batches, files)
        raise TrainingEnded(
            f"step {step}: the target has label {label}, neither a class, 0 to {last}, nor "
            f"lb_ignore, {lb_ignore}; files: {shorten(files, 8)}; the batch is in {batch}; correct "
            "the masks or data.label_map; the last checkpoint is intact"
        )
    if state.bad_in_a_row >= session.plan.config.train.max_bad_steps:
        raise_nonfinite(session, step, micro_batches, files)


def find_wrong_label(session: Session, targets: list[Tensor]) -> int | None:
    """Return a label of any rank that is neither a class nor lb_ignore; None where there is none.

    This waits for the device, as a bad step may.
    """
    classes, lb_ignore = len(session.plan.data.classes), session.training.loss.lb_ignore
    none = torch.iinfo(torch.int64).min
    labels = torch.cat([target.flatten() for target in targets]).long()
    known = (labels == lb_ignore) | ((labels >= 0) & (labels < classes))
    label = int(max_over_ranks(labels.masked_fill(known, none).amax()))
    return None if label == none else label


def save_batch(
    session: Session, step: int, micro_batches: list[MicroBatch], files: list[str]
) -> Path:
    """Save the batch of a step, of all ranks; return the file."""
    images, targets = (
        cast(Tensor, session.fabric.all_gather(torch.cat(tensors)))
        for tensors in zip(*micro_batches, strict=True)
    )
    if session.is_rank_zero:
        batch = {"step": step, "files": files, "images": images.cpu(), "targets": targets.cpu()}
        save_state(session.run / BAD_BATCH, batch)
    return session.run / BAD_BATCH


def raise_nonfinite(
    session: Session, step: int, micro_batches: list[MicroBatch], files: list[str]
) -> NoReturn:
    """Save the batch of a bad step, and raise TrainingEnded that names what broke first."""
    fabric, training = session.fabric, session.training
    # the step's own seed: dropout repeats
    torch.manual_seed(seed_at(session.plan.config.train.seed, step - 1, fabric.global_rank))
    broken = [find_nonfinite(fabric, training.module.module, part) for part in micro_batches]
    batch = save_batch(session, step, micro_batches, files)
    raise TrainingEnded(
        f"{training.state.bad_in_a_row} steps in a row had a loss or gradient that is not finite; "
        f"the first to break is {broken[0]}; the batch is in {batch}; try a "
        "lower --lr, or --precision 32; the last checkpoint is intact"
    )


def refuse_untrained(state: TrainState) -> None:
    """Raise TrainingEnded at the end of a run all of whose steps were skipped."""
    if len(state.bad_steps) == state.step > 0:
        raise TrainingEnded(
            f"all {state.step} steps had a loss or gradient that is not finite, so nothing was "
            f"trained; {BAD_STEPS} has their files; try --precision 32, and look at --loss, "
            "--weights, model.mean and model.std"
        )


def find_nonfinite(fabric: Fabric, module: TrainingModule, micro_batch: MicroBatch) -> str:
    """Repeat a step on a micro-batch; name the first thing, in computing order, not finite."""
    model, loss = module.model, module.loss
    images, target = micro_batch
    with fabric.autocast(), torch.no_grad():
        logits = model.low_resolution(images)
    target = model.pad(target, loss.lb_ignore)
    broken = {
        "the network's weights": _not_finite(*model.parameters()),
        "the network's output": _not_finite(logits),
    }
    for name, weight, term in zip(loss.names, loss.weights, loss.terms, strict=True):
        # a gradient for each term: one whose value is finite may still have a gradient with NaN
        alone = Loss([name], [weight], [term], loss.lb_ignore, loss.sync)
        leaf = logits.detach().float().requires_grad_()
        value = alone(leaf, target, model.upsampling, model.align_corners)
        (gradient,) = torch.autograd.grad(value, leaf)
        broken[f"the loss term {name}"] = _not_finite(value, gradient)
    # all ranks take part in the sums of the losses, so none may return before this line
    flags = max_over_ranks(torch.stack(list(broken.values())).float()).tolist()
    names = [name for name, flag in zip(broken, flags, strict=True) if flag]
    return names[0] if names else "the gradient inside the network"


def _not_finite(*tensors: Tensor) -> Tensor:
    return ~torch.stack([torch.isfinite(t).all() for t in tensors]).all()
