"""Checks: facts of pairs to findings of errors, wrong labels and oddities."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.data_set import DataSet
from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.duplicates import groups_by, near_pairs, same_bytes
from segtrain.data.inspection.named_values import (
    count_values_held,
    is_soft,
    read_soft,
    read_values,
    remedy_of,
    used_classes,
)
from segtrain.data.inspection.scan import PairFacts, UnreadablePair
from segtrain.data.masks import LOSSY, SMOOTH, UNKNOWN, MaskReader, colour_counts
from segtrain.data.sample import Sample
from segtrain.errors import shorten

Facts = dict[str, list[PairFacts]]  # by split
Scanned = PairFacts | UnreadablePair
EMPTY_ADVICE = "intended, or name them in data.exclude"
ABSENT_ADVICE = "split the images differently: data.splits, or another data.split_seed"
NEAR_ADVICE = "frames of one scene belong in one split"
SMOOTH_ADVICE = "save masks without anti-aliasing and resize them by nearest neighbour"
STRAY_PIXELS, STRAY_MASKS = 0.001, 0.2  # most of all, with colours that are slips
DARK = 64  # 16-bit images whose 8 upper bits stay below this use a quarter of the range


class Checks:
    """Checks that find faults in facts; findings name files relative to the data set's folder."""

    def __init__(self, root: Path):
        self.root = root

    def short(self, text: object) -> str:
        return str(text).replace(f"{self.root}{os.sep}", "")

    def localise(self, finding: Finding) -> Finding:
        """Return a finding whose files are relative to the data set's folder."""
        places = [self.short(place) for place in finding.places]
        return replace(finding, text=self.short(finding.text), places=places)

    def exclude_fix(self, bad: Sequence[Scanned], scanned: Sequence[Scanned]) -> dict[str, Any]:
        """Return the fix that excludes pairs, {} where no pair would be left."""
        names = sorted({self.short(fact.sample.image) for fact in bad})
        return {"exclude": names} if len(bad) < len(scanned) else {}

    def unreadable(self, scanned: Sequence[Scanned]) -> list[Finding]:
        """Find damaged files, and masks that don't have their image's size."""
        bad = [pair for pair in scanned if isinstance(pair, UnreadablePair)]
        sizes = [f for f in scanned if isinstance(f, PairFacts) and not f.sizes_agree]
        reasons = list(dict.fromkeys(reason for pair in bad for reason in pair.reasons))
        findings = []
        if bad:
            text = f"{_count(reasons, 'file')} cannot be read"
            places = [self.short(reason) for reason in reasons]
            fix = self.exclude_fix(bad, scanned)
            findings.append(Finding("unreadable", True, text, places, "", fix))
        if sizes:
            text = f"sizes differ in {_count(sizes, 'pair')}"
            places = [self._sizes(fact) for fact in sizes]
            fix = self.exclude_fix(sizes, scanned)
            findings.append(Finding("size", True, text, places, "", fix))
        return findings

    def _sizes(self, fact: PairFacts) -> str:
        (height, width), (mask_height, mask_width) = fact.image.size, fact.mask.size
        turned = fact.image.turned and (mask_height, mask_width) == (width, height)
        hint = " (EXIF rotates the image; rotate the mask, too)" if turned else ""
        return self.short(
            f"{fact.sample.image} is {width}x{height} (width x height), "
            f"{fact.sample.mask} is {mask_width}x{mask_height}{hint}"
        )

    def soft(self, facts: Facts, masks: MaskReader, classes: Sequence[str]) -> list[Finding]:
        """Find lossy and smooth masks that are not allowed, or whose levels are not the classes'.

        The facts are of masks as they are stored.
        """
        everything = _all(facts)
        grey = [fact for fact in everything if not fact.mask.colours]
        coloured = [fact for fact in everything if fact.mask.colours and fact.mask.lossy]
        levels, remedy = read_soft(grey, classes, masks) or ([], {})
        bad = [fact for fact in grey if remedy and is_soft(fact)]
        if coloured and not masks.allow_lossy:
            bad += coloured
            remedy = remedy or {"fix": {"allow_lossy_masks": True}}
        if not bad:
            return []
        lossy = [fact for fact in bad if fact.mask.lossy]
        kind, advice = "smooth", SMOOTH_ADVICE
        text = f"{_count(bad, 'mask')} with smooth edges, as after drawing with anti-aliasing or "
        text += "resizing"
        if lossy:
            kind, advice = "lossy", "save masks as PNG"
            text = f"{_count(lossy, 'JPEG mask')}: {LOSSY}"
        if levels:
            text += f"; the pixels gather at {shorten(levels, 8)}"
        if not any(remedy.values()):
            text += "; no values of the classes are near these, or too many"
            remedy = {"fix": self.exclude_fix(lossy, everything)} if lossy else {}
            advice = f"name the class of each level with data.label_map, or {advice}"
        places = [self._unknown_place(fact, unknown_of(fact, masks)[0]) for fact in bad]
        return [Finding(kind, True, text, places, advice, **remedy)]

    def _unknown_place(self, fact: PairFacts, unknown: Mapping[int, int]) -> str:
        named = shorten(f"{v} ({count} px)" for v, count in sorted(unknown.items()))
        has = f" has value {named}" if unknown and not fact.mask.lossy else ""
        return self.short(f"{fact.sample.mask}{has}")

    def values(self, facts: Facts, masks: MaskReader, classes: Sequence[str]) -> list[Finding]:
        """Find grey values and colours that are neither a class nor ignored."""
        unknown, colours = Counter[int](), Counter[int]()
        places: list[str] = []
        reported = not masks.allow_lossy and read_soft(_all(facts), classes, masks)
        for fact in _all(facts):
            soft = is_soft(fact) and (masks.allow_lossy or reported and fact.mask.values)
            if soft or fact.mask.lossy:
                continue  # a finding already, or read as the nearest class
            grey, coloured = unknown_of(fact, masks)
            unknown.update(grey)
            colours.update(coloured)
            if grey:
                places.append(self._unknown_place(fact, grey))
            elif coloured:
                named = shorten(colour_counts(coloured))
                places.append(self.short(f"{fact.sample.mask}: {named}"))
        findings = []
        if unknown:
            findings.append(self._unknown_values(unknown, places, facts, masks, classes))
        if colours:
            text = (
                f"{_count(list(colours), 'colour')} that data.palette lacks in "
                f"{_count(places, 'mask')}"
                if masks.palette
                else "RGB masks need data.palette, the class colours in id order"
            )
            advice = (
                f"add them to data.palette ({shorten(colour_counts(colours), 8)}); map those that "
                "are no class with data.label_map, by index in the palette: {INDEX: ignore}"
            )
            stray = {"other_values": "ignore"}
            if not masks.palette:
                findings.append(Finding("colour", True, text, places, advice))
            elif _are_stray(colours, places, facts):
                findings.append(Finding("colour", True, text, places, advice, stray))
            else:
                choices = (Choice("they are no class", stray),)
                findings.append(Finding("colour", True, text, places, advice, choices=choices))
        return findings

    def _unknown_values(
        self,
        unknown: Counter,
        places: list[str],
        facts: Facts,
        masks: MaskReader,
        classes: Sequence[str],
    ) -> Finding:
        text = (
            f"values that are no class in {_count(places, 'mask')} (classes are "
            f"0..{masks.num_classes - 1} and {masks.lb_ignore} is ignored)"
        )
        held = count_values_held(_all(facts), masks)
        if _are_stray(unknown, places, facts) and len(used_classes(held, masks)) > 1:
            fix = {"label_map": dict.fromkeys(sorted(unknown), "ignore")}
            return Finding("value", True, text, places, "fix the mask", fix)
        remedy = remedy_of(read_values(held, classes, masks), held, masks)
        return Finding("value", True, text, places, "fix the masks", **remedy)

    def contents(
        self, facts: Facts, by_image: dict[str, np.ndarray], names: list[str]
    ) -> list[Finding]:
        """Find empty masks, classes that a split lacks, and smooth edges of known values."""
        everything = [f for split in facts for f in facts[split]]
        matrix = np.concatenate([by_image[split] for split in facts])
        valid, present = matrix.sum(1), matrix > 0
        void = [self.short(everything[i].sample.mask) for i in np.flatnonzero(valid == 0)]
        only = np.flatnonzero((valid > 0) & (present[:, 1:].sum(1) == 0))
        flat = [self.short(everything[i].sample.mask) for i in only]
        findings = []
        if void:
            text = f"{_count(void, 'mask')} without a valid pixel"
            findings.append(Finding("empty", False, text, void, EMPTY_ADVICE))
        if flat:
            text = f"{_count(flat, 'mask')} with nothing but {names[0]} (class 0)"
            findings.append(Finding("empty", False, text, flat, EMPTY_ADVICE))
        for split, counts in by_image.items():
            absent = [name for name, pixels in zip(names, counts.sum(0), strict=True) if not pixels]
            if absent:
                text = f"{split} has no pixel of {_count(absent, 'class', 'classes')}"
                findings.append(Finding("absent", False, text, absent, ABSENT_ADVICE))
        smooth = [self.short(f.sample.mask) for f in everything if f.mask.smooth > SMOOTH]
        if smooth:
            text = (
                f"{_count(smooth, 'mask')} whose edges pass through intermediate values, "
                "as after anti-aliasing or resizing"
            )
            findings.append(Finding("smooth", False, text, smooth, SMOOTH_ADVICE))
        return findings

    def nothing_to_learn(
        self, facts: list[PairFacts], counts: np.ndarray, data: DataSet
    ) -> list[Finding]:
        """Find training masks of one class or none; counts are (images, classes) pixels."""
        present = [name for name, pixels in zip(data.classes, counts.sum(0), strict=True) if pixels]
        if len(present) > 1:
            return []
        text = (
            f"all training pixels are {present[0]}"
            if present
            else "no training pixel has a class: all are ignored"
        )
        values = sorted(set().union(*(fact.mask.values for fact in facts)))
        contents = f"; the masks hold {shorten(values, 8)}" if values else ""
        if ignored := sum(fact.mask.values.get(data.lb_ignore, 0) for fact in facts):
            share = ignored / (ignored + counts.sum())
            contents += f", and {data.lb_ignore} ({share:.0%} of their pixels) is ignored"
        advice = "check that data.classes and data.label_map match the mask values"
        held = count_values_held(facts, data.masks)
        remedy = remedy_of(read_values(held, data.classes, data.masks), held, data.masks)
        return [Finding("ignored", True, text + contents, [], advice, **remedy)]

    def copies(self, splits: dict[str, list[Sample]]) -> list[Finding]:
        """Find images in two splits by their files' bytes: quick, but blind to re-encoding."""
        images = {split: [sample.image for sample in pairs] for split, pairs in splits.items()}
        return self._leaks(images, same_bytes(images))

    def duplicates(self, facts: Facts) -> list[Finding]:
        """Find equal and nearly equal images, within and across splits, by their pixels."""
        digests = {f.sample.image: f.image.digest for f in _all(facts)}
        groups = groups_by(digests)
        images = {split: [fact.sample.image for fact in pairs] for split, pairs in facts.items()}
        split_of = _split_of(images)

        def crosses(group: list[Path]) -> bool:
            return len({split_of[path] for path in group}) > 1

        within = [group for group in groups if not crosses(group)]
        findings = self._leaks(images, [group for group in groups if crosses(group)])
        if within:
            places = [" = ".join(map(self.short, group)) for group in within]
            text = f"the same image more than once in a split, {_count(within, 'time')}"
            fix = {"exclude": [self.short(path) for group in within for path in group[1:]]}
            findings.append(Finding("duplicate", False, text, places, "", fix))
        hashes = {f.sample.image: f.image.dhash for f in _all(facts)}
        near = [(a, b) for a, b in near_pairs(hashes) if digests[a] != digests[b]]
        across = [(a, b) for a, b in near if split_of[a] != split_of[b]]
        inside = [(a, b) for a, b in near if split_of[a] == split_of[b]]
        for pairs, where in ((across, "across splits"), (inside, "within a split")):
            if pairs:
                text = f"{_count(pairs, 'pair')} of nearly the same images {where}"
                alike = defaultdict(list)
                for a, b in pairs:
                    alike[self.short(a)].append(self.short(b))
                places = [f"{name} ~ {', '.join(others)}" for name, others in alike.items()]
                findings.append(Finding("near", False, text, places, NEAR_ADVICE))
        return findings

    def _leaks(self, images: dict[str, list[Path]], groups: list[list[Path]]) -> list[Finding]:
        if not groups:
            return []
        split_of = _split_of(images)
        spare = set()
        for group in groups:  # exclude from train: a held-out split should stay as it is
            held_out = min({split_of[path] for path in group} - {"train"})
            spare |= {self.short(path) for path in group if split_of[path] != held_out}
        places = [" = ".join(map(self.short, group)) for group in groups]
        text = f"the same content in two splits, {_count(groups, 'time')}"
        emptied = [
            split
            for split, paths in images.items()
            if paths and spare.issuperset(map(self.short, paths))
        ]
        if emptied:
            advice = f"all images of {emptied[0]} are in another split; give it others"
            return [Finding("leak", True, text, places, advice)]
        return [Finding("leak", True, text, places, "", {"exclude": sorted(spare)})]

    def dark(self, facts: Facts, config: DataConfig) -> list[Finding]:
        """Find decoded 16-bit images that use only the lower part of their range."""
        read = [fact.image for fact in _all(facts) if fact.image.digest]
        deep = [image for image in read if image.deep]
        highest = max((image.highest for image in deep), default=DARK)
        if highest >= DARK or config.value_range:
            return []
        text = (
            f"{_count(deep, '16-bit image')} with no value above {256 * highest + 255}: too dark "
            "to keep their detail in 8 bits"
        )
        if len(deep) < len(read):
            advice = "others have 8 bits, and one data.value_range can't fit both: convert one kind"
            return [Finding("range", False, text, [], advice)]
        # a power of two, as of 10- or 12-bit cameras, rather than the brightest pixel so far
        fix = {"value_range": [0, 256 * (1 << highest.bit_length()) - 1]}
        return [Finding("range", False, text, [], "", fix)]


def unknown_of(fact: PairFacts, masks: MaskReader) -> tuple[dict[int, int], dict[int, int]]:
    """Return the pixels of the mask's unknown values, and of its unknown colours (codes)."""
    values = by_index(fact, masks)
    ids = masks.ids(np.array(list(values), np.int64), fact.mask.nodata)
    unknown = {
        v: count for (v, count), id_ in zip(values.items(), ids, strict=True) if id_ == UNKNOWN
    }
    codes = np.array(list(fact.mask.colours), np.int64)
    lacks = masks.palette_indices(codes) < 0
    lacking = codes[lacks].tolist() if masks.other == UNKNOWN or not masks.palette else []
    return unknown, {c: fact.mask.colours[c] for c in lacking}


def by_index(fact: PairFacts, masks: MaskReader) -> dict[int, int]:
    """Return pixels by grey value, and by the palette's index of a known colour."""
    counts = Counter(fact.mask.values)
    indices = masks.palette_indices(np.array(list(fact.mask.colours), np.int64)).tolist()
    for index, count in zip(indices, fact.mask.colours.values(), strict=True):
        if index >= 0:
            counts[index] += count
    return counts


def count_class_pixels(fact: PairFacts, masks: MaskReader) -> np.ndarray:
    """Return (C,) the pixels of each class in a mask; unknown values are left out."""
    counted = by_index(fact, masks)
    pixels = np.zeros(masks.num_classes, np.int64)
    ids = masks.ids(np.array(list(counted), np.int64), fact.mask.nodata).tolist()
    rest = sum(fact.mask.values.values()) + sum(fact.mask.colours.values()) - sum(counted.values())
    for class_id, count in zip([*ids, masks.other], [*counted.values(), rest], strict=True):
        if class_id not in (UNKNOWN, masks.lb_ignore):
            pixels[class_id] += count
    return pixels


def _are_stray(unknown: Counter[int], places: list[str], facts: Facts) -> bool:
    """Return whether so few pixels of few masks have unknown values that these are slips."""
    pixels = sum(fact.mask.size[0] * fact.mask.size[1] for fact in _all(facts))
    few = len(places) <= STRAY_MASKS * len(_all(facts))
    return few and unknown.total() <= STRAY_PIXELS * pixels


def _all(facts: Facts) -> list[PairFacts]:
    return [fact for split in facts.values() for fact in split]


def _split_of(images: dict[str, list[Path]]) -> dict[Path, str]:
    return {path: split for split, paths in images.items() for path in paths}


def _count(items: list, noun: str, plural: str = "") -> str:
    return f"{len(items)} {noun if len(items) == 1 else plural or noun + 's'}"
