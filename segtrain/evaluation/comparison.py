"""Differences between run groups on one split, and which of them are beyond noise."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from segtrain.errors import shorten
from segtrain.evaluation.run_groups import RunGroup, build_config_rows, build_run_groups
from segtrain.evaluation.score_record import list_rounding, list_settings
from segtrain.evaluation.scored_runs import ScoredRun
from segtrain.metrics.bootstrap import RESAMPLES
from segtrain.metrics.paired_bootstrap import Difference, subtract_scores
from segtrain.render.comparison_page import FEW_GROUPS, format_interval, format_signed

FEW = 20  # images, or groups of them, below which bootstrap intervals are too narrow


def build_comparison(runs: list[ScoredRun], split: str, failures: dict[str, str]) -> dict[str, Any]:
    """Return the content of comparison.json; the first run's group is the reference.

    The runs must have been scored on the same images (`refuse_other_data`). failures: of runs that
    can't be compared, with the reason.
    """
    classes, groups = runs[0].classes, build_run_groups(runs)
    rows = [build_difference_row(group, groups[0], classes) for group in groups[1:]]
    facts = {
        "split": split,
        "images": len(runs[0].counts),
        "groups": len(set(runs[0].groups.values())),
        "resamples": RESAMPLES,
        "classes": classes,
    }
    return {
        "headline": compose_comparison_headline(rows),
        "outdated": [f"{run.path}: {run.outdated}" for run in runs if run.outdated],
        "warnings": compose_warnings(runs, failures),
        **facts,
        "contenders": [build_group_row(group, classes) for group in groups],
        "differences": rows,
        "notes": compose_caveats(groups, facts),
        "configs": build_config_rows(groups),
        "runs": [build_run_row(group.name, run) for group in groups for run in group.runs],
    }


def build_group_row(group: RunGroup, classes: list[str]) -> dict[str, Any]:
    """Return the scores of a run group: means over its runs, intervals, ranges over its seeds."""
    means, intervals = to_plain(group.scores.scores), group.scores.intervals
    by_run = group.scores.by_run
    extremes = zip(to_plain(by_run.min(0)), to_plain(by_run.max(0)), strict=True)
    ranges = [list(ends) if None not in ends else None for ends in extremes]
    return {
        "name": group.name,
        "fields": group.fields,
        "runs": [str(run.path) for run in group.runs],
        "seeds": [run.seed for run in group.runs],
        "miou": means[0],
        "miou_ci": intervals[0],
        "miou_range": ranges[0],  # lowest and highest seed
        "classes": [
            {"name": name, "iou": iou, "iou_ci": interval, "iou_range": seeds}
            for name, iou, interval, seeds in zip(
                classes, means[1:], intervals[1:], ranges[1:], strict=True
            )
        ],
    }


def build_difference_row(
    group: RunGroup, reference: RunGroup, classes: list[str]
) -> dict[str, Any]:
    """Return the difference of a run group from the reference, as numbers and in sentences."""
    difference = subtract_scores(group.scores, reference.scores)
    conditions = describe_conditions(group, reference)
    scores, beyond_noise = to_plain(difference.scores), difference.beyond_noise
    by_class = [
        {"name": name, "iou": iou, "iou_ci": interval, "beyond_noise": beyond}
        for name, iou, interval, beyond in zip(
            classes, scores[1:], difference.intervals[1:], beyond_noise[1:], strict=True
        )
    ]
    return {
        "name": group.name,
        "against": reference.name,
        "miou": scores[0],
        "miou_ci": difference.intervals[0],
        "beyond_noise": beyond_noise[0],
        "conditions": conditions,
        "sentence": describe_difference(difference, group, reference, conditions),
        "about_classes": describe_classes(group.name, reference.name, by_class),
        "classes": by_class,
    }


def build_run_row(name: str, run: ScoredRun) -> dict[str, Any]:
    """Return where the run of a group comes from."""
    start = run.start
    return {
        "name": name,
        "run": str(run.path),
        "seed": run.seed,
        "command": shlex.join(["segtrain", *start.command[1:]]) if start.command else None,
        "commit": start.git_commit,
        "segtrain": start.segtrain,
        "started": start.started,
        "scored": run.record and run.record.model_dump(mode="json"),
        "facts": run.record.describe() if run.record else {},
    }


def to_plain(values: np.ndarray) -> list[float | None]:
    """Return the values as floats, None for nan: JSON has no nan."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def describe_conditions(group: RunGroup, reference: RunGroup) -> str:
    """Return a sentence on what else than the networks differs, '' where nothing does."""
    old = [each.name for each in (group, reference) if any(run.outdated for run in each.runs)]
    stale = f" See the note on the scores of {' and '.join(old)}." if old else ""
    one, other = group.runs[0].record, reference.runs[0].record
    if one is None or other is None:
        return stale.strip()
    settings = list_settings(one, other)
    listed = ", ".join(f"{key} {here}, not {there}" for key, (here, there) in settings.items())
    if one.weights and one.weights == other.weights:
        same = f"The weights are the same, {group.name} was scored with {listed}."
        return f"{same if listed else 'The weights are the same.'}{stale}"
    if listed:
        apart = f"{group.name} was scored with {listed}: this is not of the networks alone."
        return f"{apart}{stale}"
    return stale.strip()


def describe_difference(
    difference: Difference, group: RunGroup, reference: RunGroup, conditions: str
) -> str:
    """Return sentences on the difference in mIoU, whether it is beyond noise, and conditions."""
    sentence = _describe_noise(difference, group, reference, more=not conditions)
    return f"{sentence} {conditions}".strip()


def _describe_noise(
    difference: Difference, group: RunGroup, reference: RunGroup, more: bool
) -> str:
    score, interval = difference.scores[0], difference.intervals[0]
    if interval is None:
        signed = format_signed(score, "+")
        return (
            f"{group.name} minus {reference.name}: {signed} mIoU; too few images for an interval."
        )
    spread = f"95 % interval {format_interval(interval)}"
    if not difference.excludes_0[0]:
        return f"{group.name} and {reference.name}: no difference beyond noise ({spread})."
    side, size = "above" if score > 0 else "below", format_signed(abs(score))
    statement = f"{group.name} is {side} {reference.name} by {size} mIoU ({spread})"
    if not difference.seeds_overlap[0]:
        return f"{statement}: more than the choice of images explains." if more else f"{statement}."
    ranges = ", ".join(
        f"{each.name} {format_interval([column.min(), column.max()])}"
        for each, column in ((g, g.scores.by_run[:, 0]) for g in (group, reference))
    )
    return f"{statement}, but the scores of their seeds overlap ({ranges}): not beyond noise."


def describe_classes(name: str, reference: str, classes: list[dict[str, Any]]) -> str:
    """Return a sentence on the classes whose difference is beyond noise."""
    beyond = sorted((c for c in classes if c["beyond_noise"]), key=lambda c: -c["iou"])
    if not beyond:
        return f"{name} and {reference}: no class differs beyond noise."
    listed = ", ".join(f"{c['name']} {format_signed(c['iou'], '+')}" for c in beyond)
    return f"{name} minus {reference}, classes beyond noise: {listed}."


def compose_comparison_headline(rows: list[dict[str, Any]]) -> str:
    """Return the result in one or two sentences, from the rows of the differences."""
    if len(rows) == 1:
        return rows[0]["sentence"]
    reference = rows[0]["against"]
    unlike = [row["name"] for row in rows if row["conditions"]]
    alike = f" Not scored alike, see below: {shorten(unlike, FEW_GROUPS)}." if unlike else ""
    beyond = sorted((row for row in rows if row["beyond_noise"]), key=lambda row: -row["miou"])
    if not beyond:
        return f"None of the {len(rows)} others differs from {reference} beyond noise.{alike}"
    apart = "; " if any("," in row["name"] for row in rows) else ", "
    most = FEW_GROUPS if len(rows) <= FEW_GROUPS else 3
    listed = apart.join(f"{row['name']} {format_signed(row['miou'], '+')}" for row in beyond[:most])
    more = f" (+{len(beyond) - most} more)" if len(beyond) > most else ""
    within = [row["name"] for row in rows if not row["beyond_noise"]]
    rest = f" Within noise: {shorten(within, most, apart)}." if within else ""
    return f"Beyond noise, minus {reference}: {listed} mIoU{more}.{rest}{alike}"


def compose_warnings(runs: list[ScoredRun], failures: dict[str, str]) -> list[str]:
    """Return sentences on what was not compared, or not scored in the same way."""
    warnings = []
    if unknown := [run.path for run in runs if run.record is None]:
        warnings.append(
            f"{shorten(unknown)}: scored by an older version, which did not record weights and "
            "settings; segtrain eval records them"
        )
    records = [run.record for run in runs if run.record]
    for run in runs[1:]:
        if run.record and runs[0].record:
            rounding = list_rounding(run.record, runs[0].record)
            listed = ", ".join(f"{key} {one}, not {two}" for key, (one, two) in rounding.items())
            if listed:
                warnings.append(f"{run.path}: scored with {listed}: last digits may differ")
    if len(places := dict.fromkeys(record.data for record in records)) > 1:
        warnings.append(f"the data sets lie in different places: {shorten(places)}")
    if failures:
        warnings.append(f"not compared: {'; '.join(failures.values())}")
    return warnings


def compose_caveats(groups: list[RunGroup], facts: dict[str, Any]) -> list[str]:
    """Return sentences on what the intervals leave out."""
    caveats = []
    classes, others = len(facts["classes"]), len(groups) - 1
    if single := [group.name for group in groups if len(group.runs) == 1]:
        which = "each" if len(single) == len(groups) else f"of {shorten(single)}"
        caveats.append(f"One training {which}: the intervals do not include noise from the seed.")
    drawn = "groups of images" if facts["groups"] < facts["images"] else "images"
    if facts["groups"] == 1:
        caveats.append("There is one image, or one group of images: no intervals.")
    elif facts["groups"] < FEW:
        caveats.append(
            f"There are only {facts['groups']} {drawn}: below {FEW} the intervals are too narrow."
        )
    caveats.append(
        f"With {classes} classes and {others} comparison{'s' * (others > 1)}, about one interval "
        f"in twenty excludes 0 by chance: {classes * others / 20:.1f} of {classes * others}."
    )
    return caveats
