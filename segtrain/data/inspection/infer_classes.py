"""Inference of classes from mask values, where neither config nor layout names any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from segtrain.data.findings import yaml_line
from segtrain.errors import SegtrainError, shorten

MOST_CLASSES_GUESSED = 32  # beyond, a line that maps all values would be of no use
PEAK, BLUR = 0.01, 8  # smallest share of a peak's pixels, and how far lossy values lie from it
COVERED = 0.8  # share of the pixels at few values that marks edges, not classes, between them


class ClassesUnclear(SegtrainError):
    """Mask values that could mean several things.

    `ways` has the options in words, `fix` the data fields of the first of them.
    """

    def __init__(self, text: str, ways: list[str], fix: dict[str, Any]):
        super().__init__(f"{text}; choose what they mean: {', or '.join(ways)}")
        self.text, self.ways, self.fix = text, ways, fix


def find_num_classes(
    values: Mapping[int, int], label_map: Mapping[int, int | str], lb_ignore: int
) -> int:
    """Infer the number of classes from mask values; raise with the options if it is ambiguous.

    `values` are mask values with their pixels; as ids they must be 0..max, two or more. Raises
    ClassesUnclear for others.
    """
    labels = {label_map.get(value, value) for value in values}
    ids = labels - {"ignore", lb_ignore}
    raw = sorted(values)
    many = len(raw) > MOST_CLASSES_GUESSED
    if len(ids) >= 2 and ids == set(range(len(ids))) and not (many and is_blurred(values)):
        return len(ids)
    if many:
        ways = [
            "save the masks as PNG without smooth edges",
            "name the classes with data.classes and data.label_map",
        ]
        fix: dict[str, Any] = {}
        if peaks := find_peaks(values):
            fix = number_classes(peaks) | {"allow_lossy_masks": True}
            ways = [f"take the nearest of {shorten(peaks, 8)}", *ways]
        raise ClassesUnclear(
            f"the masks hold {len(raw)} values ({shorten(raw, 8)}), hardly class "
            "ids 0..max; typical of smooth edges and of JPEG",
            ways,
            fix,
        )
    valid = [value for value in raw if value != lb_ignore and label_map.get(value) != "ignore"]
    fix = number_classes(raw)
    ways = [f"data.label_map: {yaml_line(fix['label_map'])} makes classes of all {len(raw)} values"]
    if lb_ignore in values:
        ignoring = number_classes(valid)
        ignoring["label_map"][lb_ignore] = "ignore"
        ways.append(
            f"data.label_map: {yaml_line(ignoring['label_map'])} ignores {lb_ignore} and "
            f"leaves {len(valid)} class{'es' if len(valid) != 1 else ''}"
            + (" (too few to train, which takes two)" if len(valid) < 2 else "")
        )
        if len(valid) >= 2:  # the value ignored by default is hardly a class
            ways.reverse()
            fix = ignoring
    elif len(ids) >= 2:
        ways.append(f"data.classes with {max(valid) + 1} names keeps the ids as they are")
    if len(raw) < 2:  # one class can't be trained
        fix = {}
    if 0 <= lb_ignore < len(fix.get("classes", ())):
        fix["lb_ignore"] = next(i for i in (255, -1) if not 0 <= i < len(fix["classes"]))
    raise ClassesUnclear(
        f"the masks hold the values {shorten(raw, 8)}, which are not class ids 0..max "
        f"of two classes or more (data.lb_ignore is {lb_ignore})",
        ways,
        fix,
    )


def number_classes(values: Sequence[int]) -> dict[str, Any]:
    """Return the data fields that make each value a class, in this order."""
    label_map = {value: class_id for class_id, value in enumerate(values) if value != class_id}
    return {"label_map": label_map, "classes": [str(class_id) for class_id in range(len(values))]}


def find_peaks(values: Mapping[int, int]) -> list[int]:
    """Return the few values that smoothing or compression has blurred.

    [] where pixels do not gather around two or more values.
    """
    total = sum(values.values())
    peaks: list[int] = []
    for value, pixels in Counter(values).most_common():
        if pixels >= PEAK * total and all(abs(value - peak) > BLUR for peak in peaks):
            peaks.append(value)
    covered = sum(n for v, n in values.items() if any(abs(v - peak) <= BLUR for peak in peaks))
    return sorted(peaks) if len(peaks) >= 2 and covered >= COVERED * total else []


def is_blurred(values: Mapping[int, int]) -> bool:
    """Return whether few of many values have nearly all pixels, as in smooth masks."""
    few = Counter(values).most_common(len(values) // 8)
    return sum(pixels for _, pixels in few) >= COVERED * sum(values.values())
