"""Sources of a config: a YAML file, each --set and each flag, every one checked by itself.

So an error names the source that is wrong, also where another one overrides it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segtrain.config.choices import refuse_open_choices
from segtrain.config.explain import join_problems, list_problems
from segtrain.config.schema import Config
from segtrain.config.yaml_text import parse_yaml, read_yaml_text
from segtrain.errors import UsageError

# flags of other names than their fields'
FLAGS = {"data.path": "--data", "loss.expression": "--loss"}


@dataclass(frozen=True)
class Source:
    """Values that one source gives, and its name in errors."""

    name: str
    values: dict[str, Any]  # sections of fields
    key: str = ""  # dotted; of a source that gives one value

    def list_fields(self) -> list[str]:
        """Return the dotted names of the fields that it gives."""
        return [
            f"{section}.{name}"
            for section, fields in self.values.items()
            for name in (fields if isinstance(fields, dict) else ())
        ]


def read_sources(file: Path | None, sets: list[str], flags: dict[str, Any]) -> list[Source]:
    """Return what a command line gives, in the order in which the later ones override.

    Raise UsageError that names all that is wrong in any of them.
    """
    sources = [_read_set(entry) for entry in sets]
    for key, value in flags.items():
        if value is not None:
            flag = FLAGS.get(key) or f"--{key.split('.')[1].replace('_', '-')}"
            sources.append(Source(f"{flag} {value}", _nest(key, value), key))
    if file:
        sources.insert(0, _read_file(file, sources))
    problems = [problem for source in sources for problem in check_source(source)]
    if problems:
        raise UsageError(join_problems(problems))
    return sources


def check_source(source: Source, taken: dict[str, str] | None = None) -> list[str]:
    """Return what is wrong in a source by itself; `taken` takes words and the choices they name."""
    try:
        Config.model_validate(source.values, context=taken)
    except ValidationError as error:
        shown = ".".join(source.key.split(".")[:2])
        return [
            f"{source.name}: {problem.describe(shown)}"
            for problem in list_problems(error)
            if not problem.contradiction  # of fields that other sources may give
        ]
    return []


def _read_set(entry: str) -> Source:
    name = f"--set {entry:.80}"
    key, equals, text = entry.partition("=")
    if not equals:
        raise UsageError(f"{name}: write key.path=value, for example train.epochs=20")
    return Source(name, _nest(key.strip(), parse_yaml(text, name)), key.strip())


def _read_file(file: Path, others: list[Source]) -> Source:
    text = read_yaml_text(file)
    values = parse_yaml(text, str(file))
    refuse_open_choices(file, text, {key for source in others for key in source.list_fields()})
    if not isinstance(values or {}, dict):
        raise UsageError(f"{file}: expected sections such as 'data:', found {values!r:.40}")
    # a section whose keys are all commented out is null in YAML
    return Source(str(file), {key: fields or {} for key, fields in (values or {}).items()})


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    *sections, last = dotted.split(".")
    values = {last: value}
    for name in reversed(sections):
        values = {name: values}
    return values


def override(values: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return values with those of a source: field by field, or part by part below a field."""
    return _merge(values, source.values, max(2, source.key.count(".") + 1))


def _merge(old: Any, new: Any, levels: int) -> Any:
    if not levels or not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merge(old.get(key), value, levels - 1) for key, value in new.items()}
