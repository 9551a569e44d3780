"""Options that several verbs share; help texts and defaults come from the config's fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segtrain.config import Config


def option(text: str, *names: str, default: object = None, **more: Any) -> Any:
    """Return a typer option whose help shows the default, if there is a value to show."""
    shown = "" if default is None else f" [default: {default}]"
    return typer.Option(*names, help=text + shown, show_default=False, **more)


def field(key: str, **more: Any) -> Any:
    """Return an option for a config field, with the field's own description and default."""
    section, name = key.split(".")
    info = type(getattr(Config(), section)).model_fields[name]
    meaning, _, words = info.description.partition("; default: ")
    return option(meaning, default=words or info.default, **more)


TextOption = str | None
FloatOption = float | None
IntOption = int | None
ConfigFile = Annotated[
    Path | None, option("YAML file of config sections", "--config", metavar="FILE")
]
Out = Annotated[Path, option("folder of all runs", "--out", default="runs")]
Sets = Annotated[
    list[str],
    option(
        "set any other config field (value in YAML); repeat for more",
        "--set",
        metavar="KEY.PATH=VALUE",
    ),
]
Device = Annotated[TextOption, field("train.device", metavar="auto|cpu|cuda|mps")]
Workers = Annotated[TextOption, field("data.workers", metavar="auto|N")]
RunOrCheckpoint = typer.Argument(
    help="folder of a run, or a checkpoint [default: the best of the latest run]",
    metavar="RUN|CHECKPOINT",
    show_default=False,
)
