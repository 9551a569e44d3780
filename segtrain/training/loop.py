"""The training loop over epochs and steps, to be read from top to bottom."""

from __future__ import annotations

import math
import shlex
import signal
import time
from contextlib import nullcontext
from itertools import islice
from typing import Any, NoReturn, cast

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from segtrain.console import format_score, write_notes
from segtrain.data.loading.dataset import Pairs, checked, worker_count
from segtrain.data.loading.sampling import BatchSampler, seed_at
from segtrain.distributed.collectives import broadcast_buffers, max_over_ranks
from segtrain.distributed.fabric import check_batch_norm
from segtrain.distributed.launch import RankMonitor, identify_launcher
from segtrain.distributed.signals import StopRequest
from segtrain.errors import Stopped
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.evaluation.validation import validate
from segtrain.losses.build import build_loss
from segtrain.models.segmentation import SegmentationModel
from segtrain.runs.environment import collect_environment, record_start
from segtrain.runs.folder import BEST, ENVIRONMENT
from segtrain.runs.history import History
from segtrain.training.loaders import open_feed
from segtrain.training.nonfinite import Verdicts, report_bad
from segtrain.training.optim import build_optimizer, lr_at, set_lr, update_average
from segtrain.training.plan import Plan
from segtrain.training.progress import Reporter
from segtrain.training.resume import changes_since
from segtrain.training.state import Training, TrainState, average_of, restore, save, score_of
from segtrain.training.step import (
    Part,
    Statistics,
    TrainingModule,
    compile_or_not,
    describe_path,
    on_device,
    train_step,
)
from segtrain.training.timing import SaveClock, StepTimer, peak_memory, profiler


def train(
    fabric: Fabric,
    plan: Plan,
    model: SegmentationModel,
    saved: dict[str, Any] | None,
    rank_monitor: RankMonitor,
) -> None:
    """The loop over epochs, from the beginning or from a saved state."""
    config, run, loud = plan.config, plan.folder, fabric.is_global_zero
    training = start(fabric, plan, model, saved)
    state, epochs, steps = training.state, config.train.epochs, plan.steps_per_epoch
    on_gpu = fabric.device.type == "cuda"
    workers = worker_count(config.data.workers, on_gpu, config.train.devices)
    rank, world = fabric.global_rank, fabric.world_size
    loader, held_out, notes = open_feed(plan, workers, on_gpu, rank, world)
    if loud:
        write_notes(notes)
    history = History(run, state.epoch) if loud else None
    reporter = Reporter(config.train, steps, state.step, state.best, loud)
    trace = profiler(run, fabric.device) if config.train.profile and loud else nullcontext()
    with StopRequest(loud) as stop_request, reporter, trace as profile:

        def should_stop() -> bool:
            rank_monitor.check()
            return bool(stop_request.signum)

        while state.epoch < epochs and state.stale < (config.train.patience or math.inf):
            train_epoch(
                fabric, plan, training, loader, reporter, stop_request, rank_monitor, profile
            )
            scores, clock = None, time.perf_counter()
            if (state.epoch + 1) % config.eval.every == 0 or state.epoch + 1 == epochs:
                reporter.validating(state.epoch)
                broadcast_buffers(fabric, training.scored)
                predictor = SplitPredictor(training.scored, fabric, workers, config.eval)
                scores = validate(predictor, held_out, plan.data.classes, should_stop)
                if scores is None:  # a resumed run takes up the validation
                    stop(fabric, plan, training, stop_request.signum)
            better = scores is not None and state.improve(score_of(scores, config.train.monitor))
            lr = lr_at(state.step - 1, epochs * steps, config.optim)
            terms = training.loss.report(plan.data.classes)
            took = time.perf_counter() - clock
            row = state.end_epoch(steps, config, lr, scores, terms, took)
            if history:
                history.add(state.rows)
                best = better or not (run / BEST).exists()
                save(fabric, plan, training, scores.miou if scores else None, best)
                reporter.epoch(row, state.best)
    if loud:
        for split, pairs in (("train", cast(Pairs, loader.dataset)), ("val", held_out)):
            if pairs.skipped:
                print(f"{split}: {pairs.skipped}")
        if state.epoch < epochs:
            print(f"stopped early: validations without a better {reporter.monitor}: {state.stale}")
        print(f"best {reporter.monitor} {format_score(state.best)}; checkpoint: {run / BEST}")
        print(f"score it with: segtrain eval {shlex.quote(str(run))}")


def start(
    fabric: Fabric, plan: Plan, model: SegmentationModel, saved: dict[str, Any] | None
) -> Training:
    """All that training changes: new, or as the last checkpoint left it."""
    config, loud, on_gpu = plan.config, fabric.is_global_zero, fabric.device.type == "cuda"
    total_steps = config.train.epochs * plan.steps_per_epoch
    loss = build_loss(
        plan.loss,
        len(plan.data.classes),
        config.data.lb_ignore,
        sync=config.loss.sync,
        palette=plan.data.palette,
    )
    compiled, reason = compile_or_not(config.train, loss, fabric.device, total_steps)
    if loud:
        path = describe_path(model, loss, fabric.device)
        print(f"loss: {path}")
        print(f"torch.compile: {'on' if compiled else 'off'} ({reason})")
        more = {"loss_path": path, "launcher": identify_launcher()}
        record_start(plan.folder / ENVIRONMENT, collect_environment(fabric.device) | more)
        print(f"{plan.size}, {model.parameter_count:,} parameters")
        for note in check_batch_norm(fabric, config.train, config.model.freeze_bn):
            print(note)
    if fabric.world_size > 1 and on_gpu and config.train.sync_bn:
        model.synchronise_bn()
    module = TrainingModule(model, loss, compiled).to(fabric.device)
    if config.train.channels_last:
        module = module.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, loss, config.optim)
    module, optimizer = fabric.setup(module, optimizer)
    average = average_of(model) if config.train.ema else None
    training = Training(module, model, loss, optimizer, average, TrainState())
    if saved:
        restore(fabric, training, saved)
        if loud:
            over = training.state.step == total_steps
            hint = ": it is at its end, more --epochs go on" if over else ""
            print(f"resumed after step {training.state.step} of {total_steps}{hint}")
            for line in changes_since(saved, fabric):
                print(line)
    return training


def train_epoch(
    fabric: Fabric,
    plan: Plan,
    training: Training,
    loader: DataLoader,
    reporter: Reporter,
    stop_request: StopRequest,
    rank_monitor: RankMonitor,
    profile: torch.profiler.profile | None,
) -> None:
    """The steps that are left of an epoch. Raises Stopped where somebody wished so."""
    config, state = plan.config, training.state
    total = config.train.epochs * plan.steps_per_epoch
    end = (state.epoch + 1) * plan.steps_per_epoch
    sampler = cast(BatchSampler, loader.batch_sampler)
    sampler.start, sampler.stop = state.step, end
    parts_left = on_device(fabric, checked(loader), config.train.channels_last)
    statistics, verdicts = Statistics(training.module), Verdicts(fabric.device)
    timer, clock = StepTimer(fabric.device, state.seconds), SaveClock(config.train.checkpoint_every)
    loss_sum = torch.tensor(state.loss_sum, device=fabric.device)
    recent: dict[int, list[Part]] = {}  # a bad step may be seen a step later
    training.module.train()
    while state.step < end:
        rank_monitor.check()
        step = state.step
        # dropout is a function of (seed, step, rank), so no random state needs to be kept
        torch.manual_seed(seed_at(config.train.seed, step, fabric.global_rank))
        set_lr(training.optimizer, lr := lr_at(step, total, config.optim))
        parts = list(islice(parts_left, config.train.accumulate))
        timer.mark("data")
        state.step += 1
        # the host waits for the device at these steps alone; they are the same on all ranks
        reads = state.step % config.train.log_every == 0 or state.step == end
        waits = reads or clock.counts(state.step)
        loss, verdict = train_step(
            fabric, training.module, training.optimizer, statistics, parts,
            config.optim.clip_norm, reads, stop_request, timer.mark,
        )  # fmt: skip
        if training.average:
            update_average(training.average, training.model, config.train.ema, step)
        loss_sum += torch.where(verdict[0] > 0, 0, loss)
        timer.mark("other")
        if state.step == reporter.done + 1:
            reporter.say(f"memory with the first step: {peak_memory(fabric.device) / 1e9:.2f} GB")
        verdicts.note(state.step, verdict)
        reporter.count(state.epoch, state.step)
        recent = dict([*recent.items(), (state.step, parts)][-2:])
        signum = 0
        for seen in verdicts.read(waits):
            signum = seen.signum
            if state.note(seen.bad):
                observed = reads and seen.step == state.step
                parts = recent[seen.step]
                report_bad(fabric, plan, training, seen.step, parts, observed, reporter)
        if waits or signum:
            timer.settle()
            state.loss_sum = loss_sum.item()
        if reads:
            reporter.step(state.step, loss.item(), lr, sum(state.seconds.values()))
        if signum:
            stop(fabric, plan, training, signum)
        if waits and clock.due(state.step) and fabric.is_global_zero:
            save(fabric, plan, training)
            timer.mark("other")
        if profile:
            profile.step()


def stop(fabric: Fabric, plan: Plan, training: Training, signum: int) -> NoReturn:
    """Saves, and ends the run on a signal's wish; all ranks call it after the same step."""
    agreed = int(max_over_ranks(torch.tensor(signum, device=fabric.device)))
    said = ""
    if fabric.is_global_zero:
        save(fabric, plan, training)
        said = (
            f"{signal.Signals(agreed).name}: stopped and saved after step {training.state.step}; "
            f"continue with: segtrain fit --resume {shlex.quote(str(plan.run))}"
        )
    fabric.barrier()  # no rank leaves while another may still need it
    raise Stopped(said, agreed)
