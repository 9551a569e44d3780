"""A data section -> all that is known of the data set, and all that is wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segtrain.config import Data
from segtrain.configfile import revised
from segtrain.data.faults import Facts, Faults, class_pixels
from segtrain.data.findings import Finding, raise_errors
from segtrain.data.formats import Found, Sample, find_pairs
from segtrain.data.guess import ClassesUnclear, find_num_classes
from segtrain.data.locate import image_reader, locate, mask_reader, root_of
from segtrain.data.masks import class_palette
from segtrain.data.scan import PairFacts, Scanner
from segtrain.errors import SegtrainError, UsageError

MOST_SKIPPED = 0.01  # share of a split's pairs that data.on_error: skip leaves out


@dataclass(frozen=True)
class Survey:
    """What a data set holds. Where no finding is an error, training can start."""

    data: Data  # path, format, classes, palette and label map filled in, as far as they are known
    root: Path
    found: Found
    facts: Facts  # of the pairs that can be read, by split
    findings: list[Finding]
    by_image: dict[str, np.ndarray]  # (images, classes): each mask's pixels of each class, by split
    summary: list[str]

    @property
    def splits(self) -> dict[str, list[Sample]]:
        """The pairs to use: those surveyed, of the other splits those found."""
        read = {split: [fact.sample for fact in facts] for split, facts in self.facts.items()}
        return self.found.splits | read

    @property
    def sizes(self) -> dict[str, list[tuple[int, int]]]:
        """(height, width) of the upright images of the splits surveyed."""
        return {split: [fact.image.size for fact in facts] for split, facts in self.facts.items()}

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """A colour a class."""
        return class_palette(len(self.data.classes), self.data.palette, self.data.label_map)

    @property
    def class_pixels(self) -> tuple[list[int], list[int]]:
        """Of the training masks: each class's pixels, and all pixels of the masks that have it."""
        counts = self.by_image["train"]
        where_present = ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
        return counts.sum(0).tolist(), where_present.tolist()

    @property
    def median_size(self) -> tuple[int, int]:
        """(height, width): the median of each over the training images."""
        height, width = np.median([fact.image.size for fact in self.facts["train"]], axis=0)
        return int(height), int(width)


def survey(data: Data, channels: int = 3, full: bool = False) -> Survey:
    """Finds and reads a data set.

    Full, every pixel of every split is read; else the masks and image headers of train and val.
    Raises UsageError and SegtrainError only where there is nothing to survey.
    """
    data, where = locate(data)
    root = root_of(data)
    found = find_pairs(data, root)
    if "train" not in found.splits:
        others = ", ".join(found.splits) or "no other"
        raise SegtrainError(f"{data.path}: no train split; found {others} ({found.layout})")
    data = fill_in(data, found)
    summary = [where, f"pairs: {_counts(found)}; {found.layout}"]
    names = [s for s in found.splits if full or s in ("train", "val")]
    facts = read_facts(data, root, channels, full, {s: found.splits[s] for s in names})
    faults = Faults(root if root.is_dir() else root.parent)
    facts, findings = drop_unreadable(faults, facts, data)
    findings = found.findings + findings
    if not data.allow_lossy_masks:
        findings += faults.lossy(facts)
    findings += faults.duplicates(facts) if full else faults.copies(facts)
    if any(fact.image.alpha for split in facts.values() for fact in split) and channels == 3:
        count = sum(fact.image.alpha for split in facts.values() for fact in split)
        summary.append(f"images: {count} have an alpha channel, which is dropped")

    data, line, unclear = find_classes(faults, data, facts["train"])
    summary += line
    findings += unclear
    by_image = {}
    if data.classes:
        masks = mask_reader(data)
        by_image = {
            split: np.array([class_pixels(fact, masks) for fact in facts[split]], np.int64).reshape(
                -1, masks.num_classes
            )
            for split in facts
        }
        findings += faults.values(facts, masks)
        findings += faults.contents(facts, by_image, data.classes) if full else []
        if not by_image["train"].sum() and not any(f.error for f in findings):
            text = "no training pixel has a class: all are ignored"
            findings.append(Finding("ignored", True, text))
    for unclear in (f for f in findings if f.kind == "classes" and f.mend):
        # what else is wrong once that is mended: both in one go
        mended = revised(data, unclear.mend, "data")
        findings = findings + faults.values(facts, mask_reader(mended))
    findings += faults.dark(facts) if data.value_range is None else []
    return Survey(data, root, found, facts, findings, by_image, summary)


def prepare(data: Data, channels: int = 3) -> Survey:
    """The quick survey before training. Raises SegtrainError with all that training can't bear."""
    found = survey(data, channels)
    raise_errors(found.findings)
    pixels = found.by_image["train"].sum(0)
    shares = ", ".join(
        f"{name} {share:.2%}" for name, share in zip(found.data.classes, pixels / pixels.sum())
    )
    notes = [f"note: {finding}" for finding in found.findings]
    return replace(found, summary=found.summary + notes + [f"training pixels: {shares}"])


def fill_in(data: Data, found: Found) -> Data:
    """The data section with what the layout knows, where the config says nothing."""
    known = {"format": found.format if not data.splits else data.format}
    if data.classes is None and found.classes:
        known["classes"] = found.classes
    if not data.label_map:
        known["label_map"] = found.label_map
    if data.palette is None and found.palette:
        known["palette"] = found.palette
    return revised(data, known, f"data.format {found.format}")


def read_facts(
    data: Data, root: Path, channels: int, full: bool, splits: dict[str, list[Sample]]
) -> Facts:
    if data.allow_lossy_masks and not data.classes:
        raise UsageError("data.allow_lossy_masks needs data.classes: to which is a value nearest?")
    images = image_reader(data, channels)
    snapping = mask_reader(data) if data.allow_lossy_masks else None
    scanner = Scanner(root, images, snapping, full, data.palette)
    return {split: scanner(samples) for split, samples in splits.items()}


def drop_unreadable(faults: Faults, facts: Facts, data: Data) -> tuple[Facts, list[Finding]]:
    """The facts of pairs that can be read, and the findings of the others.

    With data.on_error skip these are notes, up to MOST_SKIPPED of a split.
    """
    kept, findings = {}, []
    for split, pairs in facts.items():
        bad = faults.unreadable(pairs)
        kept[split] = [fact for fact in pairs if faults.is_usable(fact)]
        skipped = len(pairs) - len(kept[split])
        if bad and data.on_error == "skip" and skipped <= MOST_SKIPPED * len(pairs):
            bad = [replace(f, kind="skipped", error=False, text=f"skipped: {f.text}") for f in bad]
        findings += bad
    return kept, findings


def find_classes(
    faults: Faults, data: Data, train: list[PairFacts]
) -> tuple[Data, list[str], list[Finding]]:
    """The data section with its classes, a line that says which, and a finding where unclear."""
    if data.classes:
        return data, [], []
    values: Counter = Counter()
    for fact in train:
        values.update(fact.mask.values)
    if any(fact.mask.colours for fact in train):
        if not data.palette:
            return data, [], faults.without_palette(train)
        values.update(dict.fromkeys(range(len(data.palette)), 1))
    if not values:
        return data, [], []  # no mask could be read, which is a finding already
    try:
        count = find_num_classes(values, data.label_map, data.lb_ignore)
    except ClassesUnclear as error:
        others = ", or ".join(error.ways[bool(error.mend) :])  # the first is what mends
        return data, [], [Finding("classes", True, error.text, [], others, error.mend)]
    nothing = ("ignore", data.lb_ignore)
    unused = [value for value in sorted(values) if data.label_map.get(value, value) in nothing]
    ignored = "".join(f", {value} ignored" for value in unused)
    line = f"classes: ids 0..{count - 1} found in the training masks{ignored}"
    return revised(data, {"classes": [str(i) for i in range(count)]}, "data"), [line], []


def _counts(found: Found) -> str:
    return ", ".join(f"{len(samples)} {name}" for name, samples in found.splits.items())
