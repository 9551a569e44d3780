"""The length of a training under train.max_time: as many steps as fit, by measured ones.

It is fixed before the first step, so the schedule is that of a training of this length from the
start. What is measured are real steps, validation and checkpoint; all that they change is undone.
"""

from __future__ import annotations

import io
import math
import os
import time
from dataclasses import dataclass, replace

import torch

from segtrain.config.types import parse_duration
from segtrain.data.loading.dataset import read_batches
from segtrain.distributed.collectives import max_over_ranks
from segtrain.distributed.limits import explain_limits
from segtrain.errors import SegtrainError
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.evaluation.validation import validate
from segtrain.models.checkpoint import save_state
from segtrain.training.checkpoints import collect_state, restore_training
from segtrain.training.faults import ReadAhead, SaveOnFault, stop_on_fault, stop_training
from segtrain.training.loaders import Loaders
from segtrain.training.optim import set_lr, update_average
from segtrain.training.plan import TrainingPlan, refuse_warmup
from segtrain.training.progress import Reporter
from segtrain.training.session import Session
from segtrain.training.step import copy_to_device, train_step
from segtrain.training.timing import SaveClock

MEASURED_STEPS, MEASURED_IMAGES = 50, 16
LONGEST = 0.05  # share of the time that each measurement may take
SPARE = 0.03  # share of the time that is left for what varies


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a training take."""

    step: float
    frozen_step: float  # of an epoch with the encoder frozen
    validation: float
    checkpoint: float


def fit_into_time(session: Session, loaders: Loaders, begun: float) -> Session:
    """Return the session of a new training with the length that fits into train.max_time.

    begun: when its time began, by time.monotonic. Rank 0's length holds for all ranks. Raise
    TrainingEnded where not one step fits, and Stopped on a stop request.
    """
    plan, fabric = session.plan, session.fabric
    advice = plan.memory_advice(fabric.strategy.precision.precision)
    with SaveOnFault(session), explain_limits(advice):
        costs = measure_costs(session, loaders)
    error = None
    if session.is_rank_zero:
        try:
            plan = choose_length(plan, costs, time.monotonic() - begun)
        except SegtrainError as refused:
            error = refused
    stop_on_fault(session, error)
    epochs, steps = fabric.broadcast((plan.epochs, plan.steps_per_epoch))
    plan = replace(plan, epochs=epochs, steps_per_epoch=steps, timed=True)
    full = plan.total_steps == session.plan.total_steps
    session.reporter.write(
        f"train.max_time: {costs.step:.3g} s a step, {costs.validation:.3g} s a validation, "
        f"{costs.checkpoint:.3g} s a checkpoint: {epochs} epochs of {steps} steps, "
        f"{plan.total_steps} in all, fit into {plan.config.train.max_time}"
        + (", and train.epochs allows no more" if full else "")
    )
    reporter = Reporter(plan, session.training.state, session.is_rank_zero)
    return replace(session, plan=plan, reporter=reporter)


def choose_length(plan: TrainingPlan, costs: Costs, used: float) -> TrainingPlan:
    """Return the plan in the length of most steps that fits into train.max_time.

    Its epochs are shortened where that gives more steps; more of them than optim.freeze_epochs are
    left, since frozen steps are no training of the encoder. used: seconds that have passed. Raise
    SegtrainError where there is time for no step, or for no more than the warm-up.
    """
    train, optim, every = plan.config.train, plan.config.optim, plan.config.eval.every
    total = parse_duration(str(train.max_time))
    left = total * (1 - SPARE) - used

    def count_steps(epochs: int) -> int:
        """Return the steps of each of so many epochs that fit."""
        others = epochs * costs.checkpoint + math.ceil(epochs / every) * costs.validation
        frozen = min(optim.freeze_epochs, epochs)
        of_each = frozen * costs.frozen_step + (epochs - frozen) * costs.step
        return max(0, min(plan.steps_per_epoch, int((left - others) / of_each)))

    most = min(plan.epochs, 1 + max(0, int(left / min(costs.step, costs.frozen_step))))
    least = min(optim.freeze_epochs + 1, plan.epochs)
    lengths = range(least, max(least, most) + 1)
    epochs = max(lengths, key=lambda epochs: epochs * count_steps(epochs))
    if not (steps := count_steps(epochs)):
        others = least * costs.checkpoint + math.ceil(least / every) * costs.validation
        seconds = used + (least - 1) * costs.frozen_step + costs.step + others
        shortest = "one step" if least == 1 else f"one step in each of {least} epochs"
        raise SegtrainError(
            f"train.max_time: {train.max_time} is too short for {shortest} with validation and "
            f"checkpoint; give {math.ceil(seconds / (1 - SPARE))}s or more"
        )
    refuse_warmup(optim, epochs * steps)
    return replace(plan, epochs=epochs, steps_per_epoch=steps)


def measure_costs(session: Session, loaders: Loaders) -> Costs:
    """Take steps, score images and write a state, and return the times; all is undone.

    Raise Stopped on a stop request, and TrainingEnded on a fault of any rank.
    """
    training, config = session.training, session.plan.config
    before = io.BytesIO()  # not on the device, whose memory may not hold it twice
    torch.save(collect_state(session), before)
    step = time_step(session, loaders)
    frozen_step = step
    if config.optim.freeze_epochs and config.optim.encoder_lr:
        training.model.freeze_encoder()
        frozen_step = time_step(session, loaders)
        training.model.unfreeze_encoder()
    validation = time_validation(session, loaders)
    checkpoint = time_checkpoint(session)  # now that the optimizer has its state
    before.seek(0)
    saved = torch.load(before, map_location="cpu", weights_only=True)
    restore_training(session.fabric, training, saved)
    request = torch.tensor(session.stop_request.code, device=session.fabric.device)
    if code := int(max_over_ranks(request)):
        stop_training(session, code)
    clock = SaveClock(config.train.checkpoint_every)  # of those within an epoch
    share = checkpoint / clock.steps if clock.steps else checkpoint * step / clock.seconds
    return Costs(step + share, frozen_step + share, validation, checkpoint)


def time_step(session: Session, loaders: Loaders) -> float:
    """Return the seconds of a step: the mean of MEASURED_STEPS or fewer, after the first ones.

    A stop request ends it early.
    """
    fabric, training, train = session.fabric, session.training, session.plan.config.train
    longest = LONGEST * parse_duration(str(train.max_time))
    loaders.sampler.start, loaders.sampler.stop = 0, MEASURED_STEPS
    ahead = int(fabric.world_size > 1)
    batches = read_batches(loaders.train)
    reader = ReadAhead(batches, train.accumulate, ahead, session.stop_request)
    training.module.train()
    set_lr(training.optimizer, 0)  # it takes as long, and no weight can diverge
    start = time.monotonic()
    reader.fill()
    stop_on_fault(session)
    ends = [start]
    while len(ends) <= MEASURED_STEPS:
        session.rank_monitor.check()
        micro_batches = list(copy_to_device(fabric, reader.next_step(), train.channels_last))
        _, outcome = train_step(session, micro_batches, False, lambda phase: None)
        if training.average:
            update_average(training.average, training.model, train.ema, 0)
        training.buffers.close()
        if outcome[1] > 0:  # reading it waits for the device, too
            break
        ends.append(time.monotonic())
        if fabric.broadcast(ends[-1] - start > longest):
            break
    first = (len(ends) - 1) // 5  # workers start, caches fill, networks are compiled
    return (ends[-1] - ends[first]) / max(1, len(ends) - 1 - first)


def time_validation(session: Session, loaders: Loaders) -> float:
    """Return the seconds of a validation, by the first MEASURED_IMAGES of each rank or fewer.

    A stop request ends it early; a fault becomes one.
    """
    fabric, plan, request = session.fabric, session.plan, session.stop_request
    longest = LONGEST * parse_duration(str(plan.config.train.max_time))
    pairs = loaders.pairs["val"]
    images = math.ceil(len(pairs) / fabric.world_size)
    start = time.monotonic()
    ends: list[float] = []

    def should_stop() -> bool:
        session.rank_monitor.check()
        over = bool(ends) and (len(ends) == MEASURED_IMAGES or ends[-1] - start > longest)
        if not over:
            if fabric.device.type != "cpu":
                torch.accelerator.synchronize(fabric.device)
            ends.append(time.monotonic())
        return over or bool(request.code)

    predictor = SplitPredictor(session.training.scored, fabric, loaders.workers, plan.config.eval)
    try:
        validate(predictor, pairs, plan.data.classes, should_stop)
    except SegtrainError as error:
        request.error = error
    if not ends:
        return 0.0
    scored = min(len(ends), images)
    per_image = (ends[-1] - ends[0]) / max(1, scored - 1)
    return ends[0] - start + per_image * (images - 1)


def time_checkpoint(session: Session) -> float:
    """Return the seconds of a checkpoint that is the best; 0 on the ranks that save none."""
    start = time.monotonic()
    if session.is_rank_zero:
        file = session.run / f".tmp-{os.getpid()}-measured.pt"
        try:
            save_state(file, collect_state(session))
        finally:
            file.unlink(missing_ok=True)
    # a state has the weights at least thrice, and the last and the best checkpoint have them, too
    return (time.monotonic() - start) * 5 / 3
