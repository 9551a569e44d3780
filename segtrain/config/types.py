"""Types of config fields, and the ways to write them: sizes, durations, on/off/auto."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from segtrain.errors import match_choice

SMALLEST_WINDOW = 32  # pixels: smaller ones take minutes for an image
LARGEST_OVERLAP = 0.9  # of windows: each pixel is computed 100 times
SECONDS = {"s": 1, "min": 60, "h": 3600}
HIGHEST = 2**63 - 1  # of an integer in torch, NumPy and files


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinities are refused.

    A word in another spelling, such as AdamW, becomes the choice that it names; the context of a
    validation is a dict that takes such words with their choices.
    """

    # not strict: PyYAML reads 1e-3 as text, which pydantic turns into a number
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _prepare_values(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values  # pydantic refuses it
        parts = {name: _list_parts(field.annotation) for name, field in cls.model_fields.items()}
        return {key: _prepare(value, parts.get(key, []), info) for key, value in values.items()}

    @field_validator("*")
    @classmethod
    def _refuse_huge(cls, value: Any) -> Any:
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, int) and abs(number) > HIGHEST:
                raise ValueError(f"expected at most {HIGHEST}, got {number!r:.60}")
        return value


def take_choice(word: str, choices: list[str], info: ValidationInfo) -> str:
    """Return the choice that a word names, as `match_choice` does, else the word unchanged."""
    choice = match_choice(word, choices) or word
    if choice != word and info.context is not None:
        info.context[word] = choice
    return choice


def _list_parts(kind: Any) -> list[Any]:
    """Return a type with all types within it, and the words that it allows."""
    return [kind, *(part for inner in get_args(kind) for part in _list_parts(inner))]


def _prepare(value: Any, parts: list[Any], info: ValidationInfo) -> Any:
    """Return a value for a field of these types as pydantic should take it."""
    if isinstance(value, dict):
        return {key: _prepare(item, parts, info) for key, item in value.items()}
    if isinstance(value, list):
        return [_prepare(item, parts, info) for item in value]
    if isinstance(value, bool):  # to pydantic, true is the number 1
        numbers_alone = {int, float} & set(parts) and bool not in parts
        return str(value).lower() if numbers_alone else value
    if isinstance(value, int) and str(value) in parts:  # YAML's reading of precision: 32
        return str(value)
    words = [part for part in parts if isinstance(part, str)]
    return take_choice(value, words, info) if isinstance(value, str) and words else value


def _height_width(value: Any) -> Any:
    """Return '256x192', 256 or [256, 192] as (height, width), and anything else unchanged."""
    sides = re.fullmatch(r" *([0-9]+) *(?:[xX] *([0-9]+) *)?", str(value), re.ASCII)
    return (sides[1], sides[2] or sides[1]) if sides else value


def _check_pattern(pattern: str) -> str:
    """Return a regular expression. Raise ValueError for other text."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression, got {pattern!r:.60}: {error}")
    return pattern


def _on_off(value: Any) -> Any:
    """Return 'on' and 'off' for what YAML makes of these words: true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def parse_duration(duration: str) -> float:
    """Return the seconds of '90s', '10min' or '2h'. Raise ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?) ?(s|min|h)", str(duration))
    if not match or not float(match[1]):
        raise ValueError
    return float(match[1]) * SECONDS[match[2]]


def _duration(value: Any) -> str:
    parse_duration(value)
    return value


def _steps_or_duration(value: Any) -> int | str:
    if not re.fullmatch("-?[0-9]+", str(value)):
        return _duration(value)
    if int(value) < 1:
        raise ValueError
    return int(value)


def _share_or_steps(value: float) -> int | float:
    if value < 1:
        return value
    if value % 1:
        raise ValueError
    return int(value)


PixelCount = Annotated[int, Field(ge=1)]
Size = Annotated[tuple[PixelCount, PixelCount], BeforeValidator(_height_width)]
WindowSide = Annotated[int, Field(ge=SMALLEST_WINDOW)]
Window = Annotated[tuple[WindowSide, WindowSide], BeforeValidator(_height_width)]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]
OnOffAuto = Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_off)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Duration = Annotated[str, BeforeValidator(_duration)]
StepsOrDuration = Annotated[int | str, BeforeValidator(_steps_or_duration)]
BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]
ShareOrSteps = Annotated[int | float, Field(ge=0), AfterValidator(_share_or_steps)]
