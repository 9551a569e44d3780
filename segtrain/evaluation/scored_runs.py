"""Scores that `segtrain eval` wrote for a run, read back for a comparison."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from segtrain.config import Config
from segtrain.config.loading import adopt_older_defaults, load_config
from segtrain.errors import SegtrainError, UsageError, first_line, shorten, translate_errors
from segtrain.evaluation.score_record import SCORED, ScoreRecord, find_outdated, read_record
from segtrain.files.locks import lock_path
from segtrain.files.tables import read_csv
from segtrain.models.exported import hash_content, is_exported, refuse_pt2
from segtrain.runs.folder import BEST, CONFIG, ENVIRONMENT

SCORES = "metrics.json"


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
    truths: dict[str, str]  # of each image: a checksum of its mask; empty in older reports
    record: ScoreRecord | None  # None in older reports
    outdated: str  # why these are not the run's scores of today, or ''

    @property
    def seed(self) -> int | None:
        """The seed of the training, where the config is known."""
        return self.config.train.seed if self.config else None

    @property
    def folder(self) -> str:
        """The name of the run's folder."""
        path = self.path.resolve()
        return f"{path.parents[1].name} {path.name}" if path.parent.name == "eval" else path.name


def find_scores(path: Path, split: str) -> Path:
    """Return a run's folder of scores of a split, or the path where it is such a folder itself.

    A run that has no scores of its own may have one other evaluation of the split. Those of an
    exported file are beside it, among the other evaluations of its folder.
    """
    if is_exported(path) and path.is_file():
        return _find_exported(path, split)
    own, others = path / "eval" / split, list_others(path, split)
    if (path / SCORES).is_file():
        return path
    return others[0] if len(others) == 1 and not (own / SCORES).is_file() else own


def _find_exported(path: Path, split: str) -> Path:
    """Return the folder of an exported file's scores. Raise UsageError where it has none."""
    weights = hash_content(path)
    for folder in list_others(path.parent, split):
        with suppress(OSError, ValueError):  # damaged ones are of no use
            metrics = json.loads((folder / SCORES).read_text(encoding="utf-8"))
            if metrics[SCORED]["weights"] == weights:
                return folder
    raise UsageError(
        f"{path}: not scored on {split} as it is now; run: segtrain eval {shlex.quote(str(path))}"
        + (f" --split {shlex.quote(split)}" if split != "val" else "")
    )


def list_others(path: Path, split: str) -> list[Path]:
    """Return a run's folders of scores of other weights, data or settings than its own."""
    return [file.parent for file in sorted(path.glob(f"eval/{escape(split)}-{8 * '?'}/{SCORES}"))]


def read_scored_run(path: Path, split: str) -> ScoredRun:
    """Read RUN/eval/SPLIT/, or the folder of another evaluation that `path` is.

    Raises UsageError where it is missing, with the command for it.
    """
    refuse_pt2(path)
    if not path.is_dir() and not (is_exported(path) and path.is_file()):
        raise UsageError(
            f"{path}: no such folder; name runs, exported files or folders that segtrain eval wrote"
        )
    folder = find_scores(path, split)
    run = path
    if folder == path and path.absolute().parent.name == "eval":
        run = path.parents[1] if len(path.parents) > 1 else path.absolute().parents[1]
    command = f"segtrain eval {shlex.quote(str(run))}"
    command += f" --split {shlex.quote(split)}" if split != "val" else ""

    def explain(error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            others = list_others(path, split)
            also = f"; or name one of {shorten(others)}" if others else ""
            return (
                f"{path}: not scored on {split}: {error.filename} is missing; run: {command}{also}"
            )
        return (
            f"{folder}: damaged, or of another version of segtrain eval ({type(error).__name__}: "
            f"{first_line(error)}); run: {command}"
        )

    with translate_errors(explain, UsageError), lock_path(folder.parent, wait=True):
        metrics = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        record = read_record(metrics)
        classes = [row["name"] for row in metrics["classes"]]
        if not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("metrics.json names no classes")
        rows = read_csv(folder / "per_image.csv")
        counts = {row["image"]: parse_counts(row, classes) for row in rows}
        groups = {row["image"]: row["group"] for row in rows}
        truths = {row["image"]: row["truth"] for row in rows if row.get("truth")}
    if len(counts) < len(rows) or not any(each.any() for each in counts.values()):
        raise SegtrainError(
            f"{folder / 'per_image.csv'}: no pixels, or an image twice; run: {command}"
        )
    outdated, config = "", None
    if folder.name == (record.split if record else split):  # else of other weights or settings
        outdated = find_outdated(run, metrics, split)
        if not outdated and (run / CONFIG).is_file():
            config, _ = adopt_older_defaults(load_config(run / CONFIG))
    elif folder != path and record and (run / BEST).is_file():  # else a lone checkpoint's folder
        outdated = f"no scores of its own, these are of {shorten(record.changes)} ({folder})"
    start, outdated = read_start(run / ENVIRONMENT), outdated and f"{outdated}; do: {command}"
    return ScoredRun(path, counts, groups, classes, config, start, truths, record, outdated)


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
        checksums = {each.truths[image] for each in (run, reference) if image in each.truths}
        if len(checksums) > 1:
            raise UsageError(
                f"{both} were scored against different masks: {image} has as many pixels of each "
                "class, at other places; evaluate both on one data set"
            )
        if run.groups[image] != reference.groups[image]:
            raise UsageError(
                f"{both} were scored with different groups (data.group_by): {image} is in "
                f"{run.groups[image]!r} and in {reference.groups[image]!r}"
            )
