"""Command line: a verb for each command, whose options become a config."""

from __future__ import annotations

from typing import Annotated

import typer

from segtrain.cli.data import check
from segtrain.cli.errors import OneLineErrors
from segtrain.cli.evaluation import compare, evaluate
from segtrain.cli.export import export
from segtrain.cli.losses import losses
from segtrain.cli.models import encoders
from segtrain.cli.prediction import predict
from segtrain.cli.training import BareResume, fit, sweep
from segtrain.cli.tuning import tune
from segtrain.console import accept_any_text, write
from segtrain.files.places import provide_home
from segtrain.version import __version__

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # OneLineErrors prints them
    rich_markup_mode=None,  # plain help pages start faster
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        write(f"segtrain {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="show the tracebacks of errors")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="show the version and exit"
        ),
    ] = False,
) -> None:
    """Train, evaluate and use semantic segmentation networks on images and masks."""
    accept_any_text()
    provide_home()


# in the order of the help page
app.command(cls=BareResume)(fit)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(tune)
app.command()(export)
app.command()(check)
app.command()(compare)
app.command()(sweep)
app.command()(losses)
app.command()(encoders)
