"""Fields that each verb reads, as one table: a --set of any other field is refused.

A checkpoint's config may hold all of them, and so may a --config file, which describes a data set,
its training and its evaluation for every verb.
"""

from __future__ import annotations

from collections.abc import Set
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from segtrain.config.schema import Config, list_keys
from segtrain.config.sources import Source, check_source, read_sources
from segtrain.console import Note, note_choice
from segtrain.errors import UsageError, shorten


def _match_fields(*patterns: str) -> frozenset[str]:
    return frozenset(
        key for key in list_keys() if any(fnmatchcase(key, pattern) for pattern in patterns)
    )


TRAINING = _match_fields("*") - {"eval.mask_values"}
LOADING = _match_fields("data.sampler", "data.rare_*", "data.cache*", "data.workers")
PAIRS = _match_fields("data.*") - LOADING
IMAGES = {"data.value_range", "data.max_pixels", "data.exif"}
WINDOWS = _match_fields("eval.max_pixels", "eval.window", "eval.overlap")
INFERENCE = WINDOWS | {"eval.tta", "train.device", "train.precision", "train.deterministic"}
REPORT = {"data.workers", "eval.group_by", "eval.worst", "eval.best", "predict.opacity"}
CHECK = PAIRS | {"model.in_channels", "eval.group_by"}
READS: dict[str, Set[str]] = {
    "fit": TRAINING,  # with what eval and predict later read in the run's config
    "sweep": TRAINING - {"train.seed"},
    "eval": PAIRS | INFERENCE | REPORT | {"eval.batch_size", "predict.tuned"},
    "eval --predictions": PAIRS
    | REPORT
    | {"model.in_channels", "train.device", "eval.mask_values"},
    "predict": IMAGES | INFERENCE | _match_fields("predict.*"),
    "tune": PAIRS | INFERENCE - {"eval.tta"} | {"data.workers", "eval.group_by"},
    "export": PAIRS | WINDOWS | {"predict.tuned"},
    "check": CHECK,
    "check --augment": CHECK | _match_fields("augment.*") | {"data.rare_classes", "train.seed"},
}
WITH_NOTES = ("fit", "sweep", "eval --predictions")  # check looks at a training's file as it is
CHECKPOINT = "a checkpoint's network and training are what they are"
WHY = {
    "eval": CHECKPOINT,
    "predict": CHECKPOINT,
    "tune": CHECKPOINT,
    "export": CHECKPOINT,
    "sweep": "its --seeds sets it",
}


def check_settings(
    verb: str, file: Path | None, sets: list[str], flags: dict[str, Any]
) -> list[Note]:
    """Raise UsageError for wrong settings, and for a --set of a field that the verb doesn't read.

    Returns a note on each word in another spelling, and on fields of the file without effect.
    """
    sources, taken = read_sources(file, sets, flags), dict[str, str]()
    for source in sources:
        check_source(source, taken)
    notes = [note_choice(word, choice) for word, choice in taken.items()]
    problems = []
    for source in sources:
        unread = [key for key in source.list_fields() if key not in READS[verb]]
        if unread and source.key:
            problems.append(f"{source.name}: {_explain_unread(verb, unread)}")
        elif verb in WITH_NOTES and (without_effect := _list_changed(source, unread)):
            reason = f": {WHY[verb]}" if verb in WHY else ""
            text = f"{source.name}: {verb} does not read {shorten(without_effect)}{reason}"
            notes.append(Note(text, "note"))
    if problems:
        raise UsageError("; ".join(problems))
    return notes


def _explain_unread(verb: str, unread: list[str]) -> str:
    """Return who reads these fields, and what the verb reads instead."""
    section = unread[0].split(".")[0]
    readers = [other for other, fields in READS.items() if fields >= set(unread)]
    instead = sorted(key for key in READS[verb] if key.startswith(f"{section}."))
    parts = [f"{verb} does not read {shorten(unread)}"]
    if readers:
        *others, last = readers
        named = f"{', '.join(others)} and {last} do" if others else f"{last} does"
        parts[0] += f", {named}"
    parts += [WHY[verb]] if verb in WHY else []
    parts += [f"of {section}, it reads {', '.join(instead)}"] if 0 < len(instead) < 12 else []
    return "; ".join(parts)


def _list_changed(source: Source, keys: list[str]) -> list[str]:
    """Return the fields whose values differ from the defaults."""
    defaults = Config().model_dump(mode="json")
    changed = []
    for key in keys:
        section, name = key.split(".")
        if source.values[section][name] != defaults[section][name]:
            changed.append(key)
    return changed
