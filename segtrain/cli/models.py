"""segtrain encoders: the list of encoders."""

from __future__ import annotations

from typing import Annotated

import typer

from segtrain.cli.imports import importing
from segtrain.cli.options import TextOption


def encoders(
    pattern: Annotated[
        TextOption,
        typer.Argument(
            help="part of a name, or a pattern such as 'tu-convnext*'; without it, all are listed",
            metavar="PATTERN",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List encoders: parameters, strides, sizes, weights."""
    with importing():
        from segtrain.commands.encoders import show_encoders

    show_encoders(pattern)
