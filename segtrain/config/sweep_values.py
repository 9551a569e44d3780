"""Values that a sweep tries: those of a --set are separated by commas."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress

from segtrain.config.differences import SIZES
from segtrain.config.sources import check_source, read_sources
from segtrain.errors import UsageError

DEFAULT_LOSSES = "ce,ohem,focal,ghm,ohem+dice"
# text in quotes, else a character; a quote within a word, as in driver's, opens none
TOKEN = re.compile(r"""(?<![^\s,=:(\[{])(?:'(?:[^']|'')*'|"(?:\\.|[^"\\])*")|.""", re.DOTALL)


def split_values(text: str) -> list[str]:
    """Return the parts of 'a,f(b, c)', split at commas outside brackets and quotes."""
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def split_sets(sets: list[str]) -> list[list[str]]:
    """Return for each --set those that it stands for: 'a=1,2' is ['a=1', 'a=2'].

    One value is as `fit` reads it. Raise UsageError for several values of one field in two --set,
    and for commas that may not separate values.
    """
    alternatives = [_split_set(entry) for entry in sets]
    times = Counter(entry.partition("=")[0].strip() for entry in sets)
    for entry, values in zip(sets, alternatives, strict=True):
        key = entry.partition("=")[0].strip()
        if times[key] > 1 and len(values) > 1:
            raise UsageError(f"--set {key} is given {times[key]} times; write all values in one")
    return alternatives


def _split_set(entry: str) -> list[str]:
    key, _, text = entry.partition("=")
    parts = split_values(text)
    if len(parts) == 1:
        return [entry]
    if "" in parts:
        raise UsageError(f"--set {entry:.80}: no value beside a comma; a field's default is null")
    entries = [f"{key}={part}" for part in parts]
    if key.count(".") == 1 and _is_valid(f"{key}=[{text}]"):  # what options take is not known here
        if key.strip() in SIZES and all(map(_is_valid, entries)):
            several = ",".join(f"{part}x{part}" for part in parts)
            forms = f"one size is {key}={'x'.join(parts)}, two are {key}={several}"
            raise UsageError(f"--set {entry:.80}: {forms}")
        if not all(map(_is_valid, entries)):
            raise UsageError(
                f"--set {entry:.80}: commas outside brackets separate the values of a sweep; one "
                f"list is {key}=[{text}], two are {key}=[{text}],[...]"
            )
    return entries


def _is_valid(entry: str) -> bool:
    """Return whether a field takes a --set's value."""
    with suppress(UsageError):
        return not any(map(check_source, read_sources(None, [entry], {})))
    return False
