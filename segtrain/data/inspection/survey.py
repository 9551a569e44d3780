"""A data section to all that is known of the data set, and all that is wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.config.loading import revised
from segtrain.data.findings import MOST_SKIPPED, Finding, raise_errors
from segtrain.data.images import image_reader
from segtrain.data.inspection.checks import Facts, Faults, class_pixels
from segtrain.data.inspection.infer_classes import ClassesUnclear, find_num_classes
from segtrain.data.inspection.scan import PairFacts, Scanner, UsableFacts
from segtrain.data.layouts.detect import Found, find_pairs
from segtrain.data.layouts.label_maps import fill_in
from segtrain.data.layouts.locate import locate, root_of
from segtrain.data.masks import MaskReader, class_palette, mask_reader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError

DEEP_READ = 8  # 16-bit images that the quick survey decodes


@dataclass(frozen=True)
class Survey:
    """What a data set holds. Where no finding is an error, training can start."""

    data: DataConfig  # by which the files are read: what the layout knows is filled in
    given: DataConfig  # as the config has it, with the path and the classes known
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
    def classes(self) -> list[str]:
        """Their names, which are known where no finding is an error."""
        assert self.data.classes is not None
        return self.data.classes

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """A colour a class."""
        return class_palette(len(self.classes), self.data.palette, self.data.label_map)

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


def survey(data: DataConfig, channels: int = 3, full: bool = False) -> Survey:
    """Finds and reads a data set.

    Full, every pixel of every split is read; else the masks and image headers of train and val.
    Raises UsageError and SegtrainError only where there is nothing to survey.
    """
    given, where = locate(data)
    root = root_of(given)
    found = find_pairs(given, root)
    if "train" not in found.splits:
        others = ", ".join(found.splits) or "no other"
        raise SegtrainError(f"{given.path}: no train split; found {others} ({found.layout})")
    data, said = fill_in(given, found)
    faults = Faults(root if root.is_dir() else root.parent)
    read = Scanner(
        root,
        image_reader(data, channels),
        mask_reader(data) if data.allow_lossy_masks and data.classes else None,
        full,
        data.palette,
    )
    scanned = {s: read(found.splits[s]) for s in found.splits if full or s in ("train", "val")}
    facts, findings = drop_unreadable(faults, scanned, data)
    findings = found.findings + findings
    findings += faults.duplicates(facts) if full else faults.copies(found.splits)
    findings += faults.dark(facts if full else read_some_deep(read, facts), data)

    data, line, unclear = find_classes(faults, data, facts["train"])
    findings += unclear
    if not read.masks:
        classes = data.classes or next((f.mend.get("classes") for f in unclear), None)
        findings += faults.lossy(facts, given, classes)
    by_image: dict[str, np.ndarray] = {}
    if data.classes:
        masks = mask_reader(data)
        by_image = {split: class_matrix(of_split, masks) for split, of_split in facts.items()}
        findings += faults.values(facts, masks)
        findings += faults.contents(facts, by_image, data.classes) if full else []
        if not any(finding.error for finding in findings):
            findings += faults.nothing_to_learn(facts["train"], by_image["train"], data)
    elif unclear and unclear[0].mend:  # what else is wrong once that is mended: both in one go
        findings += faults.values(facts, mask_reader(revised(data, unclear[0].mend, "data")))
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in found.splits.items())
    summary = [where, f"pairs: {counts}; {found.layout}", *said, *dropped(facts, channels), *line]
    given = given.model_copy(update={"classes": data.classes})
    return Survey(data, given, root, found, facts, findings, by_image, summary)


def read_some_deep(read: Scanner, facts: Facts) -> dict[str, list[PairFacts]]:
    """Facts of the pixels of a few 16-bit images, for the quick survey."""
    deep = [fact.sample for fact in facts["train"] if fact.image.deep]
    fully = Scanner(read.root, read.images, read.masks, True, read.palette)
    return {"train": fully(deep[:: -(-len(deep) // DEEP_READ)])} if deep else {}


def class_matrix(facts: list[UsableFacts], masks: MaskReader) -> np.ndarray:
    """(images, classes) int64: each mask's pixels of each class."""
    counts = [class_pixels(fact, masks) for fact in facts]
    return np.array(counts, np.int64).reshape(-1, masks.num_classes)


def dropped(facts: Facts, channels: int) -> list[str]:
    """What reading leaves out or changes by rule, in lines."""
    everything = [fact for split in facts.values() for fact in split]
    alpha = sum(fact.image.alpha for fact in everything)
    snapped = [fact.mask.snapped for fact in everything if fact.mask.snapped]
    lines = []
    if alpha and channels in (1, 3):
        lines.append(f"images: {alpha} have an alpha channel, which is dropped")
    if snapped:
        lines.append(
            f"masks: {sum(snapped):,} pixels of {len(snapped)} lossy or smooth masks are taken as "
            "the nearest class (data.allow_lossy_masks)"
        )
    return lines


def prepare(data: DataConfig, channels: int = 3) -> Survey:
    """The quick survey before training. Raises SegtrainError with all that training can't bear."""
    found = survey(data, channels)
    raise_errors(found.findings)
    pixels = found.by_image["train"].sum(0)
    shares = ", ".join(
        f"{name} {share:.2%}"
        for name, share in zip(found.classes, pixels / pixels.sum(), strict=True)
    )
    notes = [f"note: {finding}" for finding in found.findings]
    return replace(found, summary=found.summary + notes + [f"training pixels: {shares}"])


def drop_unreadable(
    faults: Faults, facts: dict[str, list[PairFacts]], data: DataConfig
) -> tuple[Facts, list[Finding]]:
    """The facts of pairs that can be read, and the findings of the others.

    With data.on_error skip these are notes, up to MOST_SKIPPED of a split.
    """
    kept, findings = {}, []
    for split, pairs in facts.items():
        bad = faults.unreadable(pairs)
        kept[split] = [fact for fact in pairs if faults.is_usable(fact)]
        if bad and data.on_error == "skip":
            few = len(pairs) - len(kept[split]) <= MOST_SKIPPED * len(pairs)
            why = "skipped" if few else f"more of {split} than data.on_error: skip bears, 1 %"
            kind: dict[str, Any] = {"kind": "skipped", "error": False} if few else {}
            bad = [replace(finding, text=f"{why}: {finding.text}", **kind) for finding in bad]
        findings += bad
    return kept, findings


def find_classes(
    faults: Faults, data: DataConfig, train: list[UsableFacts]
) -> tuple[DataConfig, list[str], list[Finding]]:
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
