"""Loading and saving of configs: YAML, --set and flags to a Config, and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from segtrain.config.choices import refuse_open_choices
from segtrain.config.data import SplitConfig
from segtrain.config.schema import Config
from segtrain.config.types import Section
from segtrain.config.yaml_text import dump_yaml, parse_yaml
from segtrain.console import Note
from segtrain.errors import UsageError, did_you_mean
from segtrain.files import save_text

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
    "int_type": "an integer",
    "less_than": "a value less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "keys with values",
    "string_type": "text",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "tuple_type": "a list",
}


def make_config(values: dict[str, Any], origin: str = "config") -> Config:
    """Return a Config from nested dicts. Raise UsageError that names every wrong key at once."""
    return _validate(Config, values, origin)


def revise_section(section: Section, fields: dict[str, Any], origin: str) -> Any:
    """Return a copy of a section with some fields changed and all validated. Raise UsageError."""
    return _validate(type(section), section.model_dump() | fields, origin)  # model_copy checks none


def _validate(kind: type[Section], values: dict[str, Any], origin: str) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _usage_error(origin, error) from error


def load_config(
    file: Path | None = None, sets: list[str] = [], flags: dict[str, Any] = {}, base: Any = None
) -> Config:
    """Return a command's config: flag over --set over file over `base` over default.

    `sets` are "key.path=value" with YAML values; `flags` maps dotted keys to values, where None
    is an option not given; `base` is a Config to start from (a checkpoint's). Raise UsageError.
    """
    values = base.model_dump(mode="json") if base else {}
    if file:
        given = {entry.partition("=")[0].strip() for entry in sets}
        given |= {key for key, value in flags.items() if value is not None}
        _merge(values, _read_yaml(file, given))
    for entry in sets:
        key, equals, text = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: write key.path=value, for example train.epochs=20")
        _put(values, key.strip(), parse_yaml(text, f"--set {entry}"))
    for key, value in flags.items():
        if value is not None:
            _put(values, key, value)
    return make_config(values, origin=str(file) if file else "config")


def adopt_older_names(config: Config) -> tuple[Config, list[Note]]:
    """Return a config with data.group_by where it is given by its older name, eval.group_by.

    Not for the config of an earlier run: its images were held out one by one. Raise UsageError
    where the two differ.
    """
    older = config.eval.group_by
    if older is None:
        return config, []
    if config.data.group_by not in (None, older):
        raise UsageError(
            f"data.group_by is {config.data.group_by!r}, and eval.group_by, its older name, is "
            f"{older!r}; leave out eval.group_by"
        )
    text = "eval.group_by is the older name of data.group_by, for which it is taken"
    data = config.data.model_copy(update={"group_by": older})
    return config.model_copy(update={"data": data}), [Note(text, "note")]


def save_config(config: Config, path: Path) -> None:
    """Write a config as YAML that load_config reads."""
    save_text(path, to_yaml(config))


def to_yaml(config: Config) -> str:
    """Return all fields of a config as YAML, a section each."""
    return dump_yaml(config.model_dump(mode="json"))


def list_given(config: Config) -> set[str]:
    """Return the dotted keys that a config was made with; all others have their defaults."""
    sections = {name: getattr(config, name) for name in config.model_fields_set}
    return {
        f"{name}.{key}" for name, section in sections.items() for key in section.model_fields_set
    }


def compare_configs(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ, as dotted key: (old value, new value)."""
    flat_old, flat_new = _flatten(old), _flatten(new)
    return {
        key: (flat_old[key], flat_new[key]) for key in flat_old if flat_old[key] != flat_new[key]
    }


def _flatten(config: Config) -> dict[str, Any]:
    sections = config.model_dump(mode="json")
    return {f"{s}.{key}": value for s, fields in sections.items() for key, value in fields.items()}


def _read_yaml(file: Path, given: set[str]) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error})") from error
    values = parse_yaml(text, str(file))
    refuse_open_choices(file, text, given)
    if not isinstance(values or {}, dict):
        raise UsageError(f"{file}: expected sections such as 'data:', found {values!r:.40}")
    # a section whose keys are all commented out is null in YAML
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


def list_keys() -> list[str]:
    """Return the dotted keys of all fields."""
    return [
        f"{name}.{key}"
        for name, section in Config.model_fields.items()
        if section.annotation  # every field has one; pydantic's type allows None
        for key in section.annotation.model_fields
    ]


def _usage_error(origin: str, error: ValidationError) -> UsageError:
    """Return one error for all wrong fields: what is allowed in each, and the value given."""
    problems: list[str] = []
    # pydantic reports a union once per member; users want one line with all that is allowed
    allowed: dict[tuple[str, str], list[str]] = {}  # of a field and value: a text per union member
    errors = error.errors()
    # pydantic reports each missing value of a fixed-length list; the last has the highest index
    lengths = {e["loc"][:-1]: int(e["loc"][-1]) + 1 for e in errors if e["type"] == "missing"}
    for details in errors:
        location = [str(part) for part in details["loc"]]
        # pydantic adds the union member or list index that it tried; show the field alone
        nested = len(location) > 2 and location[1] != "splits"
        field = ".".join(location[:2] if nested else location)
        if details["type"] == "extra_forbidden":
            problems.append(_explain_unknown(location))
        elif details["type"] == "value_error":
            problems.append(f"{field}: {details['ctx']['error']}".removeprefix(": "))
        else:
            texts = allowed.setdefault((field, _shorten_value(details["input"])), [])
            texts.append(
                f"{lengths[details['loc'][:-1]]} values"
                if details["type"] == "missing"
                else _explain_allowed(details)
            )
    for (field, value), texts in allowed.items():
        expected = " or ".join(dict.fromkeys(texts))
        problems.append(f"{field}: expected {expected}, got {value}".removeprefix(": "))
    return UsageError(f"{origin}: {'; '.join(dict.fromkeys(problems))}")


def _explain_unknown(location: list[str]) -> str:
    key, known = ".".join(location), list_keys() + list(Config.model_fields)
    if location[:2] == ["data", "splits"]:
        known = [".".join([*location[:3], field]) for field in SplitConfig.model_fields]
    near = did_you_mean(key, known) or "; 'segtrain fit --dry-run' prints every key"
    return f"unknown key {key}{near}"


def _explain_allowed(details: ErrorDetails) -> str:
    if details["type"] not in ALLOWED:
        return details["msg"].lower().removeprefix("input should be ")
    context = details.get("ctx", {})
    if details["type"] == "too_long" and context["field_type"] == "Tuple":  # of fixed length
        return f"{context['max_length']} values"
    limits = {key: f"{value:g}" for key, value in context.items() if isinstance(value, float)}
    return ALLOWED[details["type"]].format(**context | limits)


def _shorten_value(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return f"{value!r:.60}"
