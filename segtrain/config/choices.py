"""Open choices of a config file: commented lines of the data section, one reading of which counts.

`segtrain check` writes them where the data may mean several things; loading refuses the file until
the lines of one reading are no comments any more, so that none is trained by default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segtrain.config.yaml_text import dump_yaml
from segtrain.errors import UsageError

BEGIN, END = "# choose one reading: remove the # of its lines", "# end of the readings"
MEANING = re.compile(r" *# reading \d+: (.*)")
OPTION = re.compile(r" *#(\w+):")  # no space after the #: without it, the line is indented rightly


def format_choice(readings: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return readings (meaning, fields of the data section) as comments of the section."""
    lines = [BEGIN]
    for number, (meaning, fields) in enumerate(readings, start=1):
        lines.append(f"# reading {number}: {meaning}")
        lines += [f"#{line}" for line in format_fields(fields)]
    return "".join(f"  {line}\n" for line in (*lines, END))


def format_fields(fields: Mapping[str, Any]) -> list[str]:
    """Return fields of a section as YAML, a line each."""
    flow: Any = {"default_flow_style": True, "width": math.inf}
    # of a mapping, for a value alone might end in YAML's "..."
    return [dump_yaml({key: value}, **flow).strip()[1:-1] for key, value in fields.items()]


def refuse_open_choices(file: Path, text: str, given: set[str]) -> None:
    """Raise UsageError naming the lines to choose from, unless `given` has a field they decide.

    `given` are dotted keys of the command line, which override the file.
    """
    open_choices = []
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if line.strip() != BEGIN:
            continue
        readings: list[tuple[str, list[int]]] = []
        fields: set[str] = set()
        for number, inner in enumerate(lines[start + 1 :], start=start + 2):
            if inner.strip() and not inner.lstrip().startswith("#"):
                break  # chosen
            if inner.strip() == END:
                if not fields & given:
                    open_choices.append(readings)
                break
            if meaning := MEANING.match(inner):
                readings.append((meaning[1], []))
            elif (option := OPTION.match(inner)) and readings:
                readings[-1][1].append(number)
                fields.add(f"data.{option[1]}")
    if open_choices:
        texts = [
            " or of ".join(f"{_name_lines(numbers)} ({meaning})" for meaning, numbers in readings)
            for readings in open_choices
        ]
        raise UsageError(
            f"{file}: the data may mean several things; choose one: remove the # of "
            + "; and of ".join(texts)
        )


def _name_lines(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    return f"lines {numbers[0]}-{numbers[-1]}" if numbers else "no line"
