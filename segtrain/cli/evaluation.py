"""segtrain eval and compare: scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segtrain.cli.options import (
    Device,
    Out,
    RunOrCheckpoint,
    Sets,
    Text,
    Workers,
    option,
)


def evaluate(
    run: Annotated[Path | None, RunOrCheckpoint] = None,
    split: Annotated[str, option("which split to score", "val")] = "val",
    data: Annotated[
        Text, option("folder of the data set", "the one trained on", metavar="PATH|demo")
    ] = None,
    predictions: Annotated[
        Path | None,
        option(
            "score the masks in this folder, which any tool made, in place of a run",
            "none",
            metavar="FOLDER",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        option("YAML file of config sections, for --predictions", "none", metavar="FILE"),
    ] = None,
    device: Device = None,
    workers: Workers = None,
    out: Out = Path("runs"),
    json: Annotated[bool, option("print metrics.json in place of tables", "no", "--json")] = False,
    set_: Sets = [],
) -> None:
    """Score a split at the images' own size, and write a report."""
    flags = {"data.path": data, "data.workers": workers, "train.device": device}
    from segtrain.commands.eval import evaluate as run_evaluate

    run_evaluate(run, out, split, set_, flags, predictions, config, json)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="folders that eval has written to; the first is what the others are set against",
            metavar="RUN RUN...",
            show_default=False,
        ),
    ],
    split: Annotated[str, option("which split's scores", "val")] = "val",
    out: Annotated[
        Path, option("folder of comparison.html and comparison.json", "comparison")
    ] = Path("comparison"),
    json: Annotated[bool, option("print JSON in place of the table", "no", "--json")] = False,
) -> None:
    """Tell which differences between runs are more than noise."""
    from segtrain.commands.compare import compare as run_compare

    run_compare(runs, split, out, json)
