"""Errors of a config's values in the user's words: what is allowed in a field, and what was given.

pydantic reports a union once per member and a list once per item; users want a line a field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from segtrain.config.data import SplitConfig
from segtrain.config.schema import Config, list_keys
from segtrain.errors import did_you_mean, match_choice

SIZE = "a height x width in pixels such as 512 or 512x512"
CHANNELS = "a list with a number for each channel, such as [123.7, 116.3, 103.5]"
# of fields whose types have several forms or parts: what is allowed
FORMS = {
    "augment.crop": SIZE,
    "augment.scale": "two positive factors, the lower one first, such as [0.5, 2.0]",
    "augment.transforms": "a list of names, with arguments if need be, such as "
    "[HorizontalFlip, RandomGamma: {p: 0.3}]",
    "data.classes": "a list of at least 2 names, such as [road, car]; numbers in quotes",
    "data.exclude": "a list of paths or patterns, such as ['*/night_*']",
    "data.label_map": "a class id or ignore for each mask value, such as {7: 1, 255: ignore}",
    "data.nodata": "a list of mask values, such as [-9999]",
    "data.palette": "a list of colours [red, green, blue] of 0 to 255, such as "
    "[[0, 0, 0], [255, 128, 0]]",
    "data.rare_classes": "a list of class names, such as [pole, sign]; numbers in quotes",
    "data.value_range": "two values, the lower one first, such as [0, 4095]",
    "eval.tta": "a list of hflip, vflip and factors above 0, at most 4, such as [hflip, 0.75]",
    "eval.window": f"{SIZE}, at least 32",
    "model.encoder_options": "arguments by name, such as {drop_path_rate: 0.1}",
    "model.mean": CHANNELS,
    "model.options": "arguments by name, such as {decoder_channels: [64, 32, 16]}",
    "optim.warmup": "a share of all steps below 1, such as 0.05, or a number of steps such as 500",
    "train.batch_size": "a number of at least 1, or auto",
    "train.checkpoint_every": "a number of steps, or a time such as 90s or 10min",
    "train.max_time": "a time such as 90s, 25min or 2h",
    "train.timeout": "a time such as 90s, 10min or 2h",
    "model.std": CHANNELS.replace("number", "positive number"),
}
MOST_PROBLEMS = 8  # in one error
# pydantic's type of error: the values that are allowed, with pydantic's own details filled in
ALLOWED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "a value greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer of fewer digits",
    "int_type": "an integer",
    "less_than": "a value less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "keys with values",
    "string_type": "text; numbers, dates, yes and no are text in quotes",
}


@dataclass(frozen=True)
class Problem:
    """A wrong field, or fields of a section that contradict each other."""

    field: str  # dotted
    text: str
    contradiction: bool = False

    def describe(self, shown: str = "") -> str:
        """Return the problem with its field's name, unless `shown` is that."""
        return self.text if self.field in (shown, "") else f"{self.field}: {self.text}"


def list_problems(error: ValidationError, prefix: str = "") -> list[Problem]:
    """Return the problems that pydantic found, one for each wrong field.

    prefix: dotted place of what was validated within a Config.
    """
    problems: list[Problem] = []
    by_field: dict[str, list[ErrorDetails]] = {}
    for details in error.errors():
        location = [
            *filter(None, prefix.split(".")),
            *(f"{part:.60}" for part in map(str, details["loc"])),
        ]
        nested = location[:2] == ["data", "splits"]
        # pydantic adds the union member or list index that it tried; show the field alone
        field = ".".join(location[: 4 if nested else 2])
        if details["type"] in ("extra_forbidden", "invalid_key"):
            problems.append(Problem("", _explain_unknown(location)))
        elif details["type"] == "value_error" and (text := str(details["ctx"]["error"])):
            problems.append(Problem(field, text, contradiction=len(location) < 2))
        else:
            by_field.setdefault(field, []).append(details)
    for field, found in by_field.items():
        # the item that has most errors: each member of a union reports it
        value = _shorten_value(found[0]["input"])
        same = [details for details in found if _shorten_value(details["input"]) == value]
        allowed = FORMS.get(field) or " or ".join(dict.fromkeys(map(_explain_allowed, same)))
        problems.append(Problem(field, f"expected {allowed}, got {value}"))
    return list(dict.fromkeys(problems))


def join_problems(problems: Iterable[str]) -> str:
    """Return the first problems as one line, with the number of the others."""
    texts = list(dict.fromkeys(problems))
    rest = len(texts) - MOST_PROBLEMS
    return "; ".join(texts[:MOST_PROBLEMS]) + (f" (+{rest} more)" if rest > 0 else "")


def _explain_unknown(location: list[str]) -> str:
    key, known = ".".join(location), list_keys() + list(Config.model_fields)
    if location[:2] == ["data", "splits"]:
        known = [".".join([*location[:3], field]) for field in SplitConfig.model_fields]
    if key in known:  # with its dot, as --set has it
        section, _, name = key.rpartition(".")
        return f"unknown key '{key}'; in a file, write {section}: {{{name}: VALUE}}"
    ends = [name for name in known if match_choice(location[-1], [name.rpartition(".")[2]])]
    if same := match_choice(key, known) or ", ".join(ends[:3]):
        return f"unknown key {key:.80}; did you mean {same}?"
    near = did_you_mean(key, known) or "; 'segtrain fit --dry-run' prints every key"
    return f"unknown key {key:.80}{near}"


def _explain_allowed(details: ErrorDetails) -> str:
    if details["type"] not in ALLOWED:
        return details["msg"].lower().removeprefix("input should be ")
    context = details.get("ctx", {})
    limits = {key: f"{value:g}" for key, value in context.items() if isinstance(value, float)}
    return ALLOWED[details["type"]].format(**context | limits)


def _shorten_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)  # as in YAML
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return f"{value!r:.60}"
