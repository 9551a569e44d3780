"""Run groups: runs that differ only in their seed, and names that tell the groups apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.config.loading import compare_configs
from segtrain.evaluation.score_record import list_settings
from segtrain.evaluation.scored_runs import ScoredRun
from segtrain.metrics.bootstrap import sum_by_group
from segtrain.metrics.paired_bootstrap import GroupScores, score_group

SEED = "train.seed"
MAX_NAME = 40  # characters of a name made from the config


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed, compared as one."""

    name: str
    runs: list[ScoredRun]
    scores: GroupScores

    @property
    def config(self) -> Config | None:
        """The config of the first run; None for a folder that only holds an evaluation."""
        return self.runs[0].config


def build_run_groups(runs: list[ScoredRun]) -> list[RunGroup]:
    """Return the groups of the runs, named and scored, in order of their first run.

    The runs must have been scored on the same images: all are resampled alike.
    """
    images = list(runs[0].counts)
    drawn_with = [runs[0].groups[image] for image in images]
    partition = partition_runs(runs)
    groups = []
    for name, members in zip(name_groups(partition), partition, strict=True):
        counts = (np.stack([run.counts[image] for image in images]) for run in members)
        sums = [sum_by_group(each, drawn_with) for each in counts]
        groups.append(RunGroup(name, members, score_group(sums)))
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


def list_varying_keys(groups: list[list[ScoredRun]]) -> list[str]:
    """Return config keys in which the groups differ; the seed only where nothing else does."""
    configs = [group[0].config for group in groups if group[0].config]
    keys = dict.fromkeys(key for config in configs for key in compare_configs(configs[0], config))
    seeds = keys if all(len(group) == 1 for group in groups) else ()
    return [key for key in keys if key != SEED] or list(seeds)


def name_groups(groups: list[list[ScoredRun]]) -> list[str]:
    """Return unique names: the values that differ where they are short, else folders or paths."""
    keys, folders = list_varying_keys(groups), [group[0].folder for group in groups]
    names = [
        name_by_values(group[0].config, keys) or folder
        for group, folder in zip(groups, folders, strict=True)
    ]
    for fallbacks in (folders, [str(group[0].path) for group in groups]):
        names = [
            fallback if names.count(name) > 1 else name
            for name, fallback in zip(names, fallbacks, strict=True)
        ]
    return names


def name_by_values(config: Config | None, keys: list[str]) -> str:
    """Return 'ohem+dice' or 'ohem, lr=0.01' by one or two keys; '' where they give no name."""
    if config is None or not 1 <= len(keys) <= 2:
        return ""
    # losses are compared most, and need no key to be understood
    loss_first = sorted(keys, key=lambda key: key != "loss.expression")
    name = ", ".join(
        text if key == "loss.expression" else f"{key.partition('.')[2]}={text}"
        for key, text in ((key, format_value(config, key)) for key in loss_first)
    )
    return name if len(name) <= MAX_NAME else ""


def format_value(config: Config, key: str) -> str:
    """Return the value of a dotted key as text."""
    section, name = key.split(".")
    value = getattr(getattr(config, section), name)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def build_config_rows(groups: list[RunGroup]) -> list[dict[str, Any]]:
    """Return each key that differs, with a text for each group; None for one without config."""
    configs = [group.config for group in groups]
    return [
        {"key": key, "values": [config and format_value(config, key) for config in configs]}
        for key in list_varying_keys([group.runs for group in groups])
    ]
