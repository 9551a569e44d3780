"""Facts of pairs to findings: crashes, wrong labels and oddities to come."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.data_set import DataSet
from segtrain.data.findings import Finding
from segtrain.data.inspection.duplicates import groups_by, near_pairs, same_bytes
from segtrain.data.inspection.scan import PairFacts, UnreadablePair
from segtrain.data.masks import LOSSY, SMOOTH, UNKNOWN, MaskReader, colour_counts, colour_of
from segtrain.data.sample import Sample
from segtrain.errors import shorten

Facts = dict[str, list[PairFacts]]  # by split
Scanned = PairFacts | UnreadablePair
EMPTY_FIX = "as meant, or name them in data.exclude"
ABSENT_FIX = "divide the images otherwise: data.splits, or another data.split_seed"
NEAR_FIX = "frames of one scene belong in one split"
MOST_COLOURS = 64  # that may be classes
DARK = 64  # deep images whose highest value stays below this quarter of the range


class Faults:
    """Finds faults in facts; names files as they are called below the data set's folder."""

    def __init__(self, root: Path):
        self.root = root

    def short(self, text: object) -> str:
        return str(text).replace(f"{self.root}{os.sep}", "")

    def leave_out(self, bad: Sequence[Scanned], of: Sequence[Scanned]) -> dict[str, list[str]]:
        """The line that leaves pairs out; none where nothing would be left."""
        names = sorted({self.short(fact.sample.image) for fact in bad})
        return {"exclude": names} if len(bad) < len(of) else {}

    def unreadable(self, scanned: Sequence[Scanned]) -> list[Finding]:
        """Find damaged files, and masks that don't have their image's size."""
        bad = [pair for pair in scanned if isinstance(pair, UnreadablePair)]
        sizes = [f for f in scanned if isinstance(f, PairFacts) and not f.sizes_agree]
        reasons = [reason for pair in bad for reason in pair.reasons]
        found = []
        if bad:
            text = f"{_count(reasons, 'file')} cannot be read"
            places = [self.short(reason) for reason in reasons]
            fix = self.leave_out(bad, scanned)
            found.append(Finding("unreadable", True, text, places, "", fix))
        if sizes:
            places = [self._sizes(fact) for fact in sizes]
            text = f"sizes differ in {_count(sizes, 'pair')}"
            fix = self.leave_out(sizes, scanned)
            found.append(Finding("size", True, text, places, "", fix))
        return found

    def _sizes(self, fact: PairFacts) -> str:
        (height, width), (mask_height, mask_width) = fact.image.size, fact.mask.size
        turned = fact.image.turned and (mask_height, mask_width) == (width, height)
        hint = " (EXIF turns the image; turn the mask likewise)" if turned else ""
        return self.short(
            f"{fact.sample.image} is {width}x{height} (width x height), "
            f"{fact.sample.mask} is {mask_width}x{mask_height}{hint}"
        )

    def lossy(self, facts: Facts, given: DataConfig, classes: list[str] | None) -> list[Finding]:
        """JPEG masks, where nobody allowed them, or where nothing says which class is near."""
        places = [self.short(f.sample.mask) for f in _all(facts) if f.mask.lossy]
        if not places:
            return []
        text, advice = f"{_count(places, 'JPEG mask')}: {LOSSY}", "save masks as PNG"
        if classes:
            fix = {"allow_lossy_masks": True} | ({} if given.classes else {"classes": classes})
            return [Finding("lossy", True, text, places, advice, fix)]
        advice += ", or name data.classes and set data.allow_lossy_masks: true"
        return [Finding("lossy", True, text, places, advice)]

    def values(self, facts: Facts, masks: MaskReader) -> list[Finding]:
        """Grey values and colours that are neither a class nor ignored."""
        unknown, colours = Counter[int](), Counter[int]()
        places: list[str] = []
        smooth = False
        for fact in _all(facts):
            if fact.mask.lossy and not masks.allow_lossy:
                continue  # a finding already: what it holds says nothing of the labels
            grey, coloured = unknown_of(fact, masks)
            unknown.update(grey)
            colours.update(coloured)
            if grey:
                named = shorten(f"{v} ({count} px)" for v, count in sorted(grey.items()))
                places.append(self.short(f"{fact.sample.mask} has value {named}"))
                smooth |= fact.mask.smooth > SMOOTH
            elif coloured:
                named = shorten(colour_counts(coloured))
                places.append(self.short(f"{fact.sample.mask}: {named}"))
        found = []
        if unknown:
            found.append(self._unknown_values(unknown, places, masks, smooth))
        if colours:
            text = (
                f"{len(colours)} colours that data.palette lacks in {_count(places, 'mask')}"
                if masks.palette
                else "RGB masks need data.palette, the colour of each class in id order"
            )
            advice = (
                f"add them to data.palette ({shorten(colour_counts(colours), 8)}), and what is no "
                "class to data.label_map, by its place there: {PLACE: ignore}"
            )
            found.append(Finding("colour", True, text, places, advice))
        return found

    def without_palette(self, facts: list[PairFacts]) -> list[Finding]:
        """Coloured masks where neither classes nor palette are named: each colour may be one."""
        colours = Counter[int]()
        for fact in facts:
            colours.update(fact.mask.colours)
        places = [
            self.short(f"{fact.sample.mask}: {shorten(colour_counts(fact.mask.colours))}")
            for fact in facts
            if fact.mask.colours
        ]
        text = f"RGB masks of {len(colours)} colours need data.palette, each class's in id order"
        if len(colours) > MOST_COLOURS:
            advice = "so many come from lossy or smooth masks: save PNG without anti-aliasing"
            return [Finding("colour", True, text, places, advice)]
        palette = [list(colour_of(c)) for c, _ in colours.most_common()]
        names = ["colour " + " ".join(map(str, colour)) for colour in palette]
        return [Finding("colour", True, text, places, "", {"palette": palette, "classes": names})]

    def _unknown_values(
        self, unknown: Counter, places: list[str], masks: MaskReader, smooth: bool
    ) -> Finding:
        text = (
            f"values that are no class in {_count(places, 'mask')} (classes are "
            f"0..{masks.num_classes - 1} and {masks.lb_ignore} is ignored)"
        )
        if smooth:
            text += "; edges are smooth, as drawing tools and resizing make them"
            advice = "save masks without anti-aliasing and resize them by nearest neighbour"
            return Finding("smooth", True, text, places, advice, {"allow_lossy_masks": True})
        label_map = {value: "ignore" for value in sorted(unknown)}
        return Finding("value", True, text, places, "fix the mask", {"label_map": label_map})

    def contents(
        self, facts: Facts, by_image: dict[str, np.ndarray], names: list[str]
    ) -> list[Finding]:
        """Empty masks, classes that a split lacks, edges that are smooth within the classes."""
        everything = [f for split in facts for f in facts[split]]
        matrix = np.concatenate([by_image[split] for split in facts])
        valid, present = matrix.sum(1), matrix > 0
        void = [self.short(everything[i].sample.mask) for i in np.flatnonzero(valid == 0)]
        only = np.flatnonzero((valid > 0) & (present[:, 1:].sum(1) == 0))
        flat = [self.short(everything[i].sample.mask) for i in only]
        found = []
        if void:
            found.append(
                Finding(
                    "empty", False, f"{_count(void, 'mask')} without a valid pixel", void, EMPTY_FIX
                )
            )
        if flat:
            text = f"{_count(flat, 'mask')} with nothing but {names[0]} (class 0)"
            found.append(Finding("empty", False, text, flat, EMPTY_FIX))
        for split, counts in by_image.items():
            absent = [name for name, pixels in zip(names, counts.sum(0), strict=True) if not pixels]
            if absent:
                text = f"{split} has no pixel of {_count(absent, 'class', 'classes')}"
                found.append(Finding("absent", False, text, absent, ABSENT_FIX))
        smooth = [self.short(f.sample.mask) for f in everything if f.mask.smooth > SMOOTH]
        if smooth:
            text = (
                f"{_count(smooth, 'mask')} whose edges pass through values in between, "
                "as anti-aliasing and resizing make them"
            )
            advice = "save masks without anti-aliasing and resize them by nearest neighbour"
            found.append(Finding("smooth", False, text, smooth, advice))
        return found

    def nothing_to_learn(
        self, facts: list[PairFacts], counts: np.ndarray, data: DataSet
    ) -> list[Finding]:
        """Training masks of one class or none; counts are (images, classes) pixels."""
        present = [name for name, pixels in zip(data.classes, counts.sum(0), strict=True) if pixels]
        if len(present) > 1:
            return []
        text = (
            f"all training pixels are {present[0]}"
            if present
            else "no training pixel has a class: all are ignored"
        )
        values = sorted(set().union(*(fact.mask.values for fact in facts)))
        held = f"; the masks hold {shorten(values, 8)}" if values else ""
        if ignored := sum(fact.mask.values.get(data.lb_ignore, 0) for fact in facts):
            share = ignored / (ignored + counts.sum())
            held += f", and {data.lb_ignore} ({share:.0%} of their pixels) is ignored"
        advice = "do data.classes and data.label_map say what the mask values mean?"
        return [Finding("ignored", True, text + held, [], advice)]

    def copies(self, splits: dict[str, list[Sample]]) -> list[Finding]:
        """The same image in two splits by its file's bytes: quick, and blind to re-encoding."""
        images = {split: [sample.image for sample in of] for split, of in splits.items()}
        return self._leaks(images, same_bytes(images))

    def duplicates(self, facts: Facts) -> list[Finding]:
        """The same and nearly the same image, within and across splits, by their pixels."""
        digests = {f.sample.image: f.image.digest for f in _all(facts)}
        groups = groups_by(digests)
        images = {split: [fact.sample.image for fact in of] for split, of in facts.items()}
        split_of = _split_of(images)

        def crosses(group: list[Path]) -> bool:
            return len({split_of[path] for path in group}) > 1

        within = [group for group in groups if not crosses(group)]
        found = self._leaks(images, [group for group in groups if crosses(group)])
        if within:
            places = [" = ".join(map(self.short, group)) for group in within]
            text = f"the same image more than once in a split, {_count(within, 'time')}"
            fix = {"exclude": [self.short(path) for group in within for path in group[1:]]}
            found.append(Finding("duplicate", False, text, places, "", fix))
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
                found.append(Finding("near", False, text, places, NEAR_FIX))
        return found

    def _leaks(self, images: dict[str, list[Path]], groups: list[list[Path]]) -> list[Finding]:
        if not groups:
            return []
        split_of = _split_of(images)
        spare = set()
        for group in groups:  # train gives way: a held-out split should stay what it was
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
            advice = f"all of {emptied[0]} is in another split: give it images of its own"
            return [Finding("leak", True, text, places, advice)]
        return [Finding("leak", True, text, places, "", {"exclude": sorted(spare)})]

    def dark(self, facts: Facts, config: DataConfig) -> list[Finding]:
        """16-bit images, decoded ones, that use the lower part of their range alone."""
        read = [fact.image for fact in _all(facts) if fact.image.digest]
        deep = [image for image in read if image.deep]
        highest = max((image.highest for image in deep), default=DARK)
        if highest >= DARK or config.value_range:
            return []
        text = f"{_count(deep, '16-bit image')} with no value above {256 * highest + 255}: so dark"
        text = f"{text} that detail is lost"
        if len(deep) < len(read):
            advice = "some images have 8 bits, which no one data.value_range fits: convert these"
            return [Finding("range", False, text, [], advice)]
        fix = {"value_range": [0, 256 * (1 << highest.bit_length()) - 1]}
        return [Finding("range", False, text, [], "", fix)]


def unknown_of(fact: PairFacts, masks: MaskReader) -> tuple[dict[int, int], dict[int, int]]:
    """The mask's values and colours (as codes) that mean nothing, with their pixels."""
    values = by_place(fact, masks)
    ids = masks.ids(np.array(list(values), np.int64))
    unknown = {
        v: count for (v, count), id_ in zip(values.items(), ids, strict=True) if id_ == UNKNOWN
    }
    codes = np.array(list(fact.mask.colours), np.int64)
    lacking = codes[masks.palette_indices(codes) < 0].tolist()
    return unknown, {c: fact.mask.colours[c] for c in lacking}


def by_place(fact: PairFacts, masks: MaskReader) -> dict[int, int]:
    """Pixels by grey value, and by the palette's place of a colour that it has."""
    counts = Counter(fact.mask.values)
    codes = list(fact.mask.colours)
    for place, c in zip(
        masks.palette_indices(np.array(codes, np.int64)).tolist(), codes, strict=True
    ):
        if place >= 0:
            counts[place] += fact.mask.colours[c]
    return counts


def class_pixels(fact: PairFacts, masks: MaskReader) -> np.ndarray:
    """(C,) pixels of each class in a mask whose values all mean something."""
    counted = by_place(fact, masks)
    pixels = np.zeros(masks.num_classes, np.int64)
    ids = masks.ids(np.array(list(counted), np.int64))
    for class_id, count in zip(ids, counted.values(), strict=True):
        if class_id not in (UNKNOWN, masks.lb_ignore):
            pixels[class_id] += count
    return pixels


def _all(facts: Facts) -> list[PairFacts]:
    return [fact for split in facts.values() for fact in split]


def _split_of(images: dict[str, list[Path]]) -> dict[Path, str]:
    return {path: split for split, paths in images.items() for path in paths}


def _count(items: list, noun: str, plural: str = "") -> str:
    return f"{len(items)} {noun if len(items) == 1 else plural or noun + 's'}"
