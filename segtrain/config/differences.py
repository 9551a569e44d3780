"""Fields in which several configs differ, and short texts for their values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segtrain.config.schema import Config

LOSS, SEED = "loss.expression", "train.seed"
SIZES = ("augment.crop", "eval.window")  # written 256x192


def list_differences(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Return the value in each config of every field that differs, by dotted key, as in JSON.

    The loss is first, as it is compared most. Of arguments by name, such as model.options, those
    that differ.
    """
    found: dict[str, list[Any]] = {}
    _collect("", [config.model_dump(mode="json") for config in configs], found)
    return dict(sorted(found.items(), key=lambda item: item[0] != LOSS))


def _collect(key: str, values: list[Any], found: dict[str, list[Any]]) -> None:
    if all(isinstance(value, dict) and value for value in values):
        for name in dict.fromkeys(name for value in values for name in value):
            inner = [value.get(name) for value in values]
            _collect(f"{key}.{name}" if key else str(name), inner, found)
    elif any(value != values[0] for value in values[1:]):
        found[key] = values


def format_field(key: str, value: Any) -> str:
    """Return the value of a field as text: 'ohem', '0.001', '256x192', '[0.5, 1.0]', 'null'."""
    if key in SIZES and value is not None:
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def name_fields(keys: Iterable[str]) -> dict[str, str]:
    """Return the last name of each dotted key, or all of it where two have the same."""
    ends = {key: key.rpartition(".")[2] for key in keys}
    times = Counter(ends.values())
    return {key: end if times[end] == 1 else key for key, end in ends.items()}


def label_values(values: Mapping[str, Any]) -> str:
    """Return 'ohem, lr=0.01' of values by dotted key; a loss needs no key to be understood."""
    names = name_fields(values)
    texts = {key: format_field(key, value) for key, value in values.items()}
    return ", ".join(t if key == LOSS else f"{names[key]}={t}" for key, t in texts.items())
