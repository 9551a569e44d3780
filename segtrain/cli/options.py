"""Options that several verbs have, with help and defaults from the config's own fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segtrain.config import Config


def option(text: str, default: object, *names: str, **more: Any) -> Any:
    help_text = f"{text} [default: {default}]"
    return typer.Option(*names, help=help_text, show_default=False, **more)


def field(key: str, **more: Any) -> Any:
    """An option for a config field, with the field's own description and default."""
    section, name = key.split(".")
    settings = Config.model_fields[section].annotation
    assert settings is not None  # of each field; pydantic's type leaves it open
    info = settings.model_fields[name]
    meaning, _, default = info.description.partition("; default: ")
    return option(meaning, default or info.default, **more)


Text = str | None
Number = float | None
Whole = int | None
Out = Annotated[Path, option("folder of all runs", "runs", "--out")]
Sets = Annotated[
    list[str],
    option(
        "any other config field (value in YAML); again for each",
        "none",
        "--set",
        metavar="KEY.PATH=VALUE",
    ),
]
Device = Annotated[Text, field("train.device")]
Workers = Annotated[Text, field("data.workers")]
RunOrCheckpoint = typer.Argument(
    help="a run's folder or a checkpoint [default: the latest run's best]",
    metavar="RUN|CHECKPOINT",
    show_default=False,
)
