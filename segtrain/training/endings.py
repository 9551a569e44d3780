"""How a run ends before its time: on a signal's wish, or with too many bad steps in a row."""

from __future__ import annotations

import shlex
import signal
from typing import NoReturn

import torch
from lightning_fabric import Fabric

from segtrain.data.loading.sampling import seed_at
from segtrain.distributed.devices import max_over_ranks
from segtrain.errors import SegtrainError, Stopped, listing
from segtrain.models.checkpoint import save_state
from segtrain.runs.folder import write_csv
from segtrain.runs.folders import BAD_BATCH, BAD_STEPS
from segtrain.training.plan import Plan
from segtrain.training.progress import Reporter
from segtrain.training.state import Training, save
from segtrain.training.step import Part, broken_part


def stop(fabric: Fabric, plan: Plan, training: Training, signum: int) -> NoReturn:
    """Saves, and ends the run on a signal's wish; all ranks call it after the same step."""
    agreed = int(max_over_ranks(torch.tensor(signum, device=fabric.device)))
    said = ""
    if fabric.is_global_zero:
        save(fabric, plan, training)
        said = (
            f"{signal.Signals(agreed).name}: stopped and saved after step {training.state.step}; "
            f"go on with: segtrain fit --resume {shlex.quote(str(plan.run))}"
        )
    fabric.barrier()  # no rank leaves while another may still need it
    raise Stopped(said, agreed)


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
        write_csv(plan.run / BAD_STEPS, state.bad_steps)
        search = getattr(fabric.strategy.precision, "scaler", None) is not None
        likely = ", or overflows fp16 while its scale is found" if search else ""
        reporter.say(
            f"step {step}: skipped, its loss or gradient is not finite{likely} "
            f"({len(state.bad_steps)} so far); files: {listing(files, 8)}"
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
    images, targets = (fabric.all_gather(torch.cat(tensors)) for tensors in zip(*parts))
    if fabric.is_global_zero:
        batch = {"step": step, "files": files, "images": images.cpu(), "targets": targets.cpu()}
        save_state(plan.run / BAD_BATCH, batch)
    raise SegtrainError(
        f"{training.state.bad_in_a_row} steps in a row had a loss or gradient that is not finite; "
        f"the first to break is {broken[0]}; the batch is in {plan.run / BAD_BATCH}; try a lower "
        "--lr, or --precision 32; the last checkpoint is as it was"
    )
