"""segtrain losses: the list of losses."""

from __future__ import annotations

from typing import Annotated

import typer

from segtrain.cli.imports import importing
from segtrain.cli.options import TextOption


def losses(
    name: Annotated[
        TextOption,
        typer.Argument(
            help="one loss; without it, all are listed", metavar="LOSS", show_default=False
        ),
    ] = None,
) -> None:
    """List the losses with their formulas, or explain one."""
    with importing():
        from segtrain.commands.losses import show_losses

    show_losses(name)
