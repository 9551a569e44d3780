"""Evidence for the table that names the classes: the masks must hold what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from segtrain.console import Note
from segtrain.data.data_set import DataSet, DataSource
from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.checks import Facts, by_index, unknown_of
from segtrain.data.inspection.named_values import MOST_ADDED, read_values, remedy_of
from segtrain.data.inspection.palettes import find_colours
from segtrain.data.layouts.label_maps import DRAWN
from segtrain.data.layouts.published import PUBLISHED
from segtrain.data.masks import colour_counts, decode_colour
from segtrain.errors import shorten


def describe_class_source(source: DataSource) -> Note:
    """Return the note on the number of classes and on what names them."""
    count, name = len(source.merged.classes or ()), source.class_source.name
    if source.config.classes:
        name = "the demo" if source.config.path == "demo" else "data.classes"
    layout = "the annotations" if source.format in DRAWN else "the names of folders and files"
    return Note(f"classes: {count}, by {name or layout}")


def weigh_class_source(
    source: DataSource,
    data_set: DataSet,
    facts: Facts,
    by_image: Mapping[str, np.ndarray],
    findings: list[Finding],
) -> list[Finding]:
    """Return the findings with those about a table of classes that the masks contradict.

    Values and colours that the user's table lacks may be classes: ignoring them is but one choice.
    A published table that leaves most classes empty, or most pixels ignored, must be confirmed.
    `by_image` has each mask's pixels of each class, by split.
    """
    origin = source.class_source
    hard = [fact for split in facts.values() for fact in split if not fact.mask.lossy]
    if not hard or not origin.unconfirmed and origin.left_out is None:
        return findings
    values, colours, used = Counter[int](), Counter[int](), Counter[int]()
    unnamed = set(origin.left_out or ()) - source.config.label_map.keys()
    odd_values, odd_colours = list[str](), list[str]()
    for fact in hard:
        unknown, lacking = unknown_of(fact, data_set.masks)
        used.update(held := by_index(fact, data_set.masks))
        values.update(unknown)
        colours.update(lacking)
        odd_values += [str(fact.sample.mask)] * bool(unknown or not unnamed.isdisjoint(held))
        odd_colours += [str(fact.sample.mask)] * bool(lacking)
    if origin.unconfirmed:
        counts = sum(split.sum(0) for split in by_image.values())
        findings = _weigh_published(source, np.asarray(counts), used, values, findings)
        return _offer_colours(facts, findings) if colours else findings
    smooth = any(finding.kind == "smooth" and finding.error for finding in findings)
    if source.config.classes or smooth:  # values beyond them are findings as for any masks
        values, colours = Counter(), Counter()
    else:
        findings = [finding for finding in findings if finding.kind not in ("value", "colour")]
    values.update({value: used[value] for value in unnamed if used[value]})
    names = f"{origin.name} names {shorten(data_set.classes, 4)}, but the masks hold"
    if values:
        text = f"{names} values that are none of them: {shorten(sorted(values), MOST_ADDED)}"
        choices = read_values(used, data_set.classes, data_set.masks, values)
        remedy = remedy_of(choices, used, data_set.masks)
        findings.append(Finding("table", True, text, odd_values, **remedy))
    if colours:
        text = f"{names} colours that it lacks: {shorten(colour_counts(colours), MOST_ADDED)}"
        added = [list(decode_colour(code)) for code, _ in colours.most_common()]
        choices = _choose_colours(data_set, added)
        advice = f"name the colour of each class with data.palette, in the order of {origin.name}"
        advice = "" if choices else advice
        findings.append(Finding("table", True, text, odd_colours, advice, {}, choices))
    return findings


def _weigh_published(
    source: DataSource, counts: np.ndarray, used: Counter, unknown: Counter, findings: list[Finding]
) -> list[Finding]:
    """Return the findings with one if a published table does not fit; see weigh_class_source.

    `counts` are the pixels of each class, `used` those of each mask value.
    """
    total, absent = used.total(), int((counts == 0).sum())
    ignored = total - int(counts.sum()) - unknown.total()
    name = PUBLISHED[source.format]
    wrong = []
    # many colours that agree are evidence enough: a few frames need not show all classes
    if 2 * absent > len(counts) and not (source.format == "camvid-rgb" and used):
        wrong.append(f"{absent} of its {len(counts)} classes are in no mask")
    if 2 * ignored > total:
        wrong.append(f"{ignored / total:.0%} of the pixels would be ignored")
    owns = _own_classes(source, used)
    if not wrong:
        ignore = Choice("no classes", {"label_map": dict.fromkeys(sorted(unknown), "ignore")})
        return [
            replace(finding, fix={}, choices=(ignore, *owns))
            if finding.kind == "value"
            else finding
            for finding in findings
        ]
    findings = [finding for finding in findings if finding.kind != "value"]
    text = f"the folders are those of {name}, but {' and '.join(wrong)}"
    if used:
        text += f"; the masks hold the values {shorten(sorted(used), MOST_ADDED)}"
    choices = (Choice(f"it is {name}", {"format": source.format}), *owns)
    return [*findings, Finding("published", True, text, choices=choices)]


def _offer_colours(facts: Facts, findings: list[Finding]) -> list[Finding]:
    """Return the findings whose one about a published table also offers the masks' colours.

    Those that the table lacks are then no finding of their own: it does not fit.
    """
    if not any(finding.kind == "published" for finding in findings):
        return findings
    found = find_colours([fact for split in facts.values() for fact in split])
    ways = [c for f in found for c in (*f.choices, Choice("", f.fix)) if "palette" in c.fix]
    meaning = "the classes are others, by colour; rename them"
    own = tuple(
        Choice(f"{meaning}; {way.meaning}" if way.meaning else meaning, way.fix) for way in ways
    )
    offered = []
    for finding in findings:
        if finding.kind == "published":
            by_value = any(fact.mask.palette for split in facts.values() for fact in split)
            finding = replace(finding, choices=finding.choices[: None if by_value else 1] + own)
        if finding.kind != "colour" or not own:
            offered.append(finding)
    return offered


def _own_classes(source: DataSource, used: Counter) -> tuple[Choice, ...]:
    """Return the readings of mask values as classes of their own, of two or more.

    The ignored value is a class where hardly another is left, and may be one beside spread values.
    """
    every = sorted(value for value in used if value != -1)
    valid = [value for value in every if value != source.merged.lb_ignore]
    readings = [valid] * (len(valid) > 1)
    if valid != every and len(every) > 1 and valid != list(range(len(valid))) or len(valid) < 2:
        readings.append(every)
    meaning = "the classes are others, by mask value; rename them"
    known = source.merged.label_map
    choices = []
    for values in readings if len(every) > 1 else ():
        label_map = {v: i for i, v in enumerate(values) if known.get(v, v) != i or v != i}
        fix: dict[str, Any] = {"label_map": label_map} if label_map else {}
        fix["classes"] = [str(value) for value in values]
        of_all = f"{meaning} ({len(values)} of them)" if len(readings) > 1 else meaning
        choices.append(Choice(of_all, fix))
    return tuple(choices)


def _choose_colours(data: DataSet, colours: list[list[int]]) -> tuple[Choice, ...]:
    """Return the choices for the few colours that the user's table lacks."""
    palette = [list(colour) for colour in data.masks.palette or ()]
    if not palette or len(colours) > MOST_ADDED:
        return ()
    start = len(palette)
    names = ["background" if not any(c) else "colour " + " ".join(map(str, c)) for c in colours]
    names = [f"{name} (2)" if name in data.classes else name for name in names]
    added = {start + i: len(data.classes) + i for i in range(len(colours))}
    palette = palette + colours
    return (
        Choice(
            "more classes",
            {"palette": palette, "classes": [*data.classes, *names], "label_map": added},
        ),
        Choice("no classes", {"palette": palette, "label_map": dict.fromkeys(added, "ignore")}),
    )
