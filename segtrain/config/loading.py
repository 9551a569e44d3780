"""YAML, --set and flags to a Config, and back."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from segtrain.config.schema import Config
from segtrain.config.types import Section
from segtrain.errors import UsageError, did_you_mean
from segtrain.files import write_text

UNICODE_BREAKS = re.compile("[\x85\u2028\u2029]")


def make_config(values: dict[str, Any], origin: str = "config") -> Config:
    """A Config from nested dicts. Raises UsageError that names every wrong key at once."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = list(dict.fromkeys(_explain(e) for e in error.errors()))
        raise UsageError(f"{origin}: {'; '.join(problems)}") from error


def revised(section: Section, fields: dict[str, Any], origin: str) -> Any:
    """The section with some fields changed and all checked again. Raises UsageError."""
    try:
        return type(section).model_validate(section.model_dump() | fields)
    except ValidationError as error:
        problems = list(dict.fromkeys(_explain(e) for e in error.errors()))
        raise UsageError(f"{origin}: {'; '.join(problems)}") from error


def load_config(
    file: Path | None = None, sets: list[str] = [], flags: dict[str, Any] = {}, base: Any = None
) -> Config:
    """The config of a command: flag over --set over file over `base` over default.

    `sets` are "key.path=value" with YAML values; `flags` maps dotted keys to values, where None
    is an option not given; `base` is a Config to start from (a checkpoint's).
    """
    values = base.model_dump(mode="json") if base else {}
    if file:
        _merge(values, _read_yaml(file))
    for entry in sets:
        key, equals, text = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: write key.path=value, for example train.epochs=20")
        try:
            _put(values, key.strip(), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {entry}: the value is not YAML") from error
    for key, value in flags.items():
        if value is not None:
            _put(values, key, value)
    return make_config(values, origin=str(file) if file else "config")


def save_config(config: Config, path: Path) -> None:
    write_text(path, to_yaml(config))


def to_yaml(config: Config) -> str:
    return dump_yaml(config.model_dump(mode="json"))


def dump_yaml(content: Any, **options: Any) -> str:
    """Return YAML that loads as `content`; `options` are PyYAML's.

    Text is readable as it is, save where PyYAML would fold a line separator within it to a space.
    """
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, **options)
    if text.isascii() or not UNICODE_BREAKS.search(text):
        return text
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=False, **options)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted key: (old value, new value), for all that differs."""
    flat_old, flat_new = _flat(old), _flat(new)
    return {
        key: (flat_old[key], flat_new[key]) for key in flat_old if flat_old[key] != flat_new[key]
    }


def _flat(config: Config) -> dict[str, Any]:
    sections = config.model_dump(mode="json")
    return {f"{s}.{key}": value for s, fields in sections.items() for key, value in fields.items()}


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config {file}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values or {}, dict):
        raise UsageError(
            f"--config {file}: expected sections such as 'data:', found {values!r:.40}"
        )
    return {section: fields or {} for section, fields in (values or {}).items()}


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for name in sections:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UsageError(f"{dotted}: {name} is not a section but {values!r:.40}")
    values[last] = value


def known_keys() -> list[str]:
    return [
        f"{name}.{key}"
        for name, section in Config.model_fields.items()
        if section.annotation  # all have one, which pydantic's type leaves open
        for key in section.annotation.model_fields
    ]


def _explain(error: ErrorDetails) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = did_you_mean(key, known_keys() + list(Config.model_fields))
        return f"unknown key {key}{near}"
    # pydantic adds the union member or tuple place that it tried: name the field itself
    field = ".".join(location[:2]) if len(location) > 2 and location[1] != "splits" else key
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}".removeprefix(": ")
    return f"{field}: {error['msg'].lower()}, got {_short(error['input'])}"


def _short(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return f"{value!r:.60}"
