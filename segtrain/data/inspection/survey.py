"""Survey of a data set: its contents, statistics and problems, from one pass over its files.

inspect_data_set lists all problems, for check; survey_data_set raises on errors, for training;
open_data_set reads no pixel unless classes must be inferred or masks are indexed, for evaluation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import DataConfig
from segtrain.console import Note
from segtrain.data.data_set import DataSet, DataSource, find_data_source
from segtrain.data.findings import MOST_SKIPPED, Finding, raise_errors
from segtrain.data.indexed import is_indexed
from segtrain.data.inspection.checks import Checks, Facts, count_class_pixels
from segtrain.data.inspection.class_evidence import weigh_class_source
from segtrain.data.inspection.exif_evidence import weigh_orientations
from segtrain.data.inspection.ignored import (
    count_ignored,
    note_mostly_ignored,
    note_other_values,
    note_overlaps,
)
from segtrain.data.inspection.named_values import is_soft
from segtrain.data.inspection.nodata import Nodata
from segtrain.data.inspection.palettes import (
    check_palettes,
)
from segtrain.data.inspection.resolve_classes import ResolvedClasses, resolve_classes
from segtrain.data.inspection.scan import PairFacts, Scanner, UnreadablePair
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError

RARE_MASKS = 0.2  # largest share of the masks with a value that may be a slip
FEW_MASKS = 8  # whose headers show that a data set may have indexed masks
DEEP_READ = 8  # 16-bit images that the quick survey decodes: it must stay quick before training


@dataclass(frozen=True)
class Inspection:
    """Contents and problems of a data set, whose classes may still be unknown."""

    source: DataSource
    facts: Facts  # of the pairs that can be read, by split
    findings: list[Finding]
    notes: tuple[Note, ...]  # what the readers drop, change or infer

    @property
    def config(self) -> DataConfig:
        """The data section as given, with its path, and its classes if they are known."""
        return self.source.config


@dataclass(frozen=True)
class Survey(Inspection):
    """An inspection of a data set whose classes are known.

    Training can start if no finding is an error. `data_set` holds the readable pairs of the splits
    that were read, and all pairs of the others.
    """

    data_set: DataSet
    by_image: dict[str, np.ndarray]  # (images, classes): each mask's pixels of each class, by split
    ignored: dict[str, tuple[int, int]]  # pixels that are ignored, and all, by split

    @property
    def config(self) -> DataConfig:
        return self.data_set.config

    @property
    def sizes(self) -> dict[str, list[tuple[int, int]]]:
        """Sizes (height, width) of the upright images, by split."""
        return {split: [fact.image.size for fact in facts] for split, facts in self.facts.items()}

    @property
    def mask_digests(self) -> dict[str, str]:
        """Digest of the values of all masks, in order, by split; the same on any machine."""
        return {
            split: hashlib.sha256(repr([fact.mask.checksum for fact in facts]).encode()).hexdigest()
            for split, facts in self.facts.items()
        }

    @property
    def class_pixels(self) -> tuple[list[int], list[int]]:
        """Pixels of each class in the training masks, and of all masks that contain the class."""
        counts = self.by_image["train"]
        where_present = ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
        return counts.sum(0).tolist(), where_present.tolist()

    @property
    def median_size(self) -> tuple[int, int]:
        """Median height and median width of the training images."""
        height, width = np.median([fact.image.size for fact in self.facts["train"]], axis=0)
        return int(height), int(width)


def open_data_set(config: DataConfig, channels: int = 3, split: str = "") -> DataSet:
    """Open a data set for evaluation of a split, unreadable pairs included.

    If config or layout name the classes, only indexed masks of the split are read; else they are
    inferred from the training masks, as for training. Raises UsageError and SegtrainError if that
    fails, or if files form no pair.
    """
    source = find_data_source(config, channels)
    if not source.merged.classes:
        raise_errors(source.findings)
        return source.with_classes(_survey_source(source).data_set.classes)
    return open_named(source, split)


def open_named(source: DataSource, split: str) -> DataSet:
    """Open a data set whose config or layout names the classes; see `open_data_set`."""
    raise_errors(source.findings)
    raise_errors(_compare_palettes(source, source.splits.get(split, [])))
    return source.with_classes(source.merged.classes or [])


def read_classes(source: DataSource) -> tuple[list[PairFacts], ResolvedClasses]:
    """Read the masks of all splits; return their facts, and the classes as `check` resolves them.

    Pairs that can't be read are left out.
    """
    scan = make_scanner(source, False)
    scanned = (fact for samples in source.splits.values() for fact in scan(samples))
    facts = [fact for fact in scanned if isinstance(fact, PairFacts)]
    return facts, resolve_classes(source, facts, Nodata(facts, source.merged))


def _compare_palettes(source: DataSource, samples: list[Sample]) -> list[Finding]:
    """Find indexed masks that contradict each other; all are read if one of a few is indexed."""
    few = [sample.mask for sample in samples[:: -(-len(samples) // FEW_MASKS) or 1]]
    indexed = any(isinstance(mask, Path) and is_indexed(mask) for mask in few)
    merged = source.merged
    if not indexed or merged.palette_by is not None:
        return []
    scan = Scanner(source.root, source.images, None, False, merged.palette, source.mask_options)
    facts = [fact for fact in scan(samples) if isinstance(fact, PairFacts)]
    return check_palettes(facts, merged.palette, merged.classes)


def survey_data_set(config: DataConfig, channels: int = 3) -> Survey:
    """Survey train and val before training. Raises SegtrainError listing every error found."""
    return _survey_source(find_data_source(config, channels))


def _survey_source(source: DataSource) -> Survey:
    inspection = inspect_source(source)
    raise_errors(inspection.findings)
    if not isinstance(inspection, Survey):
        raise SegtrainError(
            f"{source.config.path}: no training mask could be read, so its classes are unknown; "
            "fix the masks, or name data.classes"
        )
    pixels = inspection.by_image["train"].sum(0)
    shares = ", ".join(
        f"{name} {share:.2%}"
        for name, share in zip(inspection.data_set.classes, pixels / pixels.sum(), strict=True)
    )
    ignored, total = inspection.ignored["train"]
    void = f"; {ignored / total:.2%} of all are ignored" if ignored else ""
    notes = [Note(str(finding), "note") for finding in inspection.findings]
    notes = [*inspection.notes, *notes, Note(f"training pixels: {shares}{void}")]
    return replace(inspection, notes=tuple(notes))


def inspect_data_set(config: DataConfig, channels: int = 3, full: bool = False) -> Inspection:
    """Find and read a data set; return a Survey if its classes are known.

    If `full`, every pixel of every split is read; else the masks and image headers of train and
    val. Raises UsageError and SegtrainError only if there is no data set to read.
    """
    return inspect_source(find_data_source(config, channels), full)


def inspect_source(source: DataSource, full: bool = False) -> Inspection:
    """Read the files of a data set; see `inspect_data_set`."""
    if "train" not in source.splits:
        others = ", ".join(source.splits) or "no other"
        raise SegtrainError(
            f"{source.config.path}: no train split; found {others} ({source.layout})"
        )
    checks = Checks(source.root if source.root.is_dir() else source.root.parent)
    scan = make_scanner(source, full)
    facts, findings = read_pairs_of_splits(source, scan, checks)
    findings += checks.duplicates(facts) if full else checks.copies(source.splits)
    findings += checks.dark(facts if full else read_some_deep(scan, facts), source.config)
    everything = [fact for of_split in facts.values() for fact in of_split]
    if not source.merged.classes:  # they may be in any mask
        rest = [scan(samples) for split, samples in source.splits.items() if split not in facts]
        everything += [fact for of in rest for fact in of if isinstance(fact, PairFacts)]

    nodata = Nodata(everything, source.merged)
    resolved = resolve_classes(source, everything, nodata)
    findings += map(checks.localise, resolved.findings)
    notes = (*list_changes(facts, source.images.channels), *nodata.note(), *resolved.notes)
    if not resolved.names:
        fix = next((finding.fix for finding in resolved.findings), {})
        if "classes" in fix:  # what else is wrong once that is fixed: both are reported together
            fixed = source.with_fields(fix).with_classes(fix["classes"])
            findings += checks.values(facts, fixed.masks, fixed.classes)
        return Inspection(source, facts, findings, notes)

    data_set = source.with_classes(resolved.names)
    masks, names = data_set.masks, data_set.classes
    findings += checks.soft(read_stored(scan, facts), masks, names)
    by_image = {split: class_matrix(of_split, masks) for split, of_split in facts.items()}
    findings += checks.values(facts, masks, names)
    findings = weigh_class_source(source, data_set, facts, by_image, findings)
    findings += checks.contents(facts, by_image, names) if full else []
    if not any(finding.error for finding in findings):  # an error may be why nothing is left
        findings += checks.nothing_to_learn(facts["train"], by_image["train"], data_set)
    ignored = {split: count_ignored(facts[split], by_image[split], masks) for split in facts}
    findings += note_mostly_ignored(ignored, masks)
    findings += map(checks.localise, note_overlaps(everything))
    usable = {split: [fact.sample for fact in of_split] for split, of_split in facts.items()}
    data_set = replace(data_set, splits=source.splits | usable)
    notes = (*notes, *note_other_values(facts, masks))
    return Survey(source, facts, findings, notes, data_set, by_image, ignored)


def make_scanner(source: DataSource, full: bool) -> Scanner:
    """Return the reader of facts; it snaps lossy masks if the user asked for the nearest class."""
    merged, config = source.merged, source.config
    # the nearest class is known only where the classes are
    names = merged.classes if config.allow_lossy_masks else None
    masks = source.with_classes(names).masks if names else None
    return Scanner(source.root, source.images, masks, full, merged.palette, source.mask_options)


def read_pairs_of_splits(
    source: DataSource, scan: Scanner, checks: Checks
) -> tuple[Facts, list[Finding]]:
    """Return the facts of the pairs that can be read, and findings about the others.

    A full scan reads all splits, any other train and val.
    """
    scanned = {
        split: scan(samples)
        for split, samples in source.splits.items()
        if scan.full or split in ("train", "val")
    }
    scanned, turned = weigh_orientations(scanned, source.config)
    facts, unreadable = drop_unreadable(checks, scanned, source.config)
    return facts, [*source.findings, *map(checks.localise, turned), *unreadable]


def drop_unreadable(
    checks: Checks, scanned: dict[str, list[PairFacts | UnreadablePair]], config: DataConfig
) -> tuple[Facts, list[Finding]]:
    """Return the facts of pairs that can be read, and findings about the others.

    With data.on_error: skip, these are no errors as long as at most the share MOST_SKIPPED of a
    split is dropped.
    """
    readable: Facts = {}
    findings = []
    for split, pairs in scanned.items():
        bad = checks.unreadable(pairs)
        good = [fact for fact in pairs if isinstance(fact, PairFacts) and fact.sizes_agree]
        if bad and config.on_error == "skip":
            few = len(pairs) - len(good) <= MOST_SKIPPED * len(pairs)
            why = (
                "skipped"
                if few
                else f"more of {split} than data.on_error: skip allows, {MOST_SKIPPED:.0%}"
            )
            kind: dict[str, Any] = {"kind": "skipped", "error": False} if few else {}
            bad = [replace(finding, text=f"{why}: {finding.text}", **kind) for finding in bad]
        readable[split] = good
        findings += bad
    return readable, findings


def read_some_deep(scan: Scanner, facts: Facts) -> Facts:
    """Read the pixels of a few 16-bit training images, for the quick survey.

    Those that can't be decoded are left out: training reports them by data.on_error.
    """
    deep = [fact.sample for fact in facts["train"] if fact.image.deep]
    if not deep:
        return {}
    scan_fully = Scanner(scan.root, scan.images, scan.masks, True, scan.palette, scan.options)
    scanned = scan_fully(deep[:: -(-len(deep) // DEEP_READ)])  # spread: neighbours look alike
    return {"train": [fact for fact in scanned if isinstance(fact, PairFacts)]}


def read_stored(scan: Scanner, facts: Facts) -> Facts:
    """Return the facts with those of lossy and smooth masks as they are stored, not snapped."""
    if not scan.masks:
        return facts
    scan_stored = Scanner(scan.root, scan.images, None, False, scan.palette, scan.options)
    stored = {}
    for split, of_split in facts.items():
        again = scan_stored([fact.sample for fact in of_split if is_soft(fact)])
        stored[split] = [fact for fact in of_split if not is_soft(fact)]
        stored[split] += [fact for fact in again if isinstance(fact, PairFacts)]
    return stored


def class_matrix(facts: list[PairFacts], masks: MaskReader) -> np.ndarray:
    """Return the pixels of each class in each mask: int64 (images, classes)."""
    counts = [count_class_pixels(fact, masks) for fact in facts]
    return np.array(counts, np.int64).reshape(-1, masks.num_classes)


def list_changes(facts: Facts, channels: int) -> list[Note]:
    """List what the readers drop or change by design: alpha channels, pixels of lossy masks."""
    everything = [fact for split in facts.values() for fact in split]
    alpha = sum(fact.image.alpha for fact in everything)
    snapped = [fact.mask.snapped for fact in everything if fact.mask.snapped]
    texts = []
    if alpha and channels in (1, 3):
        texts.append(f"images: {alpha} have an alpha channel, which is dropped")
    if snapped:
        texts.append(
            f"masks: {sum(snapped):,} pixels of {len(snapped)} lossy or smooth masks are taken as "
            "the nearest class (data.allow_lossy_masks)"
        )
    return [Note(text) for text in texts]
