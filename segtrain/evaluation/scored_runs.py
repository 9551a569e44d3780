"""Scores that `segtrain eval` wrote for a run, read back for a comparison."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from segtrain.config import Config
from segtrain.config.loading import load_config
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.files import read_csv
from segtrain.runs.folder import CONFIG, ENVIRONMENT


class Provenance(BaseModel):
    """Facts of environment.json that a comparison repeats."""

    command: list[str] = []
    git_commit: str | None = None
    segtrain: str | None = None
    started: str | None = None


@dataclass(frozen=True)
class ScoredRun:
    """The scores of one run on one split."""

    path: Path  # as the user gave it
    counts: dict[str, np.ndarray]  # of each image: int64 (3,C) of tp, fp, fn
    groups: dict[str, str]  # of each image: the group that it is drawn with
    classes: list[str]
    config: Config | None  # None for a folder that only holds an evaluation
    start: Provenance

    @property
    def seed(self) -> int | None:
        """The seed of the training, where the config is known."""
        return self.config.train.seed if self.config else None

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        return self.path.resolve().name


def read_scored_run(run: Path, split: str) -> ScoredRun:
    """Read RUN/eval/SPLIT/. Raises UsageError where it is missing, with the command for it."""
    if not run.is_dir():
        raise UsageError(f"{run}: no such folder; name runs, or folders that segtrain eval wrote")
    folder = run / "eval" / split
    command = f"segtrain eval {shlex.quote(str(run))}"
    command += f" --split {shlex.quote(split)}" if split != "val" else ""

    def explain(error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{run}: not scored on {split}: {error.filename} is missing; run: {command}"
        return (
            f"{folder}: damaged, or of another version of segtrain eval ({type(error).__name__}: "
            f"{first_line(error)}); run: {command}"
        )

    with translate_errors(explain, UsageError):
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        classes = [row["name"] for row in metrics["classes"]]
        if not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("metrics.json names no classes")
        rows = read_csv(folder / "per_image.csv")
        counts = {row["image"]: parse_counts(row, classes) for row in rows}
        groups = {row["image"]: row["group"] for row in rows}
    if len(counts) < len(rows) or not any(each.any() for each in counts.values()):
        raise SegtrainError(
            f"{folder / 'per_image.csv'}: no pixels, or an image twice; run: {command}"
        )
    config = load_config(run / CONFIG) if (run / CONFIG).is_file() else None
    return ScoredRun(run, counts, groups, classes, config, read_start(run / ENVIRONMENT))


def read_start(file: Path) -> Provenance:
    """Return the run's start as environment.json has it, an empty one without the file."""
    if not file.is_file():
        return Provenance()
    with translate_errors(
        lambda error: (
            f"{file}: damaged ({type(error).__name__}); restore it, or remove it for a comparison "
            "without this training's command and commit"
        )
    ):
        return Provenance.model_validate_json(file.read_bytes())


def parse_counts(row: dict[str, str], classes: list[str]) -> np.ndarray:
    """Return int64 (3,C) of a row of per_image.csv. Raise where it holds no counts."""
    numbers = [[int(row[f"{kind}/{name}"]) for name in classes] for kind in ("tp", "fp", "fn")]
    counts = np.array(numbers, np.int64)
    if counts.min() < 0:
        raise ValueError("per_image.csv has a negative count")
    return counts


def refuse_other_data(run: ScoredRun, reference: ScoredRun) -> None:
    """Raise UsageError, with the first difference, where two runs can't be paired."""
    both = f"{run.path} and {reference.path}"
    if run.classes != reference.classes:
        there, here = (", ".join(each.classes) for each in (run, reference))
        raise UsageError(f"{both} differ in their classes: {there}; and {here}")
    if differing := run.counts.keys() ^ reference.counts.keys():
        image = next(i for i in [*reference.counts, *run.counts] if i in differing)
        having, lacking = (run, reference) if image in run.counts else (reference, run)
        raise UsageError(
            f"{both} were scored on different images: {image} is in {having.path}, not in "
            f"{lacking.path} ({len(differing)} such in all); evaluate both on one data set"
        )
    for image, counts in reference.counts.items():
        # tp + fn: the pixels of each class in the truth
        there, here = (c[0] + c[2] for c in (run.counts[image], counts))
        if wrong := np.flatnonzero(there != here).tolist():
            c = wrong[0]
            raise UsageError(
                f"{both} were scored against different masks: {image} has {there[c]} and "
                f"{here[c]} pixels of {reference.classes[c]}; evaluate both on one data set"
            )
        if run.groups[image] != reference.groups[image]:
            raise UsageError(
                f"{both} were scored with different groups (data.group_by): {image} is in "
                f"{run.groups[image]!r} and in {reference.groups[image]!r}"
            )
