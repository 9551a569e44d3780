"""segtrain fit and sweep: training."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from typer.core import TyperCommand

from segtrain.cli.imports import importing
from segtrain.cli.options import (
    ConfigFile,
    Device,
    FloatOption,
    IntOption,
    Out,
    Sets,
    TextOption,
    Workers,
    field,
    option,
)
from segtrain.config.sweep_values import DEFAULT_LOSSES, split_sets
from segtrain.config.verbs import check_settings
from segtrain.console import write_notes
from segtrain.distributed.processes import end_with_launcher


class BareResume(TyperCommand):
    """A command whose --resume may stand without a value: the latest run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer keeps its type private
        complete = []
        for arg, following in pairwise([*args, "-"]):  # "-": the last one has no value, either
            complete.append(arg)
            if arg == "--resume" and following.startswith("-"):
                complete.append("latest")
        return super().parse_args(ctx, complete)


def fit(
    config: ConfigFile = None,
    data: Annotated[TextOption, field("data.path", metavar="PATH|demo")] = None,
    arch: Annotated[TextOption, field("model.arch")] = None,
    encoder: Annotated[TextOption, field("model.encoder")] = None,
    weights: Annotated[
        TextOption, field("model.weights", metavar="auto|imagenet|none|FILE")
    ] = None,
    loss: Annotated[TextOption, field("loss.expression")] = None,
    thresh: Annotated[FloatOption, field("loss.thresh")] = None,
    lb_ignore: Annotated[IntOption, field("data.lb_ignore")] = None,
    n_min_factor: Annotated[IntOption, field("loss.n_min_factor")] = None,
    epochs: Annotated[IntOption, field("train.epochs")] = None,
    batch_size: Annotated[TextOption, field("train.batch_size", metavar="auto|N")] = None,
    lr: Annotated[FloatOption, field("optim.lr")] = None,
    crop: Annotated[TextOption, field("augment.crop", metavar="HxW")] = None,
    device: Device = None,
    devices: Annotated[IntOption, field("train.devices")] = None,
    nodes: Annotated[IntOption, field("train.nodes")] = None,
    precision: Annotated[TextOption, field("train.precision", metavar="auto|32|bf16|fp16")] = None,
    workers: Workers = None,
    seed: Annotated[IntOption, field("train.seed")] = None,
    out: Out = Path("runs"),
    name: Annotated[
        TextOption,
        option("folder of the run in --out; must not exist", default="date, time, arch and loss"),
    ] = None,
    resume: Annotated[
        TextOption,
        option(
            "continue this run from its last checkpoint; without a value, the latest run",
            metavar="[RUN]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option(
            "print config, images per split, parameters and steps per epoch; don't train",
            "--dry-run",
        ),
    ] = False,
    set_: Sets = [],
) -> None:
    """Train a network, or fine-tune one, on pairs of images and masks."""
    end_with_launcher()  # first, as importing torch takes seconds
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it as it is imported
    flags = {
        "data.path": data,
        "data.lb_ignore": lb_ignore,
        "data.workers": workers,
        "augment.crop": crop,
        "model.arch": arch,
        "model.encoder": encoder,
        "model.weights": weights,
        "loss.expression": loss,
        "loss.thresh": thresh,
        "loss.n_min_factor": n_min_factor,
        "optim.lr": lr,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.device": device,
        "train.devices": devices,
        "train.nodes": nodes,
        "train.precision": precision,
        "train.seed": seed,
    }
    write_notes(check_settings("fit", config, set_, flags), stderr=True)
    with importing():
        from segtrain.commands.requests import FitOptions, request_fit
    request = request_fit(FitOptions(config, set_, flags, out, name, resume))
    with importing():  # from here on it takes torch
        from segtrain.commands.fit import fit as run_fit
        from segtrain.commands.fit import print_dry_run
    if dry_run:
        print_dry_run(request)
    else:
        run_fit(request)


def sweep(
    loss: Annotated[
        TextOption,
        option(
            "losses, separated by commas",
            default=f"{DEFAULT_LOSSES}; the config's own where a --set has several values",
            metavar="LOSS,LOSS...",
        ),
    ] = None,
    seeds: Annotated[
        int, option("runs per combination, with seeds 0, 1, ...", default=1, min=1)
    ] = 1,
    config: ConfigFile = None,
    data: Annotated[TextOption, field("data.path", metavar="PATH|demo")] = None,
    device: Device = None,
    out: Annotated[Path, option("folder of the runs and their comparison", default="sweep")] = Path(
        "sweep"
    ),
    dry_run: Annotated[
        bool, option("print the commands left to run, one per line; don't run them", "--dry-run")
    ] = False,
    set_: Annotated[
        list[str],
        option(
            "set any other config field (value in YAML), or try several values of it: separate "
            "them by commas outside brackets and quotes; repeat for more: all are combined",
            "--set",
            metavar="KEY.PATH=VALUE[,VALUE...]",
        ),
    ] = [],
) -> None:
    """Train with several losses or config values, and compare them."""
    sets, flags = split_sets(set_), {"data.path": data, "train.device": device}
    entries = [entry for alternatives in sets for entry in alternatives]
    write_notes(check_settings("sweep", config, entries, flags), stderr=True)
    with importing():
        from segtrain.commands.sweep import sweep as run_sweep
        from segtrain.commands.sweep_jobs import SweepOptions
    run_sweep(SweepOptions(config, loss, sets, data, device), seeds, out, dry_run)
