"""segtrain check: the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segtrain.cli.imports import importing
from segtrain.cli.options import ConfigFile, Sets, TextOption, option
from segtrain.config.verbs import check_settings
from segtrain.console import write_notes


def check(
    path: Annotated[
        TextOption,
        typer.Argument(
            help="folder of the data set [default: data/, else the demo]",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    preview: Annotated[
        Path | None, option("write a sheet of images with coloured masks", metavar="FILE")
    ] = None,
    augment: Annotated[
        Path | None, option("write a sheet of augmented pairs", metavar="FILE")
    ] = None,
    json: Annotated[bool, option("print JSON instead of text", "--json")] = False,
    write_config: Annotated[
        Path | None, option("write a config for this data set, including the fixes", metavar="FILE")
    ] = None,
    set_: Sets = [],
) -> None:
    """Inspect a data set: contents, problems and fixes."""
    with importing():
        from segtrain.commands.check import check as run_check
        from segtrain.config.loading import load_config

    flags = {"data.path": path}
    verb = "check --augment" if augment else "check"
    write_notes(check_settings(verb, config, set_, flags), stderr=True)
    checked = load_config(config, set_, flags)
    if not run_check(checked, preview, augment, json, write_config):
        raise typer.Exit(1)
