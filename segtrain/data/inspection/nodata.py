"""Nodata in masks: values that are ignored, and tags that name what may be a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.console import Note
from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.infer_classes import SPREAD, list_readings
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.mask_options import LARGEST, MaskOptions
from segtrain.data.stored_masks import NAN_VALUE
from segtrain.errors import shorten

BYTE, WIDER = 255, 257  # white of 8 bits, and the factor that makes it that of 16 bits


class Nodata:
    """The nodata values of a data set's masks.

    config: with the layout's classes and label map, whose entries come before nodata.
    """

    def __init__(self, facts: Sequence[PairFacts], config: DataConfig):
        self.facts, self.config, self.options = facts, config, MaskOptions.of(config)
        self.tagged: dict[int, list[PairFacts]] = {}  # masks that hold a value their tag names
        for fact in facts if self.options.nodata is None else ():
            if fact.mask.nodata in fact.mask.values:
                self.tagged.setdefault(int(fact.mask.nodata), []).append(fact)
        self.classes: set[int] = set()  # tagged values that can only be classes
        known = {config.lb_ignore, *config.label_map}
        self.held = set().union(*(f.mask.values.keys() - self.of(f) for f in facts))
        self.ids = self.held - known - self.tagged.keys()  # values that are certainly no nodata
        for value in self.tagged.keys() - known:
            if self._count_classes() <= 2 and value in (0, 1):  # one class can't be trained
                self.classes.add(value)

    @property
    def untagged(self) -> set[int]:
        """Values that are nodata as the largest of their type only: they may be a class."""
        if self.options.nodata is not None:
            return set()
        held = set().union(*(fact.mask.values.keys() & LARGEST for fact in self.facts))
        return held - self.tagged.keys() - {self.config.lb_ignore, *self.config.label_map}

    def _count_classes(self) -> int:
        if self.config.classes:
            return len(self.config.classes)
        return max(self.ids, default=-1) + 1 if len(self.ids) > 1 else 2

    def of(self, fact: PairFacts) -> set[int]:
        """Return the values of a mask that are nodata."""
        ordinary = self.options.nodata is None and fact.mask.nodata is None
        if ordinary and all(0 <= value < LARGEST[0] for value in fact.mask.values):
            return set()
        values = np.array(list(fact.mask.values), np.int64)
        found = values[self.options.find_nodata(values, fact.mask.nodata)].tolist()
        return set(found) - self.config.label_map.keys() - self.classes

    def find_ambiguous(self) -> list[Finding]:
        """Find values that are nodata by some tags, or the end of a scale: they may be classes."""
        named = {self.config.lb_ignore, *self.config.label_map} | self.classes
        # without names, the next id may be a class, too
        count = self._count_classes() + (self.config.classes is None)
        ambiguous = {value for value in self.tagged if 0 <= value < count} - named
        partly = self.tagged.keys() & self.held - named - ambiguous
        if not ambiguous and not partly:
            return self._find_ends_of_scales()
        automatic = set().union(*(self.of(f) for f in self.facts)) - ambiguous
        findings = []
        for value in sorted(ambiguous):
            files = self.tagged[value]
            text = f"{len(files)} masks name {value} as nodata in a tag, but it may be a class id"
            rest = sorted(self.ids)
            ignoring: dict[str, Any] = {"nodata": sorted(automatic | {value})}
            if not self.config.classes and rest != list(range(len(rest))):
                ignoring["label_map"] = {old: new for new, old in enumerate(rest) if old != new}
                ignoring["classes"] = [str(new) for new in range(len(rest))]
            choices = (
                Choice(f"{value} is ignored", ignoring),
                Choice(f"{value} is a class", {"nodata": sorted(automatic)}),
            )
            places = [str(fact.sample.mask) for fact in files]
            findings.append(Finding("nodata", True, text, places, choices=choices))
        if partly and not ambiguous:
            values = shorten(sorted(partly))
            text = f"masks hold {values} which others name as nodata in a tag"
            without = [
                str(fact.sample.mask)
                for fact in self.facts
                if partly & fact.mask.values.keys() - self.of(fact)
            ]
            fix = {"nodata": sorted(automatic)}
            findings.append(Finding("nodata", True, text, without, fix=fix))
        return findings

    def _find_ends_of_scales(self) -> list[Finding]:
        """Find the largest value of a type beside other spread levels, where it is one of them."""
        free = self.held - self.config.label_map.keys()
        levels = free - {0}
        if not levels or min(levels) < SPREAD:
            return []
        for value in sorted(self.untagged):
            files = [f for f in self.facts if value in f.mask.values]
            beside = [f for f in files if levels & f.mask.values.keys()]
            readings = list_readings(free | {value}, self.config.label_map, value)
            low = sorted(v for v in free if v <= BYTE)
            if {v * WIDER for v in low} >= levels.difference(low) | {value} and len(low) > 1:
                pairs = [
                    (v, i)
                    for i, low_value in enumerate(low)
                    for v in (low_value, low_value * WIDER)
                ]
                same: dict[str, Any] = {"label_map": {v: i for v, i in pairs if v != i}}
                meaning = f"values of 16 bits are those of 8 bits times {WIDER}"
                same |= {"classes": [str(i) for i in range(len(low))]}
                readings = [Choice(meaning, same), *readings]
            if names := self.config.classes:
                readings = [
                    Choice(way.meaning, {"label_map": way.fix["label_map"]})
                    for way in readings
                    if len(way.fix["classes"]) == len(names)
                ]
            if beside and readings:
                text = f"{value} is the largest value of its type: nodata, or the end of a scale"
                text += f" ({shorten(sorted(free), 8)})"
                places = [str(fact.sample.mask) for fact in beside]
                return [Finding("nodata", True, text, places, choices=tuple(readings))]
        return []

    def find_background(self) -> list[Finding]:
        """Find nodata that may be the background: beside one class only, or beside ids from 1."""
        config = self.config
        void = {config.lb_ignore} & self.held
        ids = sorted(self.ids or void)
        nodata = set().union(*(self.of(fact) for fact in self.facts))
        names = len(config.classes or ())
        if len(nodata) != 1 or not ids or config.palette or config.label_map:
            return []
        if len(ids) > 1 and (names or ids != list(range(1, len(ids) + 1))):
            return []
        if names not in (0, 2):
            return []
        value = nodata.pop()
        # one class alone can't be trained
        numbers = (
            {0: 0, value: 1} if ids == [0] else {value: 0} | {v: i + 1 for i, v in enumerate(ids)}
        )
        fix: dict[str, Any] = {"label_map": {v: i for v, i in numbers.items() if v != i}}
        if not names:
            fix["classes"] = [str(i) for i in range(len(numbers))]
        meaning = f"{_name(value)} is class {numbers[value]}"
        meaning += ", the background" if numbers[value] == 0 else ""
        choices = [Choice(meaning, fix)]
        if not names:
            choices += list_readings({*ids, *void}, {}, config.lb_ignore)
        text = f"masks hold {shorten(ids, 8)}, and else {_name(value)}, which is nodata"
        places = [str(f.sample.mask) for f in self.facts if value in f.mask.values]
        return [Finding("nodata", True, text, places, choices=tuple(choices))]

    def note(self) -> list[Note]:
        """Note the pixels that are ignored as nodata, with their share."""
        pixels, masks = Counter[int](), 0
        for fact in self.facts:
            found = self.of(fact)
            pixels.update({value: fact.mask.values[value] for value in found})
            masks += bool(found)
        if not masks:
            return []
        share = sum(pixels.values()) / sum(f.mask.size[0] * f.mask.size[1] for f in self.facts)
        values = map(_name, sorted(pixels))
        text = f"masks: {shorten(values)} is nodata and ignored: {share:.2%} of the pixels"
        return [Note(f"{text}, in {masks} masks (data.nodata)")]


def _name(value: int) -> str:
    return f"{value} (or NaN, or beyond 32 bits)" if value == NAN_VALUE else str(value)
