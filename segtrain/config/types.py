"""Types of config fields, and the ways to write them: sizes, durations, on/off/auto."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SECONDS = {"s": 1, "min": 60, "h": 3600}


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinities are refused."""

    # not strict: PyYAML reads 1e-3 as text, which pydantic turns into a number
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _height_width(value: Any) -> Any:
    """Return '256x192', 256 or [256, 192] as (height, width). Raise ValueError for others."""
    if isinstance(value, (list, tuple)):
        return value  # pydantic checks the items
    sides = str(value).lower().split("x")
    try:
        height, width = map(int, sides * 2 if len(sides) == 1 else sides)
    except ValueError:
        raise ValueError(f"expected HEIGHTxWIDTH such as 256x192, or one number, got {value!r}")
    return height, width


def _check_pattern(pattern: str) -> str:
    """Return a regular expression. Raise ValueError for other text."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {pattern!r}: {error}")
    return pattern


def _on_off(value: Any) -> Any:
    """Return 'on' and 'off' for what YAML makes of these words: true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def parse_duration(duration: str) -> float:
    """Return the seconds of '90s', '10min' or '2h'. Raise ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?) ?(s|min|h)", duration)
    if not match or not float(match[1]):
        raise ValueError(f"expected a time such as 90s, 10min or 2h, got {duration!r}")
    return float(match[1]) * SECONDS[match[2]]


def _duration(value: Any) -> str:
    parse_duration(value if isinstance(value, str) else repr(value))
    return value


def _steps_or_duration(value: Any) -> int | str:
    digits = re.fullmatch("-?[0-9]+", str(value))
    if not digits and isinstance(value, str):
        return _duration(value)
    if not digits or int(value) < 1:
        raise ValueError(f"expected at least 1 step, or a time such as 90s or 10min, got {value!r}")
    return int(value)


PixelCount = Annotated[int, Field(ge=1)]
Size = Annotated[tuple[PixelCount, PixelCount], BeforeValidator(_height_width)]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]
OnOffAuto = Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_off)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Duration = Annotated[str, BeforeValidator(_duration)]
StepsOrDuration = Annotated[int | str, BeforeValidator(_steps_or_duration)]
