"""Classes inferred from masks where nobody named them; the choices where that would be a guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from segtrain.data.findings import yaml_line
from segtrain.errors import SegtrainError, shorten

MOST_CLASSES_GUESSED = 32  # beyond, a line that maps them all helps nobody
PEAK, BLUR = 0.01, 8  # least share of a value's pixels, and how far from it lossy values lie


class ClassesUnclear(SegtrainError):
    """The masks' values could mean several things; the data fields `fix` are the first of these,
    `ways` all of them in words."""

    def __init__(self, text: str, ways: list[str], fix: dict[str, Any]):
        super().__init__(f"{text}; say what they mean: {', or '.join(ways)}")
        self.text, self.ways, self.fix = text, ways, fix


def find_num_classes(
    values: Mapping[int, int], label_map: Mapping[int, int | str], lb_ignore: int
) -> int:
    """The number of classes where nobody named them: the ids found must be 0..max, two or more.

    `values` are the masks' and their pixels. Raises ClassesUnclear with the lines that could be
    meant where that would be a guess.
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
            f"the training masks hold {len(raw)} values ({shorten(raw, 8)}), hardly class "
            "ids 0..max; masks drawn with smooth edges or saved as JPEG look so",
            ways,
            fix,
        )
    renumbered = {value: place for place, value in enumerate(raw) if value != place}
    kept = [value for value in raw if value != lb_ignore and label_map.get(value) != "ignore"]
    ignored = {value: place for place, value in enumerate(kept) if value != place}
    ways = [f"data.label_map: {yaml_line(renumbered)} makes classes of all {len(raw)} values"]
    fix = number_classes(raw) if len(raw) >= 2 else {}
    if lb_ignore in values:
        without = (
            f"data.label_map: {yaml_line(ignored | {lb_ignore: 'ignore'})} ignores {lb_ignore} and "
            f"leaves {len(kept)} class{'es' if len(kept) != 1 else ''}"
            + (" (too few to train: two are the least)" if len(kept) < 2 else "")
        )
        if len(kept) >= 2:  # what is ignored by default is hardly a class
            ways.insert(0, without)
            fix = number_classes(kept)
            fix["label_map"][lb_ignore] = "ignore"
        else:
            ways.append(without)
    elif len(ids) >= 2:
        ways.append(f"data.classes with {max(kept) + 1} names keeps the ids as they are")
    if 0 <= lb_ignore < len(fix.get("classes", ())):
        fix["lb_ignore"] = next(i for i in (255, -1) if not 0 <= i < len(fix["classes"]))
    raise ClassesUnclear(
        f"the training masks hold the values {shorten(raw, 8)}, which are not class ids 0..max "
        f"of two classes or more (data.lb_ignore is {lb_ignore})",
        ways,
        fix,
    )


def number_classes(values: Sequence[int]) -> dict[str, Any]:
    """The data fields that make each value a class, in their order."""
    label_map = {value: place for place, value in enumerate(values) if value != place}
    return {"label_map": label_map, "classes": [str(place) for place in range(len(values))]}


def find_peaks(values: Mapping[int, int]) -> list[int]:
    """The values that smoothing or compression has blurred, if nearly all pixels are close to few.

    [] where that is not so.
    """
    total = sum(values.values())
    peaks: list[int] = []
    for value, pixels in Counter(values).most_common():
        if pixels >= PEAK * total and all(abs(value - peak) > BLUR for peak in peaks):
            peaks.append(value)
    covered = sum(n for v, n in values.items() if any(abs(v - peak) <= BLUR for peak in peaks))
    return sorted(peaks) if len(peaks) >= 2 and covered >= 0.8 * total else []


def is_blurred(values: Mapping[int, int]) -> bool:
    """Whether few of many values have nearly all pixels, as in smooth masks of few classes."""
    few = Counter(values).most_common(len(values) // 8)
    return sum(pixels for _, pixels in few) >= 0.8 * sum(values.values())
