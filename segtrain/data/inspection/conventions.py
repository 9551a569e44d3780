"""Conventions of mask values, seen by file: two in one data set, ids of instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.infer_classes import SPREAD, list_readings
from segtrain.data.inspection.nodata import Nodata
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.mask_options import LARGEST
from segtrain.errors import shorten

FAR = 8  # smallest ratio of a grey level to a class id
MOST_IDS = 64  # more values of a data set are not two conventions
FEWEST_INSTANCES = 5  # in the masks with most of them
FEWEST_SPARSE = 10  # values that mark instances where hardly one is in two masks
FEWEST_TIGHT = 6  # instances whose numbers need not begin at 0 or 1, if all are small
MANY_INSTANCES = 256  # in one mask, which shows fewer classes
BASES = (256, 1000, 10000, 65536)  # of numbers that hold a class and an instance
MOST_COMPOSED = 1024  # more values than these are no line of a config
FROM_ONE = 0.9  # share of the masks that hold 1..k of their own where values are instances


class MaskValues(NamedTuple):
    """The values of a mask that neither the label map nor nodata give a meaning."""

    fact: PairFacts
    values: set[int]

    def __str__(self) -> str:
        return f"{self.fact.sample.mask} has {shorten(sorted(self.values), 8)}"


def list_values(
    facts: Sequence[PairFacts], nodata: Nodata, keep: int | None = None
) -> list[MaskValues]:
    """Return the values of all masks that are not coloured or lossy, without nodata."""
    named = nodata.config.label_map.keys()
    hard = [f for f in facts if f.mask.values and not f.mask.lossy]
    return [MaskValues(f, set(f.mask.values) - named - (nodata.of(f) - {keep})) for f in hard]


def find_conventions(masks: list[MaskValues], config: DataConfig) -> list[Finding]:
    """Find masks of two conventions: some have 0 and 1, others 0 and 255, and none has both.

    The config is that of the data set with its layout's classes.
    """
    present = sorted(set().union(*(mask.values for mask in masks)) - {0})
    if not 2 <= len(present) <= MOST_IDS or present[0] < 0:
        return []
    ratios = [high / low for low, high in zip(present[:-1], present[1:], strict=True)]
    cut = int(np.argmax(ratios)) + 1
    low, high = set(present[:cut]), set(present[cut:])
    first = [mask for mask in masks if mask.values & low]
    second = [mask for mask in masks if mask.values & high]
    mixed = any(mask.values & low and mask.values & high for mask in masks)
    ranks = rank_values(first, second, config)
    if not mixed and ratios[cut - 1] >= FAR and ranks:
        ignored = {value: "ignore" for value in sorted(high)}
        others = Choice(f"{shorten(high, 8)} are no class", {"label_map": ignored})
        return [_two(first, second, [Choice("both mean the same", ranks), others])]
    return find_void_apart(masks, config, config.lb_ignore)


def find_void_apart(masks: list[MaskValues], config: DataConfig, void: int) -> list[Finding]:
    """Find masks of 0 and `void`, which is ignored, where none has it beside an id above 0."""
    if findings := find_binary(masks, config):
        return findings
    apart = [mask for mask in masks if mask.values - {0} == {void}]
    with_ids = [mask for mask in masks if mask.values - {0, void} and void not in mask.values]
    mixed = any(void in mask.values and mask.values - {0, void} for mask in masks)
    mapped = config.label_map.keys() - {0}
    beside = any(mapped & mask.fact.mask.values.keys() for mask in masks)
    if void in LARGEST and not mixed and apart and not with_ids and not beside:  # bool as 16 bits
        text = f"masks hold nothing but {void} beside 0"
        one = {"label_map": {void: 1}} | _names(config, 2)
        return [Finding("convention", True, text, [str(apart[0])], "", one)]
    # of masks without a 0, all may be void
    if void <= 0 or mixed or not with_ids or not any(0 in mask.values for mask in apart):
        return []
    held = set().union(*(mask.values for mask in with_ids))
    own = max(held) + 1 if max(held) > 1 and not config.classes else 1
    choices = [
        Choice(f"{void} is class {own}", {"label_map": {void: own}}),
        Choice(f"{void} is ignored", {"label_map": {void: "ignore"}}),
    ]
    if min(held - {0}) >= SPREAD and not config.classes:  # levels
        choices = list_readings(held | {0, void}, config.label_map, void)
    return [_two(with_ids, apart, choices)]


def find_binary(masks: list[MaskValues], config: DataConfig) -> list[Finding]:
    """Find masks that hold one value each beside 0, and not all the same: 1, 128 and 255."""
    present = sorted(set().union(*(mask.values for mask in masks)) - {0})
    binary = all(len(mask.values - {0}) <= 1 for mask in masks)
    if not binary or len(present) < 2 or present[1] <= MOST_IDS or 1 < present[0] <= MOST_IDS:
        return []
    if present[0] == 1 and len(present) == 2 or present[0] < 0:
        return []
    same = {value: 1 for value in present if value != 1}
    choices = [Choice("all mean the same", {"label_map": same} | _names(config, 2))]
    if not config.classes:
        each = {value: i for i, value in enumerate(present, 1) if value != i}
        names = [str(i) for i in range(len(present) + 1)]
        fix = {"label_map": each, "classes": names, "lb_ignore": -1}
        choices.append(Choice("each is a class", fix))
    return [_two(masks_with(masks, present[0]), masks_with(masks, present[-1]), choices)]


def _two(first: list[MaskValues], second: list[MaskValues], choices: list[Choice]) -> Finding:
    text = (
        f"masks of two conventions: {len(first)} masks as the first, {len(second)} as the second, "
        "and none with the values of both"
    )
    shares, advice = [_share_above_0(group) for group in (first, second)], ""
    if min(shares) < 0.5 < max(shares) < 1:
        advice = (
            f"if 0 is the object in one of the kinds (other values have {shares[0]:.0%} of the "
            f"first's pixels, {shares[1]:.0%} of the second's), save its masks inverted"
        )
    places = [str(first[0]), str(second[0])]
    return Finding("convention", True, text, places, advice, choices=tuple(choices))


def _share_above_0(masks: list[MaskValues]) -> float:
    pixels = sum((Counter(mask.fact.mask.values) for mask in masks), Counter[int]())
    return 1 - pixels[0] / pixels.total()


def masks_with(masks: list[MaskValues], value: int) -> list[MaskValues]:
    return [mask for mask in masks if value in mask.values]


def _names(config: DataConfig, count: int) -> dict[str, Any]:
    return {} if config.classes else {"classes": [str(class_id) for class_id in range(count)]}


def rank_values(
    first: list[MaskValues], second: list[MaskValues], config: DataConfig
) -> dict[str, Any]:
    """Return the data fields that read levels as the ids they stand for.

    {} where that is unclear: they are as many, or even parts of 255 for ids up to the highest.
    """
    ids, levels = (sorted(set().union(*(m.values for m in group))) for group in (first, second))
    top = max(ids, default=0)
    ranks = range(1, top + 1) if top < 256 else ()  # a damaged value may be huge
    even = {round(255 * rank / top) + off: rank for rank in ranks for off in (-1, 0, 1)}
    if len(ids) == len(levels) and top - ids[0] == len(ids) - 1 and ids[0] in (0, 1):
        pairs = [*((v, rank) for group in (ids, levels) for rank, v in enumerate(group))]
    elif len(levels) > 2 and all(level in even for level in levels if level) and 0 in ids:
        pairs = [(level, even.get(level, 0)) for level in levels]
    else:
        return {}
    count = 1 + max(rank for _, rank in pairs)
    label_map = {value: rank for value, rank in pairs if value != rank}
    return {"label_map": label_map} | _names(config, max(count, top + 1 if 0 in ids else 0))


def find_instances(masks: list[MaskValues], config: DataConfig) -> list[Finding]:
    """Find masks whose values number the objects of each image instead of their classes.

    Either nearly each mask holds exactly 1..k of its own, and few masks the highest k; or hardly
    any value is in two masks. Ordered classes may look like this: both readings are offered.
    """
    sets = [mask.values - {0} for mask in masks]
    void = config.lb_ignore
    if not any({void - 1, void} <= values for values in sets):  # else it is an instance's
        sets = [values - {void} for values in sets]
    sets = [values for values in sets if values]
    files = Counter(value for values in sets for value in values)
    if len(sets) < 3 or min(files) < 1:
        return []
    counts = [len(values) for values in sets]
    whole = sum(max(values) == len(values) for values in sets)
    differ = len(set(counts)) >= 3 and 2 * files[max(files)] <= len(sets)
    numbered = whole >= FROM_ONE * len(sets) and max(counts) >= FEWEST_INSTANCES
    numbered &= differ or max(counts) >= MANY_INSTANCES
    names = len(config.classes or ())
    if names and (max(files) < names or config.other_values is not None):
        return []
    if not numbered and not are_apart(sets):
        return []
    text = "values look like ids of instances: " + (
        "each mask holds 1..k of its own" if numbered else "hardly any is in two masks"
    )
    one: dict[str, Any] = {"other_values": 1}
    if not config.classes:
        one["classes"] = ["background", "object"]
    if void in files:
        one["label_map"] = {void: 1}
    choices = [Choice("one class of objects", one)] if names in (0, 2) else []
    if (
        not config.classes
        and max(counts) < MANY_INSTANCES
        and max(files) < 2**15 - 1
        and (numbered or len(files) == max(files))
    ):
        classes = {"classes": [str(class_id) for class_id in range(max(files) + 1)]}
        choices.append(Choice("ids are classes", classes | avoid_ignored(max(files), config)))
    most = sorted(masks, key=lambda mask: -len(mask.values))
    return [Finding("instances", True, text, [*map(str, most)], choices=tuple(choices))]


def find_composed(masks: list[MaskValues], config: DataConfig) -> list[Finding]:
    """Find values that hold a class and an instance in one number, such as class * 256 + instance.

    Ids almost without gaps are no such values: a class's instances begin at 0 or 1.
    """
    held = set().union(*(mask.values for mask in masks)) - {config.lb_ignore}
    if not held or min(held) < 0 or 2 * len(held) > max(held):
        return []
    for base in BASES:
        high = sorted(value for value in held if value >= base)
        first = {value // base: value % base for value in reversed(high)}
        begins = sum(rest <= 1 for rest in first.values()) >= FROM_ONE * len(first)
        tight = max(value % base for value in held) < base // 10 and len(first) > 1
        begins |= tight and len(high) >= max(FEWEST_TIGHT, 2 * len(first))
        near = max((value % base for value in high), default=base) < base // 2
        files = Counter(i for m in masks for i in {v // base for v in m.values if v >= base})
        shared = 2 * sum(count > 1 for count in files.values()) >= len(first)
        if len(high) >= max(3, 1.5 * len(first)) and begins and near and shared:
            break
    else:
        return []
    ids = {value: value // base if value >= base else value for value in sorted(held)}
    names = sorted(set(ids.values()))
    text = f"values look like class * {base} + instance, of the classes {shorten(names, 8)}"
    fix: dict[str, Any] = {"label_map": {v: i for v, i in ids.items() if v != i}}
    if not config.classes:
        ranks = {v: names.index(i) for v, i in ids.items()}
        fix = {"label_map": {v: i for v, i in ranks.items() if v != i}}
        fix["classes"] = [str(name) for name in names]
    known = set(config.label_map) | set(range(len(config.classes or names)))
    fits = len(names) > 1 and len(high) <= MOST_COMPOSED
    fits &= not config.classes or known.issuperset(names) and not config.label_map
    choices = (Choice("the instances of a class are one class", fix),) if fits else ()
    advice = f"save the masks again with the class alone: value // {base}"
    places = [*map(str, masks_with(masks, high[-1])), *map(str, masks)][:4]
    return [Finding("instances", True, text, list(dict.fromkeys(places)), advice, {}, choices)]


def are_apart(sets: Sequence[Collection[int]]) -> bool:
    """Return whether hardly any of the values, or colours, of several masks is in two of them."""
    count, different = sum(map(len, sets)), len(set().union(*sets))
    return different >= FEWEST_SPARSE and 2 * len(sets) <= count <= 1.2 * different


def avoid_ignored(highest: int, config: DataConfig) -> dict[str, int]:
    """Return the data field that keeps ids up to `highest` from being ignored."""
    return {"lb_ignore": -1} if 0 <= config.lb_ignore <= highest else {}
