"""Errors as one line and an exit code; --debug shows every traceback."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import typer
from typer.core import TyperGroup

from segtrain.cli.interrupts import INTERRUPTED, working
from segtrain.config.addresses import strip_credentials, take_credentials
from segtrain.console import accept_any_text, safe, write, write_lines
from segtrain.errors import SegtrainError, Stopped
from segtrain.version import DISTRIBUTION, __version__

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class OneLineErrors(TyperGroup):
    """Command group that prints a SegtrainError or a wrong option as one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer keeps its type private
        sys.argv[1:] = map(take_credentials, sys.argv[1:])  # runs and reports record them
        args = [take_credentials(arg) for arg in args]
        with _one_line("--debug" in args):
            if not args:
                write_lines(ctx.get_help())
                raise typer.Exit(2)
            # --debug may stand anywhere; it is the group's option, so it goes first
            return super().parse_args(ctx, sorted(args, key=lambda arg: arg != "--debug"))

    def invoke(self, ctx: Any) -> Any:
        with _one_line(ctx.params["debug"]), working():
            return super().invoke(ctx)


@contextmanager
def _one_line(debug: bool) -> Iterator[None]:
    """Print an exception as one line, after its traceback if `debug`; exit with its code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except Stopped as stopped:
        if str(stopped):
            write(stopped, stderr=True)
        raise typer.Exit(stopped.exit_code) from None
    except BrokenPipeError:  # the reader of our output, such as head, has ended
        # what stdout still buffers goes nowhere, else Python fails on it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (SegtrainError, typer.TyperException) as error:
        if debug:
            write_lines(_format_traceback(), stderr=True)
        _print_error(error if isinstance(error, SegtrainError) else _explain_usage(error))
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        if debug:
            write_lines(_format_traceback(), stderr=True)
        if refusal := _explain_refusal(error):
            _print_error(refusal)
            raise typer.Exit(1) from None
        log = _save_traceback()
        _print_error(
            f"internal error ({type(error).__name__}); the traceback is in {log}; "
            f"please report it at {_issue_tracker()}"
        )
        raise typer.Exit(1) from None


def _explain_refusal(error: Exception) -> str:
    """Return what the system refuses, and why; '' where the error doesn't say."""
    if isinstance(error, MemoryError):
        return "out of memory; smaller images, crops, batches or windows need less"
    if not isinstance(error, OSError):
        return ""
    if isinstance(error.filename, str | bytes):  # a name of 300 letters, a folder without rights
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    # typer prints help pages itself; whatever else is written names its file
    return f"cannot write to stdout: {error.strerror}" if error.errno in DISK_FULL else ""


def _explain_usage(error: typer.TyperException) -> str:
    """Return the error of a command line, with what to do where typer leaves that out."""
    text = " ".join(error.format_message().split()).rstrip(".")
    ctx: Any = getattr(error, "ctx", None)  # errors about commands and options have one
    if "No such command" in text and "Did you mean" not in text:
        return f"{text}; there are {', '.join(ctx.command.list_commands(ctx))}"
    if "No such option" in text and "Possible" not in text and ctx.parent:
        return f"{text}; 'segtrain {ctx.info_name} --help' lists them"
    if "unexpected extra argument" in text:
        text += "; put quotes around a value with spaces"
        # the likely mistake: check takes the data set as an argument
        return text + ("; name a data set with --data" if ctx.info_name == "fit" else "")
    return text


def _print_error(message: object) -> None:
    accept_any_text()  # a wrong option is found before the group's callback runs
    write(f"error: {str(message).strip()}", stderr=True)  # a newline in a name shows as \x0a


def _save_traceback() -> str:
    """Write the current exception to a new file; return its path."""
    with tempfile.NamedTemporaryFile(
        "w",
        encoding="utf-8",
        errors="backslashreplace",
        prefix="segtrain-error-",
        suffix=".log",
        delete=False,
    ) as file:
        lines = [f"segtrain {__version__}", " ".join(sys.argv), ""]
        file.writelines(f"{safe(line)}\n" for line in [*lines, *_format_traceback().split("\n")])
        return file.name


def _format_traceback() -> str:
    """Return the current exception's traceback, in which libraries may name a signed URL."""
    return strip_credentials(traceback.format_exc())


def _issue_tracker() -> str:
    """Return the URL of pyproject's [project.urls] Issues, or words where it has none."""
    try:
        urls = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        urls = []
    named = dict(entry.split(", ", 1) for entry in urls)
    return named.get("Issues", "the project's issue tracker")
