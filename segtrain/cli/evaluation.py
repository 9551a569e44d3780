"""segtrain eval and compare: scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segtrain.cli.imports import importing
from segtrain.cli.options import Device, Out, RunOrCheckpoint, Sets, TextOption, Workers, option
from segtrain.config.verbs import check_settings
from segtrain.console import write_notes
from segtrain.errors import UsageError


def evaluate(
    run: Annotated[str | None, RunOrCheckpoint] = None,
    split: Annotated[str, option("split to score", default="val")] = "val",
    data: Annotated[
        TextOption,
        option("folder of the data set", default="that of the training", metavar="PATH|demo"),
    ] = None,
    predictions: Annotated[
        Path | None,
        option(
            "score the masks in this folder, made by any tool, instead of a run", metavar="FOLDER"
        ),
    ] = None,
    config: Annotated[
        Path | None, option("YAML file of config sections, for --predictions", metavar="FILE")
    ] = None,
    device: Device = None,
    workers: Workers = None,
    out: Out = Path("runs"),
    json: Annotated[bool, option("print metrics.json instead of tables", "--json")] = False,
    set_: Sets = [],
) -> None:
    """Score a split at the images' original size, and write a report."""
    flags = {"data.path": data, "data.workers": workers, "train.device": device}
    if config and not predictions:
        raise UsageError("--config is for --predictions; a checkpoint has its own config")
    if predictions and run:
        raise UsageError(f"{run} and --predictions: score one of the two")
    verb = "eval --predictions" if predictions else "eval"
    write_notes(check_settings(verb, config, set_, flags), stderr=True)
    with importing():
        from segtrain.commands.requests import find_network, request_masks, request_score

    if predictions:
        masks = request_masks(predictions, config, set_, flags, json)
        with importing():
            from segtrain.commands.eval import evaluate_masks  # it takes torch
        evaluate_masks(masks, split, json)
    else:
        network = request_score(find_network(run, out), set_, flags)
        with importing():
            from segtrain.commands.eval import evaluate_network
        evaluate_network(network, split, json)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="folders of evaluated runs; all others are compared with the first",
            metavar="RUN RUN...",
            show_default=False,
        ),
    ],
    split: Annotated[str, option("split to compare", default="val")] = "val",
    out: Annotated[
        Path, option("folder of comparison.html and comparison.json", default="comparison")
    ] = Path("comparison"),
    json: Annotated[bool, option("print JSON instead of the table", "--json")] = False,
) -> None:
    """Compare runs: differences, and which of them are beyond noise."""
    with importing():
        from segtrain.commands.compare import compare as run_compare
    run_compare(runs, split, out, json)
