"""Jobs of a sweep: a training for each combination of losses, values and seeds, all checked."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from segtrain.commands.requests import (
    FitOptions,
    check_sources,
    check_training,
    read_loss,
    takes_demo_settings,
)
from segtrain.config import Config
from segtrain.config.differences import LOSS, SEED, label_values, list_differences
from segtrain.config.loading import adopt_older_defaults, list_given, load_config
from segtrain.config.sources import read_sources
from segtrain.config.sweep_values import DEFAULT_LOSSES, split_values
from segtrain.console import Note, note_choice, write_notes
from segtrain.data.demo import SETTINGS
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.evaluation.score_record import WITHOUT_EFFECT, has_own_scores
from segtrain.losses.spec import parse_loss
from segtrain.models.names import take_names
from segtrain.runs.folder import CONFIG
from segtrain.runs.sweep_record import (
    find_folder,
    identify_training,
    read_sweep_record,
    refuse_other_base,
)

SCORES = Path("eval/val/metrics.json")  # of a run that has been evaluated
# fields of the data section that leave the images of val and their truth as they are
SAME_TRUTH = WITHOUT_EFFECT["data"] | {"value_range"}
Option = tuple[str, str]  # --loss or --set, and its text


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep; its runs share all but the values of `losses` and `sets`."""

    file: Path | None  # --config
    losses: str | None  # --loss
    sets: list[list[str]]  # for each --set those that it stands for
    data: str | None
    device: str | None

    @property
    def entries(self) -> list[str]:
        """Those of all --set."""
        return [entry for alternatives in self.sets for entry in alternatives]

    @property
    def fit_arguments(self) -> list[str]:
        """Arguments of segtrain fit that all runs share."""
        file = [] if self.file is None else ["--config", str(self.file)]
        data = [] if self.data is None else ["--data", self.data]
        return [*file, *data, *self.eval_arguments]

    @property
    def eval_arguments(self) -> list[str]:
        """Arguments of segtrain eval, which reads a run's config."""
        return [] if self.device is None else ["--device", self.device]

    def load(self, choice: tuple[Option, ...]) -> tuple[Config, list[Note]]:
        """Return the config of a combination, checked as `fit` does, and notes on its names."""
        sets = [text for flag, text in choice if flag == "--set"]
        flags = {"data.path": self.data, "train.device": self.device}
        flags[LOSS] = next((text for flag, text in choice if flag == "--loss"), None)
        config = load_config(self.file, sets, flags)
        if takes_demo_settings(config):  # as each training does
            config = load_config(flags=SETTINGS, base=config)
        config, notes = take_names(config)
        check_training(config)  # else the training would find it
        return config, notes


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    label: str  # the loss, and the values of other fields that differ
    choice: tuple[Option, ...]
    config: Config
    run: Path
    older_loss: str | None = None  # its loss with the defaults of the folder's older runs

    @property
    def done(self) -> bool:
        """True where the run's best weights have been evaluated as its config says."""
        return (self.run / SCORES).is_file() and has_own_scores(self.run, self.run / SCORES)

    def list_commands(self, options: SweepOptions) -> list[list[str]]:
        """Return the arguments of each segtrain command that is left to run.

        A run that was started is resumed from its last checkpoint.
        """
        if self.done:
            return []
        if (self.run / CONFIG).is_file():
            fit = ["fit", "--resume", str(self.run)]
        else:
            given = [word for option in self.choice for word in option]
            if self.older_loss:  # above all --set
                sets = [word for option in self.choice if "--set" in option for word in option]
                given = [*sets, "--loss", self.older_loss]
            fit = ["fit", *options.fit_arguments, *given, "--seed", str(self.config.train.seed)]
            fit += ["--out", str(self.run.parent), "--name", self.run.name]
        return [fit, ["eval", str(self.run), *options.eval_arguments]]


def list_jobs(options: SweepOptions, seeds: int, out: Path) -> list[Job]:
    """Return the jobs, seed by seed: a sweep that stops halfway has all combinations.

    Raise UsageError where one can't be trained or is given twice, and for runs in `out` that are
    of another sweep.
    """
    check_swept_fields(options.sets)
    choices = list_combinations(options)
    configs, record = load_configs(options, choices), read_sweep_record(out)
    if record:
        refuse_other_base(out, record, configs)
    # of other fields than loss and seed: the value in each config
    differing = list_differences([record.base if record else configs[0], *configs])
    values = [
        {key: column[i] for key, column in differing.items() if key not in (LOSS, SEED)}
        for i in range(1, len(configs) + 1)
    ]
    known = (
        {identify_training(config): name for name, config in record.runs.items()} if record else {}
    )
    jobs = []
    for seed in range(seeds):
        for choice, config, others in zip(choices, configs, values, strict=True):
            train = config.train.model_copy(update={"seed": seed})
            config = config.model_copy(update={"train": train})
            folder = find_folder(out, config, others, known)
            known[identify_training(config)] = folder
            label = label_values({LOSS: config.loss.expression} | others)
            jobs.append(Job(label, choice, config, out / folder))
    trainings = (record.runs if record else {}) | {job.run.name: job.config for job in jobs}
    older = find_older_losses(out, trainings)
    write_notes(
        [
            Note(f"{loss}: {text}, as its runs in {out} have it", "note")
            for loss, text in older.items()
        ],
        stderr=True,
    )
    return [replace(job, older_loss=older.get(job.config.loss.expression)) for job in jobs]


def find_older_losses(out: Path, trainings: dict[str, Config]) -> dict[str, str]:
    """Return losses with the defaults of the older version that started runs of them in `out`.

    By expression; of those without such runs, or whose defaults are the same now, none.
    """
    older = {}
    for name, config in trainings.items():
        with suppress(SegtrainError):  # not started, or damaged: its training will name it
            trained, _ = adopt_older_defaults(load_config(out / name / CONFIG))
            kept = read_loss(config).with_defaults(read_loss(trained))
            if kept != read_loss(config).with_defaults():
                older[config.loss.expression] = str(kept)
    return older


def check_swept_fields(sets: list[list[str]]) -> None:
    """Raise UsageError for several values of a field that no training reads.

    Print a note on those that may make runs differ in what they are scored on.
    """
    for entries in (entries for entries in sets if len(entries) > 1):
        sources = read_sources(None, entries, {})
        fields = [*dict.fromkeys(key for source in sources for key in source.list_fields())]
        verbs = {key.split(".")[0] for key in fields}
        if len(verbs) == 1 and verbs <= {"eval", "predict"} and "eval.every" not in fields:
            advice = shlex.join(["segtrain", *verbs, "RUN", "--set", entries[-1]])
            raise UsageError(
                f"--set {entries[-1]}: the trainings would be the same as with {entries[0]}; "
                f"train once, then do: {advice}"
            )
        scored = [key for key in fields if key.startswith("data.") and key[5:] not in SAME_TRUTH]
        if scored:
            text = f"{shorten(scored)} may change what is scored: only runs that are scored on the "
            write_notes([Note(f"{text}same images and truth are compared", "note")], stderr=True)


def list_combinations(options: SweepOptions) -> list[tuple[Option, ...]]:
    """Return each loss with each value of each --set, the last one changing first.

    The config's own loss where a --set gives it, or has several values, and no --loss is given.
    """
    entries, given = options.entries, options.losses
    in_sets = any(LOSS in source.list_fields() for source in read_sources(None, entries, {}))
    if in_sets and given is not None:
        raise UsageError("--loss and --set loss.expression both give the losses; use one of them")
    axes = [[("--set", entry) for entry in alternatives] for alternatives in options.sets]
    if given is not None or len(entries) == len(axes) and not in_sets:
        losses = split_values(DEFAULT_LOSSES if given is None else given)
        taken = [load_config(flags={LOSS: loss}).loss.expression for loss in losses]
        pairs = zip(losses, taken, strict=True)
        notes = [note_choice(*pair) for pair in pairs if pair[0] != pair[1]]
        own = load_config(options.file)
        if given is None and LOSS in list_given(own) and own.loss.expression not in taken:
            text = f"{options.file}: its loss, {own.loss.expression}, is not among those of --loss"
            notes.append(Note(text, "note"))
        write_notes(notes, stderr=True)
        axes.insert(0, [("--loss", loss) for loss in taken])
    for axis in axes:
        if repeated := [text for text in axis if axis.count(text) > 1]:
            raise UsageError(f"{' '.join(repeated[0])} is given more than once")
    return [*product(*axes)]


def load_configs(options: SweepOptions, choices: list[tuple[Option, ...]]) -> list[Config]:
    """Return the config of each combination.

    Raise UsageError naming those that can't be trained, and for one given in two spellings.
    """
    check_sources(FitOptions(options.file, options.entries, {}, Path()))
    configs, notes, names = list[Config](), list[Note](), dict[str, str]()
    problems: dict[str, list[str]] = {}  # names by text
    for choice in choices:
        varying = [option for option in choice if any(option not in other for other in choices)]
        name = " ".join(f"{flag} {text}" for flag, text in varying)
        try:
            config, found = options.load(choice)
        except UsageError as error:
            problems.setdefault(str(error), []).append(name)
            continue
        same = names.setdefault(identify_training(config), name)
        if same != name:
            reason = "is given more than once, or another option overrides it"
            raise UsageError(f"{name} {reason}: the same training as {same}")
        configs, notes = [*configs, config], notes + found
    if problems:
        texts = [
            text if len(wrong) == len(choices) else f"{shorten(wrong)}: {text}"
            for text, wrong in problems.items()
        ]
        raise UsageError(shorten(texts, separator="; "))
    write_notes(dict.fromkeys([*notes, *list_unread(configs)]), stderr=True)
    return configs


def list_unread(configs: list[Config]) -> list[Note]:
    """Return notes on losses that don't read a setting of which several values are tried."""
    notes = []
    losses = dict.fromkeys(config.loss.expression for config in configs)
    for setting in ("thresh", "n_min_factor"):
        values = {getattr(config.loss, setting) for config in configs}
        unread = [
            loss
            for loss in losses
            if all(parse_loss(loss) == parse_loss(loss, **{setting: value}) for value in values)
        ]
        if unread and len(values) > 1:
            text = f"loss.{setting} has no effect on {shorten(unread)}: trainings with several "
            notes.append(Note(f"{text}values are the same", "note"))
    return notes
