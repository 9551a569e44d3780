"""Nodata in masks: values that are ignored, and tags that name what may be a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.console import Note
from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.mask_options import LARGEST, MaskOptions
from segtrain.data.stored_masks import NAN_VALUE
from segtrain.errors import shorten


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
        held = set().union(*(f.mask.values.keys() - self.of(f) for f in facts if self.tagged))
        self.ids = held - known  # values that are certainly none
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
        """Find masks whose tag names a value as nodata that may as well be a class id."""
        named = {self.config.lb_ignore, *self.config.label_map} | self.classes
        # without names, the next id may be a class, too
        count = self._count_classes() + (self.config.classes is None)
        ambiguous = {value for value in self.tagged if 0 <= value < count} - named
        automatic = set().union(*(self.of(f) for f in self.facts if ambiguous)) - ambiguous
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
        return findings

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
        values = ["NaN" if value == NAN_VALUE else value for value in sorted(pixels)]
        text = f"masks: {shorten(values)} is nodata and ignored: {share:.2%} of the pixels"
        return [Note(f"{text}, in {masks} masks (data.nodata)")]
