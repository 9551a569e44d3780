"""segtrain tune: choices made on the validation split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from segtrain.cli.imports import importing
from segtrain.cli.options import Device, Out, RunOrCheckpoint, Sets, TextOption, Workers, option
from segtrain.config.verbs import check_settings
from segtrain.console import write_notes
from segtrain.errors import UsageError


def tune(
    run: Annotated[str | None, RunOrCheckpoint] = None,
    data: Annotated[
        TextOption,
        option("folder of the data set", default="that of the training", metavar="PATH|demo"),
    ] = None,
    device: Device = None,
    workers: Workers = None,
    out: Out = Path("runs"),
    json: Annotated[bool, option("print JSON instead of the table", "--json")] = False,
    set_: Sets = [],
) -> None:
    """Calibrate a network on val, and choose its thresholds."""
    if run and run.startswith("hf://"):
        raise UsageError(f"{run}: its local copy isn't yours; tune a run, then export and push it")
    flags = {"data.path": data, "data.workers": workers, "train.device": device}
    write_notes(check_settings("tune", None, set_, flags), stderr=True)
    with importing():
        from segtrain.commands.requests import find_network, request_score
    network = request_score(find_network(run, out), set_, flags)
    with importing():
        from segtrain.commands.tune import tune as run_tune
    run_tune(network, json)
