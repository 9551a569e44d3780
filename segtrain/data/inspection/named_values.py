"""Mask values and named classes: the ways to read values that are no id of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from segtrain.data.findings import Choice
from segtrain.data.inspection.infer_classes import SPREAD
from segtrain.data.inspection.levels import APART, LOSSY_NEAR, MOST_LEVELS, find_levels
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.masks import SMOOTH, MaskReader

MOST_ADDED = 8  # more values than these are hardly classes that a table lacks
HALF = 128  # of the scale of grey


def count_values_held(facts: Iterable[PairFacts], masks: MaskReader) -> Counter[int]:
    """Return the pixels of each value of grey and indexed masks, without nodata."""
    held = Counter[int]()
    for fact in facts:
        values = np.array(list(fact.mask.values), np.int64)
        nodata = masks.options.find_nodata(values, fact.mask.nodata)
        own = np.isin(values, [*masks.label_map, *range(masks.num_classes), masks.lb_ignore])
        held.update({v: fact.mask.values[v] for v in values[own | ~nodata].tolist()})
    return held


def read_values(
    held: Collection[int],
    classes: Sequence[str],
    masks: MaskReader,
    lacking: Collection[int] | None = None,
) -> tuple[Choice, ...]:
    """Return the ways to read the values of masks as named classes, the likeliest first.

    lacking: those that a table lacks which names classes by id: its ids keep their names. None of
    the ways leaves less than two classes.
    """
    count, void, label_map = len(classes), masks.lb_ignore, masks.label_map
    free = sorted({*(set(held) - label_map.keys()), *(lacking or ())})
    valid = [value for value in free if value != void]
    unknown = sorted(lacking or (v for v in valid if not 0 <= v < count))
    choices = []
    complete = False  # each value has a name, and no id another
    spare = sorted(set(range(count)) - set(label_map.values()))
    for values in (free, valid) if void in free else (free,):
        moved = {v: i for v, i in zip(values, spare, strict=False) if v != i}
        kept = lacking is not None and any(0 <= value < count for value in moved)
        if len(values) == len(spare) and moved and not kept and not masks.palette:
            meaning = "the values in the order of the classes"
            meaning += f", {void} is ignored" if values != free else ""
            choices.append(Choice(meaning, {"label_map": moved}))
            complete |= values == free and not any(0 <= value < count for value in moved)
    if unknown == [count] and not label_map and "background" not in classes:  # as YOLO's names
        same = {"label_map": {value: value for value in range(count + 1)}}
        meaning = "0 is the background, which the names leave out"
        choices.append(Choice(meaning, {"classes": ["background", *classes], **same}))
    more = [*unknown, *([void] if void in free and min(unknown, default=0) >= SPREAD else [])]
    if 0 < len(more) <= MOST_ADDED and not complete and not 0 <= void < count + len(more):
        added = {"label_map": {value: count + i for i, value in enumerate(more)}}
        names = [*classes, *map(str, more)]
        choices.append(Choice("more classes", {"classes": names, **added}))
    if unknown:
        choices.append(Choice("no classes", {"label_map": dict.fromkeys(unknown, "ignore")}))
    maps = [label_map | choice.fix["label_map"] for choice in choices]
    read = [{labels.get(v, v) for v in {*held, *unknown}} - {"ignore", void} for labels in maps]
    return tuple(c for c, ids in zip(choices, read, strict=True) if len(ids) > 1)


def used_classes(held: Collection[int], masks: MaskReader) -> set[int]:
    """Return the class ids that mask values are read as."""
    return set(range(masks.num_classes)).intersection(masks.ids(np.array([*held], int)).tolist())


def remedy_of(choices: tuple[Choice, ...], held: Collection[int], masks: MaskReader) -> dict:
    """Return the only way as a fix if it gives each value one of the names, else choices."""
    if len(choices) == 1 and "classes" not in choices[0].fix:
        labels = choices[0].fix["label_map"]
        if "ignore" not in labels.values() and ({masks.lb_ignore} & set(held) <= labels.keys()):
            return {"fix": choices[0].fix}
    return {"choices": choices}


def is_soft(fact: PairFacts) -> bool:
    return fact.mask.lossy or fact.mask.smooth > SMOOTH


def read_soft(
    facts: Sequence[PairFacts], classes: Sequence[str], masks: MaskReader
) -> tuple[list[int], dict[str, Any]] | None:
    """Return the levels of grey masks of which some are soft, and the remedy; None if all is well.

    The facts are of masks as they are stored. The nearest class is right only if each level is one.
    """
    held = count_values_held(facts, masks)
    levels = find_levels([fact.mask for fact in facts if fact.mask.values], held)
    edges = held.keys() - levels.exact - set(masks.known.tolist())
    if not levels.lossy and not (levels.soft and edges) or levels.scattered:
        return None
    ids = set(levels.exact) - {masks.lb_ignore}
    exact = levels.covered and not levels.lossy and len(levels.exact) <= MOST_LEVELS
    by_id = exact and 2 <= len(ids) <= len(classes) and ids == set(range(len(ids)))
    both = by_id and levels.settled and levels.values != levels.exact and not masks.label_map
    gathered = levels.values if levels.settled else levels.exact if exact else []
    if by_id and not both:
        gathered = levels.exact
    apart = all(b - a >= APART for a, b in pairwise(masks.anchors.tolist()))
    if not both and (apart or not levels.lossy) and _explains(gathered, masks, apart):
        return None if masks.allow_lossy else (gathered, {"fix": {"allow_lossy_masks": True}})
    ways = read_values(gathered, classes, masks) if len(gathered) > 1 else ()
    if both:
        ways = (Choice("class ids", {"label_map": {i: i for i in sorted(ids)}}), *ways)
    if len(gathered) < 2 and len(classes) == 2 and not masks.label_map and max(held) >= HALF:
        meaning = f"values from {HALF} are {classes[1]}"  # thin lines have no flat areas
        ways = (Choice(meaning, {"label_map": {255: 1}}),)
    ways = tuple(Choice(way.meaning, way.fix | {"allow_lossy_masks": True}) for way in ways)
    return gathered, remedy_of(ways, gathered, masks) if gathered[1:] else {"choices": ways}


def _explains(levels: list[int], masks: MaskReader, apart: bool) -> bool:
    """Return whether the nearest known value of each level is its own, and they are two classes."""
    if len(levels) < 2:  # nothing to compare with
        return apart
    nearest = masks.snap(np.array([levels]))
    within = np.abs(nearest - levels).max() <= (LOSSY_NEAR if apart else 0)
    return bool(within) and len(used_classes(nearest[0].tolist(), masks)) > 1
