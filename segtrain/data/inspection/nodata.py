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
from segtrain.errors import shorten


def nodata_of(fact: PairFacts, options: MaskOptions) -> set[int]:
    """Return the values of a mask that are nodata, unless the label map names them."""
    ordinary = options.nodata is None and fact.mask.nodata is None
    if ordinary and all(0 <= value < LARGEST[0] for value in fact.mask.values):
        return set()
    values = np.array(list(fact.mask.values), np.int64)
    return set(values[options.find_nodata(values, fact.mask.nodata)].tolist())


def find_nodata_class(
    facts: Sequence[PairFacts], config: DataConfig, options: MaskOptions
) -> list[Finding]:
    """Find files whose tag names a value as nodata that may as well be a class id."""
    if options.nodata is not None:
        return []
    tagged: dict[int, list[PairFacts]] = {}
    for fact in facts:
        if fact.mask.nodata is not None and (tag := fact.mask.nodata) in fact.mask.values:
            tagged.setdefault(int(tag), []).append(fact)
    ids = set().union(*(f.mask.values.keys() - nodata_of(f, options) for f in facts if tagged))
    ids -= {config.lb_ignore} | config.label_map.keys()
    automatic = set().union(*(nodata_of(f, options) for f in facts if tagged)) - tagged.keys()
    findings = []
    for value, files in sorted(tagged.items()):
        count = len(config.classes) if config.classes else max(ids | {value}) + 1
        named = value in config.label_map or value == config.lb_ignore
        if named or count <= 2 or not 0 <= value < count:
            continue
        text = f"{len(files)} masks name {value} as nodata in a tag, but it may be a class id"
        rest = sorted(ids - {value})
        ignoring: dict[str, Any] = {"nodata": sorted(automatic | {value})}
        if not config.classes and rest != list(range(len(rest))):
            ignoring["label_map"] = {old: new for new, old in enumerate(rest) if old != new}
            ignoring["classes"] = [str(new) for new in range(len(rest))]
        choices = (
            Choice(f"{value} is ignored", ignoring),
            Choice(f"{value} is a class", {"nodata": sorted(automatic)}),
        )
        places = [str(fact.sample.mask) for fact in files]
        findings.append(Finding("nodata", True, text, places, choices=choices))
    return findings


def note_nodata(facts: Sequence[PairFacts], config: DataConfig) -> list[Note]:
    """Note the pixels that are ignored as nodata, with their share."""
    options, pixels, masks = MaskOptions.of(config), Counter[int](), 0
    for fact in facts:
        found = nodata_of(fact, options) - config.label_map.keys()
        pixels.update({value: fact.mask.values[value] for value in found})
        masks += bool(found)
    if not masks:
        return []
    total = sum(fact.mask.size[0] * fact.mask.size[1] for fact in facts)
    share = sum(pixels.values()) / total
    text = f"masks: {shorten(sorted(pixels))} is nodata and ignored: {share:.2%} of the pixels"
    return [Note(f"{text}, in {masks} masks (data.nodata)")]
