"""segtrain fit: config, plan, run folder, launch, loop."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from segtrain.config import Config
from segtrain.config.loading import load_config, save_config, to_yaml
from segtrain.console import write_notes
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.launch import is_restart_of, launch_ranks
from segtrain.distributed.limits import explain_limits
from segtrain.errors import UsageError
from segtrain.files import remove_leftovers
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
from segtrain.training.plan import Plan, make_plan, new_model, read_loss
from segtrain.training.resume import find_state, refuse_changes, run_to_resume


def fit(
    file: Path | None,
    sets: list[str],
    flags: dict[str, Any],
    out: Path,
    name: str | None = None,
    resume: str | None = None,
    dry_run: bool = False,
) -> Path | None:
    """The verb: trains, and returns the run's folder. With dry_run, says what it would do."""
    if resume and name:
        raise UsageError("--name is for a new run, --resume goes on with one; leave one out")
    earlier = out / (name or LATEST)
    if not resume and is_restart_of(earlier / ENVIRONMENT):
        resume = str(earlier.resolve())
    old_run = run_to_resume(resume, out) if resume else None
    base = load_config(old_run / CONFIG) if old_run else None
    config = load_config(file, sets, flags, base)
    check_names(config.model.arch, config.model.encoder)
    loss = read_loss(config)  # before the scan: a mistake shows at once
    fabric = make_fabric(config.train)
    if dry_run:
        if fabric.is_global_zero:
            describe(make_plan(config, loss, print), old_run)
        return None
    plan: Plan | None = None
    model: SegmentationModel | None = None
    saved: dict[str, Any] | None = None
    with ExitStack() as until_the_end:
        if fabric.is_global_zero:
            if old_run:
                until_the_end.enter_context(lock_run(old_run))
            elif name:
                refuse_name(out, name)
            plan = make_plan(config, loss, print)
            saved = find_state(old_run, plan) if old_run else None  # or refused: nothing changed
            model = first_model(plan.config, load=saved is None)
            name = name or default_name(config.model.arch, config.loss.expression)
            plan = open_run(plan, out, name, old_run)
            if not old_run:
                until_the_end.enter_context(lock_run(plan.folder))
        config_file = plan.folder / CONFIG if plan else None
        with launch_ranks(fabric, config.train, config_file) as rank_monitor:
            plan, saved = fabric.broadcast((plan, saved))  # other hosts need not see the folder
            assert plan is not None
            with explain_limits(plan.memory_advice(fabric.strategy.precision.precision)):
                # wrapping gives all ranks rank 0's weights
                train(fabric, plan, model or new_model(plan.config), saved, rank_monitor)
    return plan.folder


def first_model(config: Config, load: bool) -> SegmentationModel:
    """The model as training starts from it, its weights loaded where they are to be."""
    torch.manual_seed(config.train.seed)
    model = new_model(config)
    if load:
        write_notes([load_weights(model, config.model)])  # refused ones leave no folder behind
    return model


def open_run(plan: Plan, out: Path, name: str, old_run: Path | None) -> Plan:
    """The plan with the folder that the run writes to: a new one, or the one to resume."""
    if old_run:
        for line in refuse_changes(old_run, plan.config):
            print(line)
        for folder in (old_run, old_run / LAST.parent):
            remove_leftovers(folder)
        save_config(plan.config, old_run / CONFIG)
    run = old_run or create_run(out, name, plan.config)
    point_latest(run)
    print(f"run: {run}")
    return replace(plan, run=run)


def describe(plan: Plan, old_run: Path | None) -> None:
    """What --dry-run prints. Raises UsageError for what can't be resumed."""
    for line in refuse_changes(old_run, plan.config) if old_run else []:
        print(line)
    print(to_yaml(plan.config))
    for split, samples in plan.data.splits.items():
        print(f"{split}: {len(samples)} images")
    print(f"parameters: {new_model(plan.config).parameter_count:,}")
    print(f"steps per epoch: {plan.steps_per_epoch}")
