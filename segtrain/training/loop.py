"""Training loop over epochs and steps."""

from __future__ import annotations

import copy
import math
import shlex
import time
from contextlib import nullcontext

import torch
from lightning_fabric import Fabric

from segtrain.console import format_score, write, write_notes
from segtrain.data.loading.dataset import read_batches
from segtrain.data.loading.sampling import seed_at
from segtrain.distributed.collectives import broadcast_buffers
from segtrain.distributed.devices import choose_layout
from segtrain.distributed.fabric import check_batch_norm, describe_precision, name_precision
from segtrain.distributed.launch import RankMonitor
from segtrain.distributed.limits import explain_limits
from segtrain.distributed.processes import identify_launcher
from segtrain.distributed.signals import FAULT, StopRequest
from segtrain.errors import SegtrainError
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.evaluation.validation import UNSCORED, validate
from segtrain.losses.build import build_loss
from segtrain.metrics.confusion import Scores
from segtrain.models.segmentation import SegmentationModel
from segtrain.runs.environment import collect_environment, record_start
from segtrain.runs.folder import BEST, ENVIRONMENT
from segtrain.runs.history import History
from segtrain.runs.trackers import Tracker
from segtrain.training.checkpoints import restore_training, save_checkpoint
from segtrain.training.faults import ReadAhead, SaveOnFault, stop_on_fault, stop_training
from segtrain.training.loaders import Loaders, open_loaders
from segtrain.training.module import (
    BufferSnapshot,
    Compilation,
    TrainingModule,
    decide_compilation,
    describe_loss_path,
)
from segtrain.training.nonfinite import refuse_untrained
from segtrain.training.optim import build_optimizer, lr_at, set_lr, update_average
from segtrain.training.progress import Reporter
from segtrain.training.record import EpochRecord
from segtrain.training.resume import compare_settings, explain_end
from segtrain.training.session import RunStart, Session
from segtrain.training.state import Training, TrainState, select_score
from segtrain.training.step import copy_to_device, train_step
from segtrain.training.time_limit import fit_into_time
from segtrain.training.timing import SaveClock, measure_peak_memory, trace_steps
from segtrain.training.tracking import count_shown, show_worst


def train(
    fabric: Fabric,
    start: RunStart,
    model: SegmentationModel,
    rank_monitor: RankMonitor,
    tracker: Tracker,
) -> None:
    """Train to the last epoch, from the first step or from a saved state.

    Early stopping ends it before; a signal does so by raising Stopped.
    """
    begun = time.monotonic()
    plan = start.plan
    training, compilation = start_training(fabric, start, model)
    if fabric.is_global_zero:
        write_start(fabric, start, training, compilation)
    loaders = open_loaders(plan, fabric)
    session = Session(
        fabric,
        plan,
        start.run,
        training,
        Reporter(plan, training.state, fabric.is_global_zero),
        StopRequest(announce=fabric.is_global_zero),
        rank_monitor,
        start.watch,
        tracker,
    )
    if session.is_rank_zero:
        write_notes(loaders.notes)
    with session.stop_request:
        if plan.config.train.max_time and not plan.timed:
            session = fit_into_time(session, loaders, begun)
        tracker.start(session.run, session.plan.config, session.reporter.write)
        train_epochs(session, loaders)
    if session.is_rank_zero:
        write_end(session, loaders)


def train_epochs(session: Session, loaders: Loaders) -> None:
    """Train the epochs that are left, each with its validation, row and checkpoint."""
    plan, run, training = session.plan, session.run, session.training
    config, state = plan.config, training.state
    optim = config.optim
    freezes = state.epoch < optim.freeze_epochs and optim.encoder_lr > 0  # else it is for good
    if freezes:
        training.model.freeze_encoder()
    reader = open_reader(session, loaders)
    history = trace = None
    if session.is_rank_zero:
        history = History(run, state.epoch)
        write_notes(history.notes)
        trace = trace_steps(run, session.fabric.device) if config.train.profile else None
    with (
        session.reporter,
        history or nullcontext(),
        trace or nullcontext() as profile,
    ):
        while state.epoch < plan.epochs and state.stale < (config.train.patience or math.inf):
            if freezes and state.epoch == optim.freeze_epochs:
                training.model.unfreeze_encoder()
            train_epoch(session, reader, profile)
            validation_start, scores = time.perf_counter(), None
            if (state.epoch + 1) % config.eval.every == 0 or state.epoch + 1 == plan.epochs:
                scores = validate_epoch(session, loaders)
            refuse_changed_files(session)  # before the score counts
            better = scores is not None and state.improve(
                select_score(scores, config.train.monitor)
            )
            lr = lr_at(state.step - 1, plan.total_steps, config.optim)
            terms = training.loss.report(plan.data.classes)
            row = state.end_epoch(plan, lr, scores, terms, time.perf_counter() - validation_start)
            if history:
                history.add(state.rows)
                # eval and predict need a best one even before the first validation
                best = better or not (run / BEST).exists()
                save_checkpoint(session, scores.miou if scores else None, best)
                session.reporter.end_epoch(row, state.best)
                session.tracker.log(state.step, row)
    refuse_untrained(state)


def start_training(
    fabric: Fabric, start: RunStart, model: SegmentationModel
) -> tuple[Training, Compilation]:
    """Build what training changes: network, loss, optimizer, average; restored if resuming.

    Nothing is written.
    """
    plan, config = start.plan, start.plan.config
    loss = build_loss(
        plan.loss,
        len(plan.data.classes),
        plan.data.lb_ignore,
        sync=config.loss.sync,
        palette=plan.data.palette,
    )
    compilation = decide_compilation(config.train, loss, fabric.device, plan.total_steps)
    if fabric.world_size > 1 and fabric.device.type == "cuda" and config.train.sync_bn:
        model.synchronise_bn()  # torch has it for GPUs only
    module = TrainingModule(model, loss, compilation.enabled).to(fabric.device)
    module = module.to(memory_format=choose_layout(fabric.device, config.train.channels_last))
    # only now: its state is laid out like the parameters, on their device
    optimizer = build_optimizer(model, loss, config.optim)
    module, optimizer = fabric.setup(module, optimizer)
    average = copy.deepcopy(model).requires_grad_(False).eval() if config.train.ema else None
    training = Training(
        module, model, loss, optimizer, average, BufferSnapshot(module), TrainState()
    )
    if start.saved:
        restore_training(fabric, training, start.saved)
    return training, compilation


def write_start(
    fabric: Fabric, start: RunStart, training: Training, compilation: Compilation
) -> None:
    """Print how and from where the run trains, and record its environment."""
    plan, config, model = start.plan, start.plan.config, training.model
    path = describe_loss_path(model, training.loss, fabric.device, len(plan.data.classes))
    write(f"loss: {path}")
    write(f"torch.compile: {'on' if compilation.enabled else 'off'} ({compilation.reason})")
    write(f"precision: {describe_precision(config.train, fabric)}")
    environment = collect_environment(fabric.device)
    environment |= {
        "precision": name_precision(fabric),
        "loss_path": path,
        "launcher": identify_launcher(),
    }
    record_start(start.run / ENVIRONMENT, environment)
    write(f"{plan.summary}, {model.parameter_count:,} parameters")
    if config.optim.layer_decay < 1 and config.optim.encoder_lr:
        first, last = training.optimizer.param_groups[0]["lr_factor"], config.optim.layer_decay
        write(
            f"layer decay: the learning rate is {first:.2g} times the decoder's in the encoder's "
            f"first layer, {config.optim.encoder_lr * last:.2g} times in its last"
        )
    write_notes(check_batch_norm(fabric, config.train, config.model.freeze_bn))
    if start.saved:
        end = explain_end(training.state, plan)
        hint = f": the run is finished: {end}" if end else ""
        write(f"resumed after step {training.state.step} of {plan.total_steps}{hint}")
        write_notes(compare_settings(start.saved, fabric))


def open_reader(session: Session, loaders: Loaders) -> ReadAhead:
    """Return the batches of all steps that are left: workers read on while an epoch ends."""
    fabric, plan = session.fabric, session.plan
    loaders.sampler.start, loaders.sampler.stop = session.training.state.step, plan.total_steps
    # on a GPU, the ranks learn of each other's faults a step later
    ahead = 0 if fabric.world_size == 1 else 1 + (fabric.device.type == "cuda")
    batches = read_batches(loaders.train)
    return ReadAhead(batches, plan.config.train.accumulate, ahead, session.stop_request)


def train_epoch(
    session: Session, reader: ReadAhead, profile: torch.profiler.profile | None
) -> None:
    """Run the remaining steps of the current epoch. Raise Stopped on a stop request.

    A fault is raised once the state is saved.
    """
    fabric, plan, training = session.fabric, session.plan, session.training
    record = EpochRecord(session)
    advice = plan.memory_advice(fabric.strategy.precision.precision)
    training.module.train()  # validation left it in evaluation mode
    with SaveOnFault(session, record.recover), explain_limits(advice):
        take_steps(session, reader, record, profile)


def take_steps(
    session: Session,
    reader: ReadAhead,
    record: EpochRecord,
    profile: torch.profiler.profile | None,
) -> None:
    """Take the steps up to the end of the epoch."""
    fabric, plan, training = session.fabric, session.plan, session.training
    config, state, reporter = plan.config, training.state, session.reporter
    timer, clock = record.timer, SaveClock(config.train.checkpoint_every)
    end = (state.epoch + 1) * plan.steps_per_epoch
    if state.step < end:
        reader.fill()
    stop_on_fault(session)
    while state.step < end:
        session.rank_monitor.check()
        step = state.step
        # dropout is a function of (seed, step, rank), so no random state needs to be saved
        torch.manual_seed(seed_at(config.train.seed, step, fabric.global_rank))
        set_lr(training.optimizer, lr := lr_at(step, plan.total_steps, config.optim))
        batches = reader.next_step()
        micro_batches = list(copy_to_device(fabric, batches, config.train.channels_last))
        timer.mark("data")
        # the host waits for the device after these steps only; they are the same on all ranks
        reads_loss = (step + 1) % config.train.log_every == 0 or step + 1 == end
        waits = reads_loss or clock.is_due_by_steps(step + 1)
        loss, outcome = train_step(session, micro_batches, reads_loss, timer.mark)
        if training.average:  # a bad step leaves the weights unchanged: averaging them is harmless
            update_average(training.average, training.model, config.train.ema, step)
        record.add(micro_batches, loss, outcome, reads_loss)
        if state.step == reporter.steps_before + 1:
            memory = measure_peak_memory(fabric.device)
            reporter.write(f"memory with the first step: {memory / 1e9:.2f} GB")
        reporter.count_step(state.epoch, state.step)
        code = record.read(waits)
        if waits or code:
            record.settle()
        if reads_loss:
            shown = loss.item()
            reporter.show_step(state.step, shown, lr, sum(state.seconds.values()))
            session.tracker.log(state.step, {"step_loss": shown, "step_lr": lr})
        if code:
            stop_training(session, code)
        # a time is not due on all ranks at once, so it is looked at where the host waits anyway
        if waits and clock.is_due(state.step) and session.is_rank_zero:
            save_checkpoint(session)
            timer.mark("other")  # else it would count as waiting for data
        if profile:
            profile.step()


def validate_epoch(session: Session, loaders: Loaders) -> Scores:
    """Score the validation split. Raise Stopped on a stop request; a resumed run repeats it."""
    fabric, plan, model = session.fabric, session.plan, session.training.scored

    def should_stop() -> bool:
        session.rank_monitor.check()
        return bool(session.stop_request.code)

    session.reporter.show_validation(session.training.state.epoch)
    broadcast_buffers(fabric, model)  # a checkpoint has rank 0's; what is saved is what is scored
    predictor = SplitPredictor(model, fabric, loaders.workers, plan.config.eval)
    pairs, shown = loaders.pairs["val"], count_shown(plan.config.train)
    mious = torch.full((len(pairs),), UNSCORED, device=fabric.device) if shown else None
    with SaveOnFault(session):
        try:
            scores = validate(predictor, pairs, plan.data.classes, should_stop, mious)
        except SegtrainError as error:
            session.stop_request.error = error
            stop_training(session, FAULT)
        if scores is None:  # on all ranks: validate has made them agree
            stop_training(session, session.stop_request.code)
        if mious is not None and session.is_rank_zero:
            show_worst(session, predictor, pairs, mious.tolist())
    return scores


def refuse_changed_files(session: Session) -> None:
    """Save the state and raise TrainingEnded where files of train or val have changed."""
    error = None
    if session.is_rank_zero and session.watch:
        changed, notes = session.watch.find_changes()
        for note in notes:
            session.reporter.write(str(note))
        if changed:
            what = "restore them to continue, or start a new run"
            error = SegtrainError(f"{changed}; {what}")
    stop_on_fault(session, error)


def write_end(session: Session, loaders: Loaders) -> None:
    """Print how the training ended, and what to do next."""
    state, monitor = session.training.state, session.reporter.monitor
    for split, pairs in loaders.pairs.items():
        write_notes(pairs.skipped_notes(split))
    if state.epoch < session.plan.epochs:
        write(f"early stopping: {state.stale} validations without improvement of {monitor}")
    write(f"best {monitor} {format_score(state.best)}; checkpoint: {session.run / BEST}")
    write(f"score it with: segtrain eval {shlex.quote(str(session.run))}")
