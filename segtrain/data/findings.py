"""Findings about a data set, each with the config line that fixes it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.loading import revise_section
from segtrain.config.yaml_text import dump_yaml
from segtrain.console import safe
from segtrain.errors import SegtrainError, shorten

MOST_SKIPPED = 0.01  # largest share of a split's pairs that data.on_error: skip leaves out
MAX_LABELS = 32  # entries of a label map that one line shows: enough to copy most maps whole
MAX_ITEMS = 4  # items of a list that one line shows


@dataclass(frozen=True)
class Choice:
    """One of several readings of the data, between which only the user can choose."""

    meaning: str  # what the data is in this reading, in a few words
    fix: dict[str, Any]  # fields of the data section that say so

    def __str__(self) -> str:
        return f"{config_lines(self.fix)} ({self.meaning})"


@dataclass(frozen=True)
class Finding:
    """One kind of fault, with all its places.

    An error would crash training or train on wrong labels; anything else is a note.
    """

    kind: str  # unpaired, unreadable, size, value, ...
    error: bool
    text: str  # what is wrong, in one clause with the count
    places: list[str] = field(default_factory=list)  # files, with what was found in them
    advice: str = ""  # what to do outside the config
    fix: dict[str, Any] = field(default_factory=dict)  # fields of the data section
    choices: tuple[Choice, ...] = ()  # instead of a fix, where the data may mean several things

    def __post_init__(self) -> None:
        # areas of a file may have the same fault
        object.__setattr__(self, "places", list(dict.fromkeys(self.places)))

    @property
    def remedy(self) -> str:
        """The fix or the choices as config lines, and the advice, in one clause."""
        ways = (config_lines(self.fix), *map(str, self.choices), self.advice)
        return ", or ".join(filter(None, ways))

    def __str__(self) -> str:
        where = f": {shorten(self.places)}" if self.places else ""
        return f"{self.text}{where}" + (f"; {self.remedy}" if self.remedy else "")


def config_lines(fields: dict[str, Any]) -> str:
    """Return fields of the data section as config lines joined by "and"."""
    return " and ".join(f"data.{key}: {yaml_line(value)}" for key, value in fields.items())


def raise_errors(findings: list[Finding]) -> None:
    """Raise one SegtrainError with all errors among the findings."""
    errors = [str(finding) for finding in findings if finding.error]
    if errors:
        ways = [f"{len(errors)} kinds of fault; 'segtrain check' shows all"] * (len(errors) > 1)
        if merge_fixes(findings) or any(f.error and f.choices for f in findings):
            ways.append("'segtrain check PATH --write-config FILE' writes a YAML for --config")
        raise SegtrainError("; ".join(errors) + (f" ({'; '.join(ways)})" if ways else ""))


def yaml_line(value: Any) -> str:
    """Return a config value as one line of YAML; long lists and maps are cut off."""
    shown = value
    if isinstance(value, dict):
        shown = dict(list(value.items())[:MAX_LABELS])
    elif isinstance(value, list):
        shown = value[:MAX_ITEMS]
    rest = len(value) - len(shown) if isinstance(value, (dict, list)) else 0
    text = dump_yaml(shown, default_flow_style=True, width=math.inf)
    text = text.strip().removesuffix("\n...")  # which YAML puts after a bare scalar
    return text + (f" and {rest} more ('segtrain check --write-config' writes all)" if rest else "")


def apply_fixes(config: DataConfig, findings: Iterable[Finding]) -> DataConfig:
    """Return the data section with the fixes of all errors, added to its own entries."""
    return revise_section(config, _add_entries(config, merge_fixes(findings)), "data")


def list_choices(
    config: DataConfig, findings: Iterable[Finding]
) -> list[list[tuple[str, dict[str, Any]]]]:
    """Return the readings of each error that has several, as (meaning, fields with the config's).

    Of findings about the same fields only the first: what the others mean depends on its choice.
    """
    listed = []
    taken: set[str] = set()
    for finding in findings:
        keys = {key for choice in finding.choices for key in choice.fix}
        if finding.error and keys and not keys & taken:
            taken |= keys
            listed.append([(safe(c.meaning), _add_entries(config, c.fix)) for c in finding.choices])
    return listed


def _add_entries(config: DataConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields of the data section whose maps and lists keep the entries of the config."""
    added = dict(fields)
    if "label_map" in fields:
        added["label_map"] = config.label_map | fields["label_map"]
    if "exclude" in fields:
        added["exclude"] = config.exclude + fields["exclude"]
    return added


def merge_fixes(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the data fields that fix all errors which have such a fix."""
    merged: dict[str, Any] = {}
    for finding in findings:
        for key, value in finding.fix.items() if finding.error else ():
            if isinstance(value, dict):
                merged[key] = merged.get(key, {}) | value
            elif isinstance(value, list):
                known = merged.setdefault(key, [])
                merged[key] = known + [entry for entry in value if entry not in known]
            else:
                merged[key] = value
    return merged
