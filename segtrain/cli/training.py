"""segtrain fit and sweep: trainings."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from typer.core import TyperCommand

from segtrain.cli.options import (
    Device,
    Number,
    Out,
    Sets,
    Text,
    Whole,
    Workers,
    field,
    option,
)
from segtrain.distributed.processes import end_with_launcher

LOSSES = "ce,ohem,focal,ghm,ohem+dice"


class BareResume(TyperCommand):
    """Lets --resume stand without a value: the latest run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer keeps its type private
        spelled = []
        for arg, following in pairwise([*args, "-"]):
            spelled.append(arg)
            if arg == "--resume" and following.startswith("-"):
                spelled.append("latest")
        return super().parse_args(ctx, spelled)


def fit(
    config: Annotated[
        Path | None, option("YAML file of config sections", "none", metavar="FILE")
    ] = None,
    data: Annotated[Text, field("data.path", metavar="PATH|demo")] = None,
    arch: Annotated[Text, field("model.arch")] = None,
    encoder: Annotated[Text, field("model.encoder")] = None,
    weights: Annotated[Text, field("model.weights", metavar="auto|imagenet|none|FILE")] = None,
    loss: Annotated[Text, field("loss.expression")] = None,
    thresh: Annotated[Number, field("loss.thresh")] = None,
    lb_ignore: Annotated[Whole, field("data.lb_ignore")] = None,
    n_min_factor: Annotated[Whole, field("loss.n_min_factor")] = None,
    epochs: Annotated[Whole, field("train.epochs")] = None,
    batch_size: Annotated[Whole, field("train.batch_size")] = None,
    lr: Annotated[Number, field("optim.lr")] = None,
    crop: Annotated[Text, field("augment.crop", metavar="HxW")] = None,
    device: Device = None,
    devices: Annotated[Whole, field("train.devices")] = None,
    nodes: Annotated[Whole, field("train.nodes")] = None,
    precision: Annotated[Text, field("train.precision")] = None,
    workers: Workers = None,
    seed: Annotated[Whole, field("train.seed")] = None,
    out: Out = Path("runs"),
    name: Annotated[
        Text,
        option(
            "the run's folder in --out; an existing one is an error", "date, time, arch and loss"
        ),
    ] = None,
    resume: Annotated[
        Text,
        option(
            "go on with this run from its last checkpoint; without a value, with the latest",
            "a new run",
            metavar="[RUN]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option(
            "print config, images per split, parameters and steps per epoch, and stop",
            "train",
            "--dry-run",
        ),
    ] = False,
    set_: Sets = [],
) -> None:
    """Train a network on pairs of images and masks."""
    end_with_launcher()  # before the seconds that torch's import takes
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings are about itself
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
    from segtrain.commands.fit import fit as run_fit

    run_fit(config, set_, flags, out, name, resume, dry_run)


def sweep(
    loss: Annotated[
        str, option("losses, with commas between them", LOSSES, metavar="LOSS,LOSS...")
    ] = LOSSES,
    seeds: Annotated[int, option("trainings of each loss, of seeds 0, 1, ...", "1", min=1)] = 1,
    config: Annotated[
        Path | None, option("YAML file of config sections", "none", metavar="FILE")
    ] = None,
    data: Annotated[Text, field("data.path", metavar="PATH|demo")] = None,
    device: Device = None,
    out: Annotated[Path, option("folder of the sweep's runs and comparison", "sweep")] = Path(
        "sweep"
    ),
    dry_run: Annotated[
        bool,
        option("print the commands that are left to run, one a line", "run them", "--dry-run"),
    ] = False,
    set_: Sets = [],
) -> None:
    """Train with several losses, all else the same, and compare them."""
    from segtrain.commands.sweep import sweep as run_sweep

    run_sweep(loss, seeds, config, set_, data, device, out, dry_run)
