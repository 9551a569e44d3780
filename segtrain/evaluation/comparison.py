"""Differences between runs on one split, and which of them are beyond noise."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.config.loading import compare_configs, load_config
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.metrics.bootstrap import RESAMPLES, sum_by_group
from segtrain.metrics.paired_bootstrap import (
    Difference,
    GroupScores,
    score_group,
    subtract_scores,
)
from segtrain.render.comparison_page import decimals, span
from segtrain.runs.folder import CONFIG, ENVIRONMENT

SEED = "train.seed"
LONGEST_NAME = 40  # of a contender, made from its config
FEW = 20  # images, or groups of them, below which the bootstrap's intervals come out too narrow


@dataclass(frozen=True)
class Report:
    """What eval left of one run on one split."""

    run: Path  # as it was given
    counts: dict[str, np.ndarray]  # image: int64 (3,C) of tp, fp, fn
    groups: dict[str, str]  # image: the group it is drawn with
    classes: list[str]
    config: Config | None  # None for a folder that only holds an evaluation
    environment: dict[str, Any]

    @property
    def seed(self) -> int | None:
        return self.config.train.seed if self.config else None

    @property
    def folder(self) -> str:
        return self.run.resolve().name


def read_report(run: Path, split: str) -> Report:
    """Reads RUN/eval/SPLIT/. Raises UsageError where it is missing, with what writes it."""
    if not run.is_dir():
        raise UsageError(f"{run}: no such folder; name runs, or folders that segtrain eval wrote")
    folder = run / "eval" / split
    again = f"segtrain eval {shlex.quote(str(run))}"
    again += f" --split {shlex.quote(split)}" if split != "val" else ""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        classes = [c["name"] for c in metrics["classes"]]
        with open(folder / "per_image.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        counts = {row["image"]: counts_in(row, classes) for row in rows}
        groups = {row["image"]: row["group"] for row in rows}
    except FileNotFoundError as error:
        raise UsageError(
            f"{run}: not scored on {split}: {error.filename} is missing; do: {again}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder}: not what this segtrain's eval writes ({type(error).__name__}: {error}); "
            f"do: {again}"
        ) from error
    if len(counts) < len(rows) or not rows:
        raise SegtrainError(f"{folder / 'per_image.csv'}: no images, or one twice; do: {again}")
    config = load_config(run / CONFIG) if (run / CONFIG).is_file() else None
    started = run / ENVIRONMENT
    environment = json.loads(started.read_text(encoding="utf-8")) if started.is_file() else {}
    return Report(run, counts, groups, classes, config, environment)


def counts_in(row: dict[str, str], classes: list[str]) -> np.ndarray:
    """int64 (3,C) of a row of per_image.csv."""
    return np.array(
        [[int(row[f"{kind}/{name}"]) for name in classes] for kind in ("tp", "fp", "fn")]
    )


def refuse_other_data(report: Report, reference: Report) -> None:
    """Raises UsageError, with the first difference, where two reports can't be paired."""
    both = f"{report.run} and {reference.run}"
    if report.classes != reference.classes:
        there, here = (", ".join(each.classes) for each in (report, reference))
        raise UsageError(f"{both} differ in their classes: {there}; and {here}")
    if differing := report.counts.keys() ^ reference.counts.keys():
        image = next(i for i in [*reference.counts, *report.counts] if i in differing)
        having, lacking = (report, reference) if image in report.counts else (reference, report)
        raise UsageError(
            f"{both} were scored on different images: {image} is in {having.run}, not in "
            f"{lacking.run} ({len(differing)} such in all); evaluate both on one data set"
        )
    for image, counts in reference.counts.items():
        # tp + fn: the pixels of each class in the truth
        there, here = (c[0] + c[2] for c in (report.counts[image], counts))
        if wrong := np.flatnonzero(there != here).tolist():
            raise UsageError(
                f"{both} were scored against different masks: {image} has {there[wrong[0]]} and "
                f"{here[wrong[0]]} pixels of {reference.classes[wrong[0]]}; evaluate both on one "
                "data set"
            )
        if report.groups[image] != reference.groups[image]:
            raise UsageError(
                f"{both} were scored with different groups (eval.group_by): {image} is of "
                f"{report.groups[image]!r} and of {reference.groups[image]!r}"
            )


def describe(reports: list[Report], split: str) -> dict[str, Any]:
    """All that the page says, for machines too."""
    images, classes = list(reports[0].counts), reports[0].classes
    groups = [reports[0].groups[image] for image in images]
    contenders = contenders_of(reports)
    names = names_of(contenders)
    measured = [
        score_group(
            [sum_by_group(np.stack([r.counts[i] for i in images]), groups) for r in contender]
        )
        for contender in contenders
    ]
    found = [subtract_scores(one, measured[0]) for one in measured[1:]]
    differing = [
        difference_row(d, name, names[0], classes, (measured[0], m))
        for d, name, m in zip(found, names[1:], measured[1:], strict=True)
    ]
    facts = {
        "split": split,
        "images": len(images),
        "groups": len(set(groups)),
        "resamples": RESAMPLES,
        "classes": classes,
    }
    return {
        "headline": headline(differing),
        **facts,
        "contenders": [
            contender_row(name, contender, m, classes)
            for name, contender, m in zip(names, contenders, measured, strict=True)
        ],
        "differences": differing,
        "notes": notes(names, contenders, facts),
        "configs": config_rows(contenders),
        "runs": [
            run_row(name, report) for name, c in zip(names, contenders, strict=True) for report in c
        ],
    }


def contenders_of(reports: list[Report]) -> list[list[Report]]:
    """Runs that differ in nothing but their seed belong together.

    Unless all of them do: then it is seeds that are to be compared.
    """
    found: list[list[Report]] = []
    for report in reports:
        for contender in found:
            if only_seed_differs(contender, report):
                contender.append(report)
                break
        else:
            found.append([report])
    return found if len(found) > 1 else [[report] for report in reports]


def only_seed_differs(contender: list[Report], report: Report) -> bool:
    """A seed that is there already is another run of the same, so another contender."""
    first = contender[0].config
    if first is None or report.config is None or report.seed in [r.seed for r in contender]:
        return False
    return compare_configs(first, report.config).keys() == {SEED}


def varying(contenders: list[list[Report]]) -> list[str]:
    """Keys of the config that are not the same for all that have one; the seed only by itself."""
    configs = [c[0].config for c in contenders if c[0].config]
    keys = dict.fromkeys(key for config in configs for key in compare_configs(configs[0], config))
    seeds = keys if all(len(contender) == 1 for contender in contenders) else ()
    return [key for key in keys if key != SEED] or list(seeds)


def names_of(contenders: list[list[Report]]) -> list[str]:
    """What differs between the configs where that is short, else the folder; all different."""
    keys, folders = varying(contenders), [c[0].folder for c in contenders]
    names = [
        made_name(c[0].config, keys) or folder
        for c, folder in zip(contenders, folders, strict=True)
    ]
    for others in (folders, [str(c[0].run) for c in contenders]):
        names = [
            o if names.count(name) > 1 else name for name, o in zip(names, others, strict=True)
        ]
    return names


def made_name(config: Config | None, keys: list[str]) -> str:
    """'ohem+dice' or 'ohem, lr=0.01' by the one or two keys; '' where those make no name."""
    if config is None or not 1 <= len(keys) <= 2:
        return ""
    loss_first = sorted(keys, key=lambda key: key != "loss.expression")
    name = ", ".join(
        text if key == "loss.expression" else f"{key.partition('.')[2]}={text}"
        for key, text in ((key, value_text(config, key)) for key in loss_first)
    )
    return name if len(name) <= LONGEST_NAME else ""


def value_text(config: Config, key: str) -> str:
    section, name = key.split(".")
    value = getattr(getattr(config, section), name)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def contender_row(
    name: str, contender: list[Report], measured: GroupScores, classes: list[str]
) -> dict[str, Any]:
    scores, intervals = plain(measured.scores), measured.intervals
    extremes = zip(plain(measured.by_run.min(0)), plain(measured.by_run.max(0)), strict=True)
    ranges = [list(ends) if None not in ends else None for ends in extremes]
    return {
        "name": name,
        "runs": [str(report.run) for report in contender],
        "seeds": [report.seed for report in contender],
        "miou": scores[0],
        "miou_ci": intervals[0],
        "miou_range": ranges[0],  # lowest and highest seed
        "classes": [
            {"name": c, "iou": iou, "iou_ci": ends, "iou_range": reach}
            for c, iou, ends, reach in zip(
                classes, scores[1:], intervals[1:], ranges[1:], strict=True
            )
        ],
    }


def difference_row(
    found: Difference,
    name: str,
    against: str,
    classes: list[str],
    pair: tuple[GroupScores, GroupScores],
) -> dict[str, Any]:
    scores = plain(found.scores)
    by_class = [
        {"name": c, "iou": iou, "iou_ci": ends, "beyond_noise": beyond}
        for c, iou, ends, beyond in zip(
            classes, scores[1:], found.intervals[1:], found.beyond_noise[1:], strict=True
        )
    ]
    return {
        "name": name,
        "against": against,
        "miou": scores[0],
        "miou_ci": found.intervals[0],
        "beyond_noise": found.beyond_noise[0],
        "sentence": sentence(found, name, against, pair),
        "about_classes": about_classes(name, against, by_class),
        "classes": by_class,
    }


def plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def sentence(
    found: Difference, name: str, against: str, pair: tuple[GroupScores, GroupScores]
) -> str:
    """What a difference in mIoU is worth, in words."""
    score, ends = found.scores[0], found.intervals[0]
    if ends is None:
        signed = decimals(score, "+")
        return f"{name} less {against}: {signed} mIoU; what of it is chance can't be told."
    if not found.excludes_0[0]:
        return f"{name} and {against}: no difference beyond noise ({span(ends)})."
    where, size = "above" if score > 0 else "below", decimals(abs(score))
    which = f"{name} is {where} {against} by {size} mIoU (95 % interval {span(ends)})"
    if not found.seeds_overlap[0]:
        return f"{which}: more than the choice of images explains."
    reference, one = (span([m.by_run[:, 0].min(), m.by_run[:, 0].max()]) for m in pair)
    return (
        f"{which}, but seeds alone differ by as much ({name} {one}, {against} {reference}): "
        "not called beyond noise."
    )


def about_classes(name: str, against: str, classes: list[dict[str, Any]]) -> str:
    beyond = sorted((c for c in classes if c["beyond_noise"]), key=lambda c: -c["iou"])
    if not beyond:
        return f"{name} and {against}: no class differs beyond noise."
    listed = ", ".join(f"{c['name']} {decimals(c['iou'], '+')}" for c in beyond)
    return f"{name} against {against}, classes beyond noise: {listed}."


def headline(found: list[dict[str, Any]]) -> str:
    if len(found) == 1:
        return found[0]["sentence"]
    against = found[0]["against"]
    beyond = sorted((d for d in found if d["beyond_noise"]), key=lambda d: -d["miou"])
    if not beyond:
        return f"None of the {len(found)} differs from {against} beyond noise."
    listed = ", ".join(f"{d['name']} {decimals(d['miou'], '+')}" for d in beyond)
    others = [d["name"] for d in found if not d["beyond_noise"]]
    rest = f" Within noise: {', '.join(others)}." if others else ""
    return f"Beyond noise against {against}: {listed} mIoU.{rest}"


def notes(names: list[str], contenders: list[list[Report]], facts: dict[str, Any]) -> list[str]:
    """What the intervals don't say."""
    said = []
    classes, others = len(facts["classes"]), len(contenders) - 1
    if alone := [
        name for name, contender in zip(names, contenders, strict=True) if len(contender) == 1
    ]:
        whose = "each" if len(alone) == len(names) else f"for {shorten(alone)}"
        said.append(
            f"One training {whose}: how much another seed would change is not in the intervals."
        )
    drawn = "groups of images" if facts["groups"] < facts["images"] else "images"
    if facts["groups"] == 1:
        said.append("All is one image, or one group of images: no intervals.")
    elif facts["groups"] < FEW:
        said.append(
            f"With {facts['groups']} {drawn} there is little to draw from: intervals come out "
            f"too narrow below {FEW}."
        )
    said.append(
        f"Among {classes} classes and {others} comparison{'s' * (others > 1)}, about one in twenty "
        f"intervals misses 0 by chance: {classes * others / 20:.1f} of {classes * others}."
    )
    return said


def config_rows(contenders: list[list[Report]]) -> list[dict[str, Any]]:
    """Each field that differs, with a text for each contender; None for one without config."""
    configs = [contender[0].config for contender in contenders]
    return [
        {"key": key, "values": [config and value_text(config, key) for config in configs]}
        for key in varying(contenders)
    ]


def run_row(name: str, report: Report) -> dict[str, Any]:
    command = report.environment.get("command")
    return {
        "name": name,
        "run": str(report.run),
        "seed": report.seed,
        "command": shlex.join(["segtrain", *command[1:]]) if command else None,
        "commit": report.environment.get("git_commit"),
        "segtrain": report.environment.get("segtrain"),
        "started": report.environment.get("started"),
    }
