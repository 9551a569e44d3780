"""Run groups: runs that differ only in their seed, and names that tell the groups apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from segtrain.config.differences import SEED, format_field, label_values, list_differences
from segtrain.config.loading import compare_configs
from segtrain.evaluation.score_record import list_settings
from segtrain.evaluation.scored_runs import ScoredRun
from segtrain.metrics.bootstrap import sum_by_group
from segtrain.metrics.paired_bootstrap import GroupScores, score_group

MAX_KEYS, MAX_NAME = 4, 60  # fields and characters of a name made from the config


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed, compared as one."""

    name: str
    runs: list[ScoredRun]
    scores: GroupScores
    fields: dict[str, Any] | None  # its values of those in which groups differ; None: unknown


def build_run_groups(runs: list[ScoredRun]) -> list[RunGroup]:
    """Return the groups of the runs, named and scored, in order of their first run.

    The runs must have been scored on the same images: all are resampled alike.
    """
    images = list(runs[0].counts)
    drawn_with = [runs[0].groups[image] for image in images]
    partition = partition_runs(runs)
    fields = list_fields_of_groups(partition)
    groups = []
    for name, members, values in zip(
        name_groups(partition, fields), partition, fields, strict=True
    ):
        counts = (np.stack([run.counts[image] for image in images]) for run in members)
        sums = [sum_by_group(each, drawn_with) for each in counts]
        groups.append(RunGroup(name, members, score_group(sums), values))
    return groups


def partition_runs(runs: list[ScoredRun]) -> list[list[ScoredRun]]:
    """Return the runs by group; a group each where all would be in one: then seeds are compared."""
    groups: list[list[ScoredRun]] = []
    for run in runs:
        group = next((group for group in groups if differs_in_seed_only(run, group)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups if len(groups) > 1 else [[run] for run in runs]


def differs_in_seed_only(run: ScoredRun, group: list[ScoredRun]) -> bool:
    """Return whether the run has the group's config and a seed that the group lacks.

    With a seed that the group has, it repeats a run of it, and so is a group of its own, as is one
    that was scored with other settings.
    """
    first, (one, other) = group[0].config, (run.record, group[0].record)
    if one and other and list_settings(one, other):
        return False
    if first is None or run.config is None or run.seed in [other.seed for other in group]:
        return False
    return compare_configs(first, run.config).keys() == {SEED}


def list_fields_of_groups(groups: list[list[ScoredRun]]) -> list[dict[str, Any] | None]:
    """Return each group's values of the fields that differ, by dotted key; None without a config.

    The seed only where nothing else differs.
    """
    differing = list_differences([group[0].config for group in groups if group[0].config])
    seeds = differing.pop(SEED, None)
    if not differing and seeds and all(len(group) == 1 for group in groups):
        differing = {SEED: seeds}
    columns = zip(*differing.values(), strict=True) if differing else repeat(())
    return [
        dict(zip(differing, next(columns), strict=True)) if group[0].config else None
        for group in groups
    ]


def name_groups(groups: list[list[ScoredRun]], fields: list[dict[str, Any] | None]) -> list[str]:
    """Return unique names: the values that differ where they are short, else folders or paths."""
    folders = [name_by_folder(group) for group in groups]
    names = [
        name_by_values(values or {}) or folder
        for values, folder in zip(fields, folders, strict=True)
    ]
    for fallbacks in (folders, [str(group[0].path) for group in groups]):
        names = [
            fallback if names.count(name) > 1 else name
            for name, fallback in zip(names, fallbacks, strict=True)
        ]
    return names


def name_by_folder(group: list[ScoredRun]) -> str:
    """Return the folder of a group's first run, without the seed where there are several runs."""
    name = group[0].folder
    return name.removesuffix(f"-seed{group[0].seed}") if len(group) > 1 else name


def name_by_values(values: dict[str, Any]) -> str:
    """Return 'ohem+dice' or 'ohem, lr=0.01'; '' for too many fields, or too long a name."""
    name = label_values(values) if len(values) <= MAX_KEYS else ""
    return name if len(name) <= MAX_NAME else ""


def build_config_rows(groups: list[RunGroup]) -> list[dict[str, Any]]:
    """Return each key that differs, with a text for each group; None for one without config."""
    known = [group.fields for group in groups if group.fields]
    return [
        {
            "key": key,
            "values": [group.fields and format_field(key, group.fields[key]) for group in groups],
        }
        for key in (known[0] if known else ())
    ]
