"""Loading and saving of configs: YAML, --set and flags to a Config, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segtrain.config.explain import Problem, join_problems, list_problems
from segtrain.config.schema import Config
from segtrain.config.sources import Source, override, read_sources
from segtrain.config.types import Section
from segtrain.config.yaml_text import dump_yaml
from segtrain.console import Note
from segtrain.errors import UsageError
from segtrain.files.whole import save_text
from segtrain.losses.spec import parse_loss


def make_config(values: dict[str, Any], origin: str = "config") -> Config:
    """Return a Config from nested dicts. Raise UsageError that names every wrong key at once."""
    return _validate(Config, values, origin)


def revise_section(section: Section, fields: dict[str, Any], origin: str) -> Any:
    """Return a copy of a section with some fields changed and all validated. Raise UsageError."""
    return _validate(type(section), section.model_dump() | fields, origin)  # model_copy checks none


def _validate(kind: type[Section], values: dict[str, Any], origin: str) -> Any:
    section = next((n for n, f in Config.model_fields.items() if f.annotation is kind), "")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [problem.describe(origin) for problem in list_problems(error, section)]
        raise UsageError(f"{origin}: {join_problems(problems)}") from error


def load_config(
    file: Path | None = None, sets: list[str] = [], flags: dict[str, Any] = {}, base: Any = None
) -> Config:
    """Return a command's config: flag over --set over file over `base` over default.

    `sets` are "key.path=value" with YAML values; `flags` maps dotted keys to values, where None
    is an option not given; `base` is a Config to start from (a checkpoint's). Raise UsageError.
    """
    sources = read_sources(file, sets, flags)
    values = base.model_dump(mode="json") if base else {}
    for source in sources:
        values = override(values, source)
    try:
        return Config.model_validate(values)
    except ValidationError as error:  # each source is right by itself
        problems = [_name_sources(problem, sources) for problem in list_problems(error)]
        raise UsageError(join_problems(problems)) from error


def _name_sources(problem: Problem, sources: list[Source]) -> str:
    """Return a contradiction between fields with the sources that gave them."""
    names = [
        source.name
        for source in sources
        for section, name in (field.split(".", 1) for field in source.list_fields())
        if section == problem.field and (not source.key or name in problem.text)
    ]
    return f"{', '.join(dict.fromkeys(names)) or 'config'}: {problem.describe()}"


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


def adopt_older_defaults(config: Config) -> tuple[Config, list[Note]]:
    """Return a run's config with the defaults of its version written out in its loss, and notes.

    Not for a new training, which has the defaults of this version.
    """
    expression, settings = config.loss.expression, (config.loss.thresh, config.loss.n_min_factor)
    try:
        given = parse_loss(expression, *settings)
    except UsageError:  # damaged, or of a newer version: refused where it is used
        return config, []
    adopted = str(given.with_defaults(earlier=given))
    if adopted == expression:
        return config, []
    text = f"loss.expression is {adopted}, with the defaults of the version that started the run"
    loss = config.loss.model_copy(update={"expression": adopted})
    return config.model_copy(update={"loss": loss}), [Note(text, "note")]


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
