"""Inference of classes from mask values, where neither config nor layout names any."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.levels import FEW, Levels, find_levels
from segtrain.data.inspection.scan import MaskFacts, PairFacts
from segtrain.data.layouts.label_maps import LabelMap
from segtrain.data.masks import decode_colour
from segtrain.errors import SegtrainError, shorten

MOST_CLASSES = 256  # more values than that are no classes, unless they are ids without a gap
FEW_IDS = 4  # so many levels, and as few values between each two, are ids in any case
SPREAD = 32  # values from here on are levels of grey, chosen to be seen, rather than ids
FAR_OUT = 4  # a value of so many times the ids below may mark what has no class
SAVE_AGAIN = "save the masks again, as PNG without smooth edges"


class ClassesUnclear(SegtrainError):
    """Mask values that are not class ids, or could mean several things; `finding` has the ways."""

    def __init__(self, finding: Finding):
        super().__init__(str(finding))
        self.finding = finding


def find_num_classes(
    values: Mapping[int, int],
    label_map: LabelMap,
    lb_ignore: int,
    masks: Iterable[MaskFacts] = (),
) -> int:
    """Infer the number of classes from mask values; raise with the readings if it is ambiguous.

    `values` are mask values with their pixels; as ids they must be 0..max, two or more. `masks`
    tell which of them are edges. Raises ClassesUnclear.
    """
    levels = find_levels(masks, values)
    ids = {label_map.get(value, value) for value in values} - {"ignore", lb_ignore}
    if len(ids) >= 2 and ids == set(range(len(ids))) and not _hides_levels(levels, values):
        return len(ids)
    readings = list_readings(values, label_map, lb_ignore)
    kind, advice = "classes", ""
    text = (
        f"the masks hold the values {shorten(sorted(values), 8)}, which are not class ids "
        f"0..max of two classes or more (data.lb_ignore is {lb_ignore})"
    )
    if levels.lossy or levels.soft and levels.between and not levels.scattered:
        kind, advice = "lossy" if levels.lossy else "smooth", SAVE_AGAIN
        readings = _read_levels(levels, values, label_map, lb_ignore)
        text = _describe_soft(levels, values, readings)
    elif not readings and len(values) > MOST_CLASSES:
        text = f"the masks hold {len(values)} values, {shorten(sorted(values), 8)}"
        advice = "more than classes: ids of objects, depths or photographs? give masks of class ids"
    fix = readings[0].fix if len(readings) == 1 else {}
    choices = tuple(readings) if len(readings) > 1 else ()
    raise ClassesUnclear(Finding(kind, True, text, [], advice, fix, choices))


def _hides_levels(levels: Levels, values: Collection[int]) -> bool:
    """Return whether values without a gap are edges between levels, rather than ids."""
    return levels.lossy or levels.soft and len(values) > 4 * max(len(levels.exact), FEW_IDS)


def _read_levels(
    levels: Levels, values: Collection[int], label_map: LabelMap, lb_ignore: int
) -> list[Choice]:
    """Return the readings of masks whose edges pass through values that are no class."""
    readings = []
    exact = set(levels.exact)
    if levels.covered and not levels.lossy and exact != set(levels.values):
        ids = exact - {lb_ignore}
        if ids == set(range(len(ids))) or not levels.settled and len(exact) <= MOST_CLASSES:
            readings += list_readings(exact, label_map, lb_ignore)
    if levels.settled:
        readings += list_readings(levels.values, label_map, lb_ignore)
    nearest = [
        Choice(
            f"{choice.meaning}; values along edges are the nearest of them",
            choice.fix | {"allow_lossy_masks": True},
        )
        for choice in readings
    ]
    if not levels.lossy and len(levels.between) <= FEW:
        nearest += list_readings(values, label_map, lb_ignore)[:1]  # such as a thin border
    return nearest


def _describe_soft(levels: Levels, values: Collection[int], readings: list[Choice]) -> str:
    cause = "lossy compression (JPEG)" if levels.lossy else "anti-aliasing, resizing or JPEG"
    text = f"the masks hold {len(values)} values ({shorten(sorted(values), 8)})"
    if readings:
        gathered = levels.values if levels.settled else levels.exact
        return f"{text}; all but {shorten(gathered, 8)} lie along edges, as after {cause}"
    if levels.lossy:
        return f"{text}, too near each other for classes after {cause}, which changes them"
    return f"{text} that gather nowhere: probability maps, photographs or blurred masks?"


def find_soft_colours(facts: Iterable[PairFacts]) -> list[Finding]:
    """Find coloured masks, of a data set without a palette, whose edges hold other colours."""
    coloured = [fact for fact in facts if fact.mask.colours]
    codes = {code for fact in coloured for code in fact.mask.colours}
    levels = find_levels([fact.mask for fact in coloured], codes)
    if not levels.lossy and not (levels.soft and levels.between):
        return []
    cause = "lossy compression (JPEG)" if levels.lossy else "anti-aliasing, resizing or JPEG"
    text = f"coloured masks hold {len(codes)} colours, as after {cause}"
    places = [str(fact.sample.mask) for fact in coloured]
    fix: dict[str, Any] = {}
    if levels.settled:
        colours = [decode_colour(code) for code in levels.values]
        text += f"; all but {shorten(colours, 8)} lie along edges"
        names = ["colour " + " ".join(map(str, colour)) for colour in colours]
        fix = {"palette": [*map(list, colours)], "classes": names, "allow_lossy_masks": True}
    return [Finding("lossy" if levels.lossy else "smooth", True, text, places, SAVE_AGAIN, fix)]


def list_readings(values: Collection[int], label_map: LabelMap, lb_ignore: int) -> list[Choice]:
    """Return the ways to make two classes or more of mask values, the likeliest first.

    None of them loses a class in silence: 255 may be one, unless the others are ids without a gap.
    """
    free = sorted(value for value in values if value not in label_map)
    valid = [value for value in free if value != lb_ignore]
    named = {int(label) for label in label_map.values() if label != "ignore"}
    ids = {*valid, *named}
    if lb_ignore in free and len(ids) >= 2 and ids == set(range(len(ids))):
        return [_reading(f"class ids, {lb_ignore} is ignored", {}, len(ids), lb_ignore)]
    readings = []
    if (count := len({*named, *number_values(free, named).values()})) >= 2:
        every = _reading(
            f"{count} classes, one for each value", number_values(free, named), count, lb_ignore
        )
        readings.append(every)
    if lb_ignore in free and count > 2:
        meaning = f"{lb_ignore} is ignored, {count - 1} classes"
        numbers: dict[int, int | str] = dict(number_values(valid, named))
        ignoring = _reading(meaning, numbers | {lb_ignore: "ignore"}, count - 1, lb_ignore)
        readings.append(ignoring)
    looks_like_ids = any(0 < value < SPREAD for value in valid)
    highest = max([*valid, *named], default=0)
    if readings and looks_like_ids and 0 <= min(valid) and highest < MOST_CLASSES - 1:
        meaning = f"class ids of {highest + 1} classes, of which some have no pixel"
        as_they_are = _reading(meaning, {}, highest + 1, lb_ignore)
        readings += [as_they_are] if as_they_are.fix not in [r.fix for r in readings] else []
        if lb_ignore in free:  # beside ids it is hardly a class
            readings = [*readings[1:], readings[0]]
    below = ids - {highest}
    far = highest >= max(FAR_OUT * len(below), 2 * FAR_OUT)
    if far and not label_map and len(below) >= 2 and below == set(range(len(below))):
        meaning = f"{highest} is ignored, {len(below)} classes"
        readings.append(_reading(meaning, {highest: "ignore"}, len(below), lb_ignore))
    return readings if len(values) <= MOST_CLASSES else []


def number_values(values: Iterable[int], taken: Collection[int]) -> dict[int, int]:
    """Return the next class id that is not taken for each value, in their order."""
    spare = (i for i in range(len(taken) + MOST_CLASSES + 1) if i not in taken)
    return dict(zip(values, spare, strict=False))


def _reading(meaning: str, numbers: Mapping[int, int | str], count: int, lb_ignore: int) -> Choice:
    label_map = {value: label for value, label in numbers.items() if value != label}
    fix: dict[str, Any] = {"label_map": label_map} if label_map else {}
    fix["classes"] = [str(class_id) for class_id in range(count)]
    if 0 <= lb_ignore < count:
        fix["lb_ignore"] = 255 if count <= 255 else -1
    return Choice(meaning, fix)
