"""segtrain fit: config, plan, run folder, launch, training loop."""

from __future__ import annotations

import os
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from segtrain.commands.requests import FitRequest
from segtrain.config import Config
from segtrain.config.loading import save_config, to_yaml
from segtrain.console import write, write_lines, write_notes
from segtrain.data.inspection.survey import Survey, survey_data_set
from segtrain.distributed.fabric import make_fabric, name_precision
from segtrain.distributed.launch import launch_ranks
from segtrain.distributed.limits import explain_limits
from segtrain.errors import SegtrainError
from segtrain.files.whole import remove_leftovers
from segtrain.losses.build import load_networks
from segtrain.losses.spec import LossSpec
from segtrain.models.pretrained import load_weights
from segtrain.models.segmentation import SegmentationModel, check_installed
from segtrain.runs.folder import (
    CONFIG,
    LAST,
    create_run,
    default_name,
    find_free_name,
    lock_run,
    point_latest,
    refuse_name,
    refuse_read_only,
)
from segtrain.runs.trackers import Tracker
from segtrain.training.batch_size import resolve_batch_size
from segtrain.training.loop import start_training, train
from segtrain.training.plan import make_model, make_plan
from segtrain.training.resume import (
    check_changes,
    check_data,
    check_tuning,
    find_state,
    keep_batch_size,
    keep_length,
    keep_precision,
)
from segtrain.training.session import RunStart
from segtrain.training.watch import FileWatch


def fit(request: FitRequest) -> Path:
    """Train, and return the run's folder."""
    refuse_uninstalled(request.config, request.loss)
    request = keep_resolved(request)
    config, old_run = request.config, request.old_run
    fabric = make_fabric(config.train, changing=config.optim.freeze_epochs > 0)
    # rank 0 alone resolves the start and loads weights: other hosts may not see the run's folder
    starts: list[tuple[RunStart, str]] = []
    model: SegmentationModel | None = None
    config_file: Path | None = None
    with ExitStack() as until_end:
        tracker = until_end.enter_context(Tracker(config.train if fabric.is_global_zero else None))
        if fabric.is_global_zero:
            if old_run:
                until_end.enter_context(lock_run(old_run))
            start, model = resolve_start(request)
            if old_run:
                config_file = reopen_run(start, until_end, fabric.world_size)
            else:
                config_file = create_run(start.run, start.plan.config) / CONFIG
                until_end.enter_context(lock_run(start.run))
            point_latest(start.run)
            write(f"run: {start.run}")
            starts = [(start, name_precision(fabric))]
        with launch_ranks(fabric, config.train, config_file) as rank_monitor:
            ((start, precision),) = fabric.broadcast(starts)
            refuse_other_precision(fabric, precision)
            with explain_limits(start.plan.memory_advice(fabric.strategy.precision.precision)):
                # random weights will do: DDP replaces them by rank 0's
                model = model or make_model(start.plan.config, len(start.plan.data.classes))
                train(fabric, start, model, rank_monitor, tracker)
    return start.run


def keep_resolved(request: FitRequest) -> FitRequest:
    """Return the request with what auto was so far in the run to resume, if there is one."""
    if not request.old_run:
        return request
    config = keep_batch_size(request.old_run, request.config)
    return replace(request, config=keep_precision(request.old_run, config))


def refuse_other_precision(fabric: Fabric, precision: str) -> None:
    """Raise SegtrainError where auto took another precision than in rank 0, on another host."""
    if (own := name_precision(fabric)) != precision:
        raise SegtrainError(
            f"train.precision: auto is {own} on this host and {precision} on rank 0's; give one, "
            f"such as --precision {precision}"
        )


def refuse_uninstalled(config: Config, loss: LossSpec) -> None:
    """Raise UsageError for a network that the installed libraries lack: before data is read."""
    check_installed(config.model.arch, config.model.encoder)
    load_networks(loss)


def resolve_start(request: FitRequest, dry: bool = False) -> tuple[RunStart, SegmentationModel]:
    """Resolve all of a run, and refuse what can't be trained or resumed; nothing is written.

    A dry run downloads nothing, either.
    """
    config, options, old_run = request.config, request.options, request.old_run
    default = default_name(config.model.arch, config.loss.expression)
    name = options.name or find_free_name(options.out, default)
    if old_run:
        refuse_read_only(old_run)
    else:  # before the data set is read
        refuse_name(options.out, name)
    survey = read_data(config)
    config = resolve_batch_size(config, request.loss, survey)
    plan = make_plan(config, request.loss, survey)
    write_notes(plan.notes)
    saved, notes = None, []
    if old_run:
        saved = find_state(old_run)
        plan = keep_length(plan, saved) if saved else plan
        notes = check_changes(old_run, plan, saved) + check_tuning(old_run)
        notes += check_data(old_run, saved, plan) if saved else []
    # initial weights are a function of the seed, whatever was drawn before
    torch.manual_seed(config.train.seed)
    model = make_model(plan.config, len(plan.data.classes))
    if not saved:
        notes.append(load_weights(model, plan.config.model, download=not dry))
    write_notes(notes)
    return RunStart(plan, old_run or options.out / name, saved, FileWatch(survey)), model


def reopen_run(start: RunStart, until_end: ExitStack, processes: int) -> Path:
    """Clear up the folder of a run to resume; return the config file for its other processes.

    config.yaml stays as it is until a state with the changes is saved, so theirs is another file,
    which lasts `until_end`.
    """
    for folder in (start.run, start.run / LAST.parent):  # temporary files of a killed process
        remove_leftovers(folder)
    if processes == 1:
        return start.run / CONFIG
    file = start.run / f".tmp-{os.getpid()}-{CONFIG}"
    until_end.callback(file.unlink, missing_ok=True)
    save_config(start.plan.config, file)
    return file


def read_data(config: Config) -> Survey:
    """Read the data set, and print its notes: they explain why a plan is refused."""
    survey = survey_data_set(config.data, config.model.in_channels)
    write_notes((*survey.data_set.notes, *survey.notes))
    return survey


def print_dry_run(request: FitRequest) -> None:
    """Print the plan of a training; refuse what the training would. Nothing is written."""
    refuse_uninstalled(request.config, request.loss)
    request = keep_resolved(request)
    fabric = make_fabric(request.config.train, request.config.optim.freeze_epochs > 0)
    if not fabric.is_global_zero:
        return
    locked = lock_run(request.old_run) if request.old_run else nullcontext()
    with Tracker(request.config.train), locked:
        start, model = resolve_start(request, dry=True)
        plan = start.plan
        if fabric.world_size == 1:  # else its processes would have to start
            with explain_limits(plan.memory_advice(fabric.strategy.precision.precision)):
                start_training(fabric, start, model)
    write_lines(to_yaml(plan.config))
    write()
    for split, samples in plan.data.splits.items():
        write(f"{split}: {len(samples)} images")
    write(f"parameters: {model.parameter_count:,}")
    length = f"steps per epoch: {plan.steps_per_epoch}"
    if plan.config.train.max_time and not plan.timed:
        length += f", in at most {plan.epochs} epochs, as many as fit into train.max_time"
    write(length)
