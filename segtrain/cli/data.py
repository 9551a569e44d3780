"""segtrain check: the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segtrain.cli.options import (
    Sets,
    Text,
    option,
)


def check(
    path: Annotated[
        Text,
        typer.Argument(
            help="folder of the data set [default: data/, else the demo]",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, option("YAML file of config sections", "none", metavar="FILE")
    ] = None,
    preview: Annotated[
        Path | None, option("write a sheet of coloured masks over images", "none", metavar="FILE")
    ] = None,
    augment: Annotated[
        Path | None, option("write a sheet of augmented pairs", "none", metavar="FILE")
    ] = None,
    json: Annotated[bool, option("print JSON in place of the page", "no", "--json")] = False,
    write_config: Annotated[
        Path | None,
        option("write a dataset YAML that works as it is", "none", metavar="FILE"),
    ] = None,
    set_: Sets = [],
) -> None:
    """Say what a data set holds, what is wrong, and what mends it."""
    from segtrain.commands.check import check as run_check
    from segtrain.config.loading import load_config

    checked = load_config(config, set_, {"data.path": path})
    if not run_check(checked, preview, augment, json, write_config):
        raise typer.Exit(1)
