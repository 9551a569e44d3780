"""segtrain fit: config, plan, run folder, launch, training loop."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from segtrain.commands.requests import FitRequest
from segtrain.config import Config
from segtrain.config.loading import save_config, to_yaml
from segtrain.console import write, write_lines, write_notes
from segtrain.data.inspection.survey import survey_data_set
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.launch import launch_ranks
from segtrain.distributed.limits import explain_limits
from segtrain.files import remove_leftovers
from segtrain.losses.build import load_networks
from segtrain.losses.spec import LossSpec
from segtrain.models.pretrained import load_weights
from segtrain.models.segmentation import SegmentationModel, check_installed
from segtrain.runs.folder import (
    CONFIG,
    LAST,
    create_run,
    default_name,
    lock_run,
    point_latest,
)
from segtrain.training.loop import train
from segtrain.training.plan import TrainingPlan, make_model, make_plan
from segtrain.training.resume import check_changes, find_state
from segtrain.training.session import RunStart


def fit(request: FitRequest) -> Path:
    """Train, and return the run's folder."""
    config, old_run = request.config, request.old_run
    refuse_uninstalled(config, request.loss)
    fabric = make_fabric(config.train)
    # rank 0 alone resolves the start and loads weights: other hosts may not see the run's folder
    starts: list[RunStart] = []
    model: SegmentationModel | None = None
    with ExitStack() as locks:
        if fabric.is_global_zero:
            if old_run:
                locks.enter_context(lock_run(old_run))
            start, model = prepare_start(request)
            if not old_run:
                locks.enter_context(lock_run(start.run))
            starts = [start]
        config_file = starts[0].run / CONFIG if starts else None
        with launch_ranks(fabric, config.train, config_file) as rank_monitor:
            (start,) = fabric.broadcast(starts)
            with explain_limits(start.plan.memory_advice(fabric.strategy.precision.precision)):
                # random weights will do: DDP replaces them by rank 0's
                model = model or make_model(start.plan.config, len(start.plan.data.classes))
                train(fabric, start, model, rank_monitor)
    return start.run


def refuse_uninstalled(config: Config, loss: LossSpec) -> None:
    """Raise UsageError for a network that the installed libraries lack: before data is read."""
    check_installed(config.model.arch, config.model.encoder)
    load_networks(loss)


def prepare_start(request: FitRequest) -> tuple[RunStart, SegmentationModel]:
    """Resolve all of a run, and make its folder once nothing can be refused any more."""
    config, options, old_run = request.config, request.options, request.old_run
    plan = read_plan(config, request.loss)
    saved = find_state(old_run, plan) if old_run else None
    # initial weights are a function of the seed, whatever was drawn before
    torch.manual_seed(config.train.seed)
    model = make_model(plan.config, len(plan.data.classes))
    notes = [] if saved else [load_weights(model, plan.config.model)]
    name = options.name or default_name(config.model.arch, config.loss.expression)
    if old_run:
        notes += check_changes(old_run, plan.config)
        for folder in (old_run, old_run / LAST.parent):  # temporary files of a killed process
            remove_leftovers(folder)
        save_config(plan.config, old_run / CONFIG)
    run = old_run or create_run(options.out, name, plan.config)
    point_latest(run)
    write_notes(notes)
    write(f"run: {run}")
    return RunStart(plan, run, saved), model


def read_plan(config: Config, loss: LossSpec) -> TrainingPlan:
    """Read the data set and make the plan; print the notes of each.

    Those of the data come first: they explain why a plan is refused.
    """
    survey = survey_data_set(config.data, config.model.in_channels)
    write_notes((*survey.data_set.notes, *survey.notes))
    plan = make_plan(config, loss, survey)
    write_notes(plan.notes)
    return plan


def print_dry_run(request: FitRequest) -> None:
    """Print the plan of a training. Raise UsageError for what can't be trained or resumed."""
    refuse_uninstalled(request.config, request.loss)
    fabric = make_fabric(request.config.train)
    if not fabric.is_global_zero:
        return
    plan = read_plan(request.config, request.loss)
    write_notes(check_changes(request.old_run, plan.config) if request.old_run else [])
    write_lines(to_yaml(plan.config))
    write()
    for split, samples in plan.data.splits.items():
        write(f"{split}: {len(samples)} images")
    write(f"parameters: {make_model(plan.config, len(plan.data.classes)).parameter_count:,}")
    write(f"steps per epoch: {plan.steps_per_epoch}")
