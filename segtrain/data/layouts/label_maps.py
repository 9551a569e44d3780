"""Meaning of mask values: the layout's tables, and the config's entries that override them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.loading import revise_section
from segtrain.console import Note
from segtrain.data.layouts.detect import FoundPairs
from segtrain.errors import SegtrainError, shorten

DRAWN = ("coco", "polygons", "rle")  # formats whose masks are drawn class by class, by name
LabelMap = Mapping[int, int | str]  # mask value: class id or "ignore"


def merge_labels(config: DataConfig, found: FoundPairs) -> tuple[DataConfig, tuple[Note, ...]]:
    """Return the config with the layout's classes, palette and label map, and notes on overrides.

    The config's own values override the layout's. Classes that the config (or a checkpoint) names
    are matched to the layout's by name, or by position where both have as many. Raises
    SegtrainError where the layout has other classes than the config, UsageError where the result
    contradicts itself.
    """
    labels: LabelMap = found.label_map
    if config.classes and found.classes:
        labels = match_classes(config.classes, config, found)
    known: dict[str, Any] = {"label_map": {**labels, **config.label_map}}
    if config.classes is None and found.classes:
        known["classes"] = found.classes
    if config.palette is None and found.palette:
        if len(found.palette) >= len(config.classes or found.classes):  # else they are others
            known["palette"] = found.palette
    merged: DataConfig = revise_section(
        config, known, found.class_source.name or f"data.format {found.format}"
    )
    overridden = [
        f"{value} is {_describe_label(label)} by data.label_map, "
        f"{_describe_label(labels[value])} by the layout"
        for value, label in config.label_map.items()
        if labels.get(value, label) != label
    ]
    notes = (Note(f"label map: {shorten(overridden)}"),) if overridden else ()
    return merged, notes


def match_classes(classes: list[str], config: DataConfig, found: FoundPairs) -> LabelMap:
    """Return the layout's label map with the ids of the config's `classes`.

    Other classes hold where masks are taken as they are, and where the config has its own map.
    Raises SegtrainError where the layout's classes are others, or are given in another order.
    """
    if set(found.classes) <= set(classes):
        new_ids: dict[int | str, int] = {i: classes.index(n) for i, n in enumerate(found.classes)}
        by_value = {i: i for i in range(len(found.classes))} | found.label_map
        if all(old == new for old, new in new_ids.items()):
            return found.label_map
        return {value: new_ids.get(label, label) for value, label in by_value.items()}
    if len(found.classes) != len(classes):
        if config.label_map or config.palette:
            return {}  # the config's own classes, with its own map
        as_they_are = all(label == "ignore" for label in found.label_map.values())
        chosen = set(classes) < set(found.classes) and classes != found.classes[: len(classes)]
        if as_they_are and not chosen and found.format not in DRAWN:
            return found.label_map
    elif found.format not in DRAWN:
        return found.label_map  # the layout's classes under other names
    raise SegtrainError(
        f"{found.layout}: its classes are {shorten(found.classes, 8)}, but data.classes are "
        f"{shorten(classes, 8)}; map its mask values to your classes with data.label_map"
    )


def _describe_label(label: int | str) -> str:
    return "ignored" if label == "ignore" else f"class {label}"
