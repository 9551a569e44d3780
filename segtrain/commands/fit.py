"""segtrain fit: config, plan, run folder, launch, training loop."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segtrain.config import Config
from segtrain.config.loading import adopt_older_names, load_config, save_config, to_yaml
from segtrain.console import write, write_lines, write_notes
from segtrain.data.inspection.survey import survey_data_set
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.launch import is_restart_of, launch_ranks
from segtrain.distributed.limits import explain_limits
from segtrain.errors import UsageError
from segtrain.files import remove_leftovers
from segtrain.losses.spec import LossSpec
from segtrain.models.pretrained import load_weights
from segtrain.models.segmentation import SegmentationModel, check_names
from segtrain.runs.folder import (
    CONFIG,
    ENVIRONMENT,
    LAST,
    LATEST,
    create_run,
    default_name,
    lock_run,
    point_latest,
    refuse_name,
)
from segtrain.training.loop import train
from segtrain.training.plan import TrainingPlan, make_model, make_plan, read_loss
from segtrain.training.resume import check_changes, find_resumed_run, find_state
from segtrain.training.session import RunStart


@dataclass(frozen=True)
class FitOptions:
    """Options of the command line."""

    file: Path | None  # --config
    sets: list[str]  # --set
    flags: dict[str, Any]  # options of config fields by dotted key; None: not given
    out: Path
    name: str | None = None
    resume: str | None = None


def fit(options: FitOptions) -> Path:
    """Train, and return the run's folder."""
    earlier = options.out / (options.name or LATEST)
    if not options.resume and is_restart_of(earlier / ENVIRONMENT):
        options = replace(options, resume=str(earlier.resolve()), name=None)
    config, loss, old_run = resolve_config(options)
    fabric = make_fabric(config.train)
    # rank 0 alone resolves the start and loads weights: other hosts may not see the run's folder
    starts: list[RunStart] = []
    model: SegmentationModel | None = None
    with ExitStack() as locks:
        if fabric.is_global_zero:
            if old_run:
                locks.enter_context(lock_run(old_run))
            elif options.name:  # before the data set is read
                refuse_name(options.out, options.name)
            start, model = prepare_start(config, loss, options, old_run)
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


def resolve_config(options: FitOptions) -> tuple[Config, LossSpec, Path | None]:
    """Return the config, its loss, and the folder of the run to resume.

    Raise UsageError for what can be refused before the data set is read: a typo costs no scan.
    """
    if options.resume and options.name:
        raise UsageError("--name is for a new run, --resume continues one; leave one out")
    old_run = find_resumed_run(options.resume, options.out) if options.resume else None
    base = load_config(old_run / CONFIG) if old_run else None
    config = load_config(options.file, options.sets, options.flags, base)
    if not old_run:
        config, notes = adopt_older_names(config)
        write_notes(notes)
    check_names(config.model.arch, config.model.encoder)
    return config, read_loss(config), old_run


def prepare_start(
    config: Config, loss: LossSpec, options: FitOptions, old_run: Path | None
) -> tuple[RunStart, SegmentationModel]:
    """Resolve all of a run, and make its folder once nothing can be refused any more."""
    plan = read_plan(config, loss)
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


def print_dry_run(options: FitOptions) -> None:
    """Print the plan of a training. Raise UsageError for what can't be trained or resumed."""
    config, loss, old_run = resolve_config(options)
    fabric = make_fabric(config.train)
    if not fabric.is_global_zero:
        return
    plan = read_plan(config, loss)
    write_notes(check_changes(old_run, plan.config) if old_run else [])
    write_lines(to_yaml(plan.config))
    write()
    for split, samples in plan.data.splits.items():
        write(f"{split}: {len(samples)} images")
    write(f"parameters: {make_model(plan.config, len(plan.data.classes)).parameter_count:,}")
    write(f"steps per epoch: {plan.steps_per_epoch}")
