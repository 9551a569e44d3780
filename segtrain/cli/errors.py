"""Errors as one line and an exit code; --debug shows every traceback."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from segtrain.errors import SegtrainError, Stopped
from segtrain.version import __version__

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class OneLineErrors(TyperGroup):
    """Prints a SegtrainError or a wrong option as one line; --debug shows every traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer keeps its type private
        # --debug may stand anywhere; it is the group's option, so it goes first
        try:
            return super().parse_args(ctx, sorted(args, key=lambda arg: arg != "--debug"))
        except typer.TyperException as error:
            if not args:  # the error is the help page
                typer.echo(error.format_message())
                raise typer.Exit(error.exit_code) from None
            _fail(_explained(error))
            raise typer.Exit(error.exit_code) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _fail("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Stopped as stopped:
            if str(stopped):
                typer.echo(str(stopped), err=True)
            raise typer.Exit(stopped.exit_code) from None
        except BrokenPipeError:  # whoever read our output has had enough, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (SegtrainError, typer.TyperException) as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _fail(error if isinstance(error, SegtrainError) else _explained(error))
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            where = _keep_traceback()
            if ctx.params["debug"]:
                traceback.print_exc()
            _fail(f"this is a fault of segtrain's: {type(error).__name__}; please report {where}")
            raise typer.Exit(1) from None


def _explained(error: typer.TyperException) -> str:
    """What is wrong with a command line, and what to do where typer doesn't say."""
    text = error.format_message().rstrip(".")
    ctx: Any = getattr(error, "ctx", None)  # what speaks of commands and options has one
    if "No such command" in text and "Did you mean" not in text:
        return f"{text}; there are {', '.join(ctx.command.list_commands(ctx))}"
    if "No such option" in text and "Possible" not in text and ctx.parent:
        return f"{text}; 'segtrain {ctx.info_name} --help' lists them"
    if "unexpected extra argument" in text:
        text += "; put quotes around what has spaces in it"
        return text + ("; name a data set with --data" if ctx.info_name == "fit" else "")
    return text


def _fail(message: object) -> None:
    typer.echo(f"error: {' '.join(str(message).split())}", err=True)


def _keep_traceback() -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="segtrain-error-", suffix=".log", delete=False
    ) as file:
        file.write(f"segtrain {__version__}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exc(file=file)
        return file.name
