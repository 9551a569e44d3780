"""Classes of a data set: named, or inferred from all masks unless they may mean several things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from segtrain.console import Note
from segtrain.data.data_set import DataSource
from segtrain.data.findings import Finding
from segtrain.data.inspection.class_evidence import describe_class_source
from segtrain.data.inspection.conventions import (
    find_composed,
    find_conventions,
    find_instances,
    find_void_apart,
    list_values,
)
from segtrain.data.inspection.exchanged import find_photos
from segtrain.data.inspection.infer_classes import (
    ClassesUnclear,
    find_num_classes,
    find_soft_colours,
)
from segtrain.data.inspection.nodata import Nodata
from segtrain.data.inspection.palettes import (
    check_palettes,
    find_colours,
    find_grey_among_colours,
    merge_rare_indices,
)
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.masks import SMOOTH
from segtrain.errors import shorten

RARE_MASKS = 0.2  # largest share of the masks with a value that may be a slip


@dataclass(frozen=True)
class ResolvedClasses:
    """Class names, or findings of what stands in the way of them.

    Both are empty if no mask could be read, which is a finding of another kind.
    """

    names: list[str] = field(default_factory=list)
    notes: tuple[Note, ...] = ()
    findings: list[Finding] = field(default_factory=list)


def resolve_classes(source: DataSource, facts: list[PairFacts], nodata: Nodata) -> ResolvedClasses:
    """Return the classes that config or layout name, or those of the ids in the masks.

    None where the masks are photos or may mean several things: choosing comes first.
    """
    unclear = find_photos(source, facts) or find_ambiguities(source, facts, nodata)
    if source.merged.classes:
        names = [] if unclear else source.merged.classes
        return ResolvedClasses(names, (describe_class_source(source),), unclear)
    return ResolvedClasses(findings=unclear) if unclear else infer_classes(source, facts, nodata)


def find_ambiguities(source: DataSource, facts: list[PairFacts], nodata: Nodata) -> list[Finding]:
    """Find what masks may mean in several ways: palettes, nodata, conventions, instances.

    Only the first kind that is found: the others are clear once that is.
    """
    merged, named = source.merged, source.merged.classes
    if merged.palette_by is None:
        findings = check_palettes(facts, merged.palette, named)
        if not findings and merged.palette:
            findings = find_grey_among_colours(facts, merged.palette)
        if findings:
            return findings
    findings = nodata.find_ambiguous() or find_composed(list_values(facts, nodata), merged)
    if findings or (named and not source.config.classes):  # the layout says what values mean
        return findings
    for value in nodata.untagged:
        findings = find_void_apart(list_values(facts, nodata, value), merged, value)
        if findings:
            return findings
    values = list_values(facts, nodata)
    findings = find_conventions(values, merged) or find_instances(values, merged)
    return findings or nodata.find_background()


def infer_classes(source: DataSource, facts: list[PairFacts], nodata: Nodata) -> ResolvedClasses:
    """Infer the classes from the masks of all splits, for a source that names none."""
    lossless = [fact for fact in facts if not fact.mask.lossy]
    if 0 < len(lossless) < len(facts):  # ids that the lossy ones can't have, to be left out
        inferred = infer_classes(source, lossless, nodata)
        if inferred.names:
            return inferred
    values: Counter = Counter()
    for fact in facts:
        ignored = nodata.of(fact)
        values.update({v: n for v, n in fact.mask.values.items() if v not in ignored})
    if any(fact.mask.colours for fact in facts):
        if not source.merged.palette:
            return ResolvedClasses(findings=find_soft_colours(facts) or find_colours(facts))
        # each colour may be a class: a rare one need not occur in the masks
        values.update(dict.fromkeys(range(len(source.merged.palette)), 1))
    if not values:
        return ResolvedClasses()
    label_map, lb_ignore = source.merged.label_map, source.merged.lb_ignore
    try:
        masks = () if source.merged.palette else [fact.mask for fact in facts]
        count = find_num_classes(values, label_map, lb_ignore, masks)
    except ClassesUnclear as error:
        places = list_rare_values(facts, values)
        if error.finding.kind != "classes":
            soft = [fact for fact in facts if fact.mask.lossy or fact.mask.smooth > SMOOTH]
            places = [str(f.sample.mask) for f in sorted(soft, key=lambda f: not f.mask.lossy)]
        finding = merge_rare_indices(replace(error.finding, places=places), facts)
        return ResolvedClasses(findings=[finding])
    unused = [v for v in sorted(values) if label_map.get(v, v) in ("ignore", lb_ignore)]
    text = f"classes: ids 0..{count - 1} found in the masks"
    note = Note(text + "".join(f", {value} ignored" for value in unused))
    return ResolvedClasses([str(i) for i in range(count)], (note,))


def list_rare_values(facts: list[PairFacts], values: Collection[int]) -> list[str]:
    """Return the masks with values that few masks have, and these: they may be slips."""
    files = Counter(value for fact in facts for value in fact.mask.values)
    rare = {value for value in values if files[value] <= RARE_MASKS * len(facts)}
    found = [(fact, sorted(rare & fact.mask.values.keys())) for fact in facts]
    return [
        f"{fact.sample.mask} has value {shorten(f'{v} ({fact.mask.values[v]} px)' for v in odd)}"
        for fact, odd in found
        if odd
    ]
