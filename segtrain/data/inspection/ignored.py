"""Pixels that are ignored or have a class by a rule for the rest: their shares, as notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np

from segtrain.console import Note
from segtrain.data.findings import Finding
from segtrain.data.inspection.checks import Facts, unknown_of
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.layouts.class_masks import ClassMasks
from segtrain.data.masks import UNKNOWN, MaskReader

MOST_IGNORED = 0.5  # largest share that needs no note


def count_ignored(
    facts: Sequence[PairFacts], by_image: np.ndarray, masks: MaskReader
) -> tuple[int, int]:
    """Return the ignored pixels and all pixels of masks; by_image has those of each class."""
    total = sum(sum((fact.mask.colours or fact.mask.values).values()) for fact in facts)
    unknown = sum(sum(kind.values()) for fact in facts for kind in unknown_of(fact, masks))
    return max(0, total - int(by_image.sum()) - unknown), total


def note_overlaps(facts: Sequence[PairFacts]) -> list[Finding]:
    """Find the pixels that are ignored as masks of several classes cover them."""
    merged = [(f, f.sample.mask.overlap) for f in facts if isinstance(f.sample.mask, ClassMasks)]
    shared = {str(f.sample.image): f.mask.values[v] for f, v in merged if v in f.mask.values}
    if not shared:
        return []
    pixels = sum(shared.values())
    covered = sum(count for f, _ in merged for value, count in f.mask.values.items() if value)
    text = (
        f"{pixels:,} pixels, {pixels / covered:.1%} of those of a class, are ignored in "
        f"{len(shared)} images: masks of several classes cover them"
    )
    return [Finding("overlap", False, text, list(shared), "draw each pixel in one class's mask")]


def note_mostly_ignored(ignored: Mapping[str, tuple[int, int]], masks: MaskReader) -> list[Finding]:
    """Find splits of whose pixels more than half are ignored."""
    shares = {split: pixels / max(1, total) for split, (pixels, total) in ignored.items()}
    most = [f"{share:.1%} of {split}" for split, share in shares.items() if share > MOST_IGNORED]
    if not most:
        return []
    text = f"more than half of the pixels are ignored, by training and by scores: {', '.join(most)}"
    advice = (
        f"intended, or give them a class: values that data.label_map ignores, {masks.lb_ignore} "
        "(data.lb_ignore) and nodata have none"
    )
    return [Finding("void", False, text, [], advice)]


def note_other_values(facts: Facts, masks: MaskReader) -> list[Note]:
    """Note the pixels whose values have a meaning by data.other_values only."""
    if masks.other == UNKNOWN:
        return []
    strict = copy(masks)
    strict.other = UNKNOWN
    found = [unknown_of(fact, strict) for of_split in facts.values() for fact in of_split]
    pixels = sum(sum(counts.values()) for pair in found for counts in pair)
    values, colours = (set().union(*parts) for parts in zip(*found, strict=True))
    meaning = masks.options.other_values
    text = f"masks: {pixels:,} pixels of {len(values) + len(colours)} other values or colours are "
    text += "ignored" if meaning == "ignore" else f"class {meaning}"
    return [Note(f"{text} (data.other_values)")] if pixels else []
