"""Meaning of mask values: what a layout knows of them, and what the config says instead."""

from __future__ import annotations

from typing import Any

from segtrain.config import DataConfig
from segtrain.config.loading import revised
from segtrain.data.layouts.detect import Found
from segtrain.errors import SegtrainError, shorten


def fill_in(data: DataConfig, found: Found) -> tuple[DataConfig, list[str]]:
    """The data section by which masks are read, and what is to be said of it.

    Of each mask value the config's label map goes before the layout's. Classes that the config (or
    a checkpoint) names are matched to the layout's by name, else by place where both have as many.
    Raises SegtrainError where a layout's classes are others than those named.
    """
    known: dict[str, Any] = {}
    labels = dict(found.label_map)
    if data.classes is None and found.classes:
        known["classes"] = found.classes
    elif data.classes and found.classes:
        labels = match_classes(data, found)
    if data.palette is None and found.palette:
        known["palette"] = found.palette
    known["label_map"] = labels | data.label_map
    said = [
        f"{value} is {_meaning(label)} by data.label_map, {_meaning(labels[value])} by the layout"
        for value, label in data.label_map.items()
        if labels.get(value, label) != label
    ]
    lines = [f"label map: {shorten(said)}"] if said else []
    return revised(data, known, f"data.format {found.format}"), lines


def match_classes(data: DataConfig, found: Found) -> dict[int, int | str]:
    """The layout's label map with the ids of data.classes."""
    assert data.classes is not None and found.classes is not None
    if set(found.classes) <= set(data.classes):
        place: dict[int | str, int] = {
            i: data.classes.index(name) for i, name in enumerate(found.classes)
        }
        by_value = {i: i for i in range(len(found.classes))} | found.label_map
        if all(i == there for i, there in place.items()):
            return found.label_map
        return {value: place.get(label, label) for value, label in by_value.items()}
    if data.label_map and len(found.classes) != len(data.classes):
        return {}  # classes of the config's own
    if found.format != "coco" and len(found.classes) == len(data.classes):
        return found.label_map  # the layout's classes by other names
    raise SegtrainError(
        f"{found.layout}: its classes are {shorten(found.classes, 8)}, but data.classes are "
        f"{shorten(data.classes, 8)}; name what its mask values mean with data.label_map"
    )


def _meaning(label: int | str) -> str:
    return "ignored" if label == "ignore" else f"class {label}"
