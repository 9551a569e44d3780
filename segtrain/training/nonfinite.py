"""Steps with NaN or inf: skipped, reported, and explained where too many come in a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import torch
from lightning_fabric import Fabric
from torch import Tensor

from segtrain.data.loading.sampling import seed_at
from segtrain.distributed.collectives import max_over_ranks
from segtrain.errors import SegtrainError, shorten
from segtrain.files import write_csv
from segtrain.losses.build import Loss
from segtrain.models.checkpoint import save_state
from segtrain.runs.folder import BAD_BATCH, BAD_STEPS
from segtrain.training.plan import Plan
from segtrain.training.progress import Reporter
from segtrain.training.state import Training
from segtrain.training.step import Part, TrainingModule


class Verdict(NamedTuple):
    """What all ranks agree on at a step, counted from 1."""

    step: int
    bad: bool  # its loss or gradient was not finite, and it was skipped
    signum: int  # of a wish to stop; 0: none


class Verdicts:
    """Brings verdicts to the host so that a GPU never waits for it: they are read a step later."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def note(self, step: int, verdict: Tensor) -> None:
        """verdict (2,): bad as 0 or 1, and the signal's number."""
        event = None
        if self.on_gpu:
            here = torch.empty(2, pin_memory=True)
            verdict = here.copy_(verdict, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((step, verdict, event))

    def read(self, all_: bool = False) -> Iterator[Verdict]:
        """Those not read yet; on a GPU but the latest, unless `all_` are asked for."""
        while len(self.pending) > (self.on_gpu and not all_):
            step, verdict, event = self.pending.popleft()
            if event:
                event.synchronize()
            bad, signum = verdict.tolist()
            all_ = all_ or signum > 0  # the run stops here: nothing may be left unread
            yield Verdict(step, bool(bad), int(signum))


def broken_part(fabric: Fabric, module: TrainingModule, part: Part) -> str:
    """What is not finite in a step on that part, the first in the order of computing."""
    model, loss = module.model, module.loss
    images, target = part
    with fabric.autocast(), torch.no_grad():
        logits = model.low_resolution(images)
    target = model.pad(target, loss.lb_ignore)
    broken = {
        "the network's weights": _not_finite(*model.parameters()),
        "the network's output": _not_finite(logits),
    }
    for name, weight, term in zip(loss.names, loss.weights, loss.terms, strict=True):
        alone = Loss([name], [weight], [term], loss.lb_ignore, loss.sync)
        leaf = logits.detach().float().requires_grad_()
        value = alone(leaf, target, model.upsampling, model.align_corners)
        (gradient,) = torch.autograd.grad(value, leaf)
        broken[f"the loss term {name}"] = _not_finite(value, gradient)
    # each rank's own finding counts; all take part in the losses' sums, so none returns early
    found = max_over_ranks(torch.stack(list(broken.values())).float())
    names = [name for name, one in zip(broken, found.tolist(), strict=True) if one]
    return names[0] if names else "the gradient inside the network"


def _not_finite(*tensors: Tensor) -> Tensor:
    return ~torch.stack([torch.isfinite(t).all() for t in tensors]).all()


def report_bad(
    fabric: Fabric,
    plan: Plan,
    training: Training,
    step: int,
    parts: list[Part],
    observed: bool,
    reporter: Reporter,
) -> None:
    """Notes the files of a skipped step; raises SegtrainError where too many came in a row."""
    state = training.state
    if observed:
        training.loss.forget(len(parts))
    files = plan.files_at(step - 1)
    state.bad_steps.append({"step": step, "files": " ".join(files)})
    if fabric.is_global_zero:
        write_csv(plan.folder / BAD_STEPS, state.bad_steps)
        search = getattr(fabric.strategy.precision, "scaler", None) is not None
        likely = ", or overflows fp16 while its scale is found" if search else ""
        reporter.say(
            f"step {step}: skipped, its loss or gradient is not finite{likely} "
            f"({len(state.bad_steps)} so far); files: {shorten(files, 8)}"
        )
    if state.bad_in_a_row >= plan.config.train.max_bad_steps:
        give_up(fabric, plan, training, step, parts, files)


def give_up(
    fabric: Fabric,
    plan: Plan,
    training: Training,
    step: int,
    parts: list[Part],
    files: list[str],
) -> NoReturn:
    """Saves the batch for study, and says what in the step broke first."""
    torch.manual_seed(seed_at(plan.config.train.seed, step - 1, fabric.global_rank))
    broken = [broken_part(fabric, training.module.module, part) for part in parts]
    images, targets = (
        fabric.all_gather(torch.cat(tensors)) for tensors in zip(*parts, strict=True)
    )
    if fabric.is_global_zero:
        assert isinstance(images, Tensor) and isinstance(targets, Tensor)
        batch = {"step": step, "files": files, "images": images.cpu(), "targets": targets.cpu()}
        save_state(plan.folder / BAD_BATCH, batch)
    raise SegtrainError(
        f"{training.state.bad_in_a_row} steps in a row had a loss or gradient that is not finite; "
        f"the first to break is {broken[0]}; the batch is in {plan.folder / BAD_BATCH}; try a "
        "lower --lr, or --precision 32; the last checkpoint is as it was"
    )
