"""segtrain sweep: train each loss with each seed, all else equal, then compare the runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from segtrain.commands.requests import check_training, read_loss, takes_demo_settings
from segtrain.config import Config
from segtrain.config.loading import compare_configs, load_config, make_config
from segtrain.console import note_choice, write, write_notes
from segtrain.data.demo import SETTINGS
from segtrain.distributed.processes import PARENT, describe_exit
from segtrain.distributed.signals import SIGNALS, StopRequest
from segtrain.errors import SegtrainError, Stopped, UsageError, translate_errors
from segtrain.evaluation.score_record import has_own_scores
from segtrain.files import save_json
from segtrain.models.names import take_names
from segtrain.runs.folder import CONFIG, safe_name

BASE = Path("sweep.json")  # the config that all runs of the folder share
SCORES = Path("eval/val/metrics.json")  # of a run that has been evaluated
PER_RUN_FIELDS = ("loss.expression", "train.seed")
LONGEST_NAME = 80  # characters of a run's folder, without its seed
POLL_SECONDS = 0.5  # between two looks at a process and at signals


@dataclass(frozen=True)
class SharedOptions:
    """Options that all runs of a sweep share."""

    file: Path | None  # --config
    sets: list[str]  # --set
    data: str | None
    device: str | None

    @property
    def config(self) -> Config:
        """Config that the options give."""
        flags = {"data.path": self.data, "train.device": self.device}
        return load_config(self.file, self.sets, flags)

    @property
    def fit_arguments(self) -> list[str]:
        """Arguments of segtrain fit."""
        file = [] if self.file is None else ["--config", str(self.file)]
        data = [] if self.data is None else ["--data", self.data]
        sets = [argument for entry in self.sets for argument in ("--set", entry)]
        return [*file, *data, *self.eval_arguments, *sets]

    @property
    def eval_arguments(self) -> list[str]:
        """Arguments of segtrain eval, which reads a run's config."""
        return [] if self.device is None else ["--device", self.device]


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    loss: str
    seed: int
    run: Path

    @property
    def done(self) -> bool:
        """True where the run's best weights have been evaluated as its config says."""
        return (self.run / SCORES).is_file() and has_own_scores(self.run, self.run / SCORES)

    def list_commands(self, options: SharedOptions) -> list[list[str]]:
        """Return the arguments of each segtrain command that is left to run.

        A run that was started is resumed from its last checkpoint.
        """
        if self.done:
            return []
        if (self.run / CONFIG).is_file():
            fit = ["fit", "--resume", str(self.run)]
        else:
            fit = ["fit", *options.fit_arguments, "--loss", self.loss, "--seed", str(self.seed)]
            fit += ["--out", str(self.run.parent), "--name", self.run.name]
        return [fit, ["eval", str(self.run), *options.eval_arguments]]


def sweep(losses: str, seeds: int, options: SharedOptions, out: Path, dry_run: bool) -> None:
    """Train and evaluate what is not done yet, and compare all runs in `out`.

    With dry_run, print the commands instead, and write no file.
    """
    base = options.config
    if takes_demo_settings(base):  # as each training does
        base = load_config(flags=SETTINGS, base=base)
    base, notes = take_names(base)
    check_training(base)  # else the first training would find it
    given = split_losses(losses)
    taken = [load_config(flags={"loss.expression": loss}).loss.expression for loss in given]
    notes += [note_choice(*pair) for pair in zip(given, taken, strict=True) if pair[0] != pair[1]]
    write_notes(notes, stderr=True)
    jobs = make_jobs(taken, seeds, base, out)
    refuse_other_base(out, base)
    if dry_run:
        print_commands(jobs, options)
        return
    if not (out / BASE).exists():
        save_json(out / BASE, {"base": base.model_dump(mode="json")})
    failures = []
    for number, job in enumerate(jobs, 1):
        commands = job.list_commands(options)
        write(
            f"[{number}/{len(jobs)}] {job.loss}, seed {job.seed}"
            + ("" if commands else ": done already, skipped")
        )
        if failure := run_commands(commands, job.run):
            failures.append(failure)
    text = f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}" if failures else ""
    if failure := compare_all(jobs, out):
        text = f"{text}; {failure}" if text else failure
    if text:
        raise SegtrainError(f"{text}; the same sweep command takes up the rest")


def split_losses(text: str) -> list[str]:
    """Return the expressions of 'ce,ohem(thresh=0.6, focal)', split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def make_jobs(losses: list[str], seeds: int, base: Config, out: Path) -> list[Job]:
    """Return the jobs, seed by seed: a sweep that stops halfway has all losses.

    Raise UsageError for a wrong loss, or one given twice.
    """
    parsed = [
        read_loss(load_config(base=base, flags={"loss.expression": loss})).terms for loss in losses
    ]
    if repeated := [
        loss for loss, terms in zip(losses, parsed, strict=True) if parsed.count(terms) > 1
    ]:
        raise UsageError(f"--loss: {repeated[0]} is given more than once")
    names = [safe_name(loss)[:LONGEST_NAME] for loss in losses]
    if shared := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"--loss: two losses would share the folder {shared[0]}")
    return [
        Job(loss, seed, out / f"{name}-seed{seed}")
        for seed in range(seeds)
        for loss, name in zip(losses, names, strict=True)
    ]


def refuse_other_base(out: Path, base: Config) -> None:
    """Raise UsageError where the runs in the folder were started with another config."""
    file = out / BASE
    if not file.exists():
        return
    with translate_errors(lambda e: f"{file}: unreadable ({e}); use another --out", UsageError):
        earlier = json.loads(file.read_text(encoding="utf-8"))["base"]
    changed = compare_configs(make_config(earlier, str(file)), base)
    if listed := [
        f"{key} was {old}, now {new}"
        for key, (old, new) in changed.items()
        if key not in PER_RUN_FIELDS
    ]:
        raise UsageError(f"--out {out}: its runs differ: {'; '.join(listed)}; use another --out")


def print_commands(jobs: list[Job], options: SharedOptions) -> None:
    """Print the commands that are left to run, a job a line."""
    done = 0
    for job in jobs:
        if commands := job.list_commands(options):
            write(" && ".join(shlex.join(["segtrain", *arguments]) for arguments in commands))
        done += not commands
    write(f"{done} of {len(jobs)} are done; nothing was started or written", stderr=True)


def run_commands(commands: list[list[str]], place: Path) -> str:
    """Run segtrain commands, up to the first that fails: return which and how, '' where none does.

    Raise Stopped on a signal.
    """
    for arguments in commands:
        code, signum = run_process(arguments)
        sent = -code if code < 0 else code - 128
        if not signum and sent in SIGNALS:  # to the command alone
            signum = sent
        if signum:
            raise Stopped(
                f"stopped at {place}; the same sweep command continues from there", signum
            )
        if code:
            failure = f"{place}: segtrain {arguments[0]} {describe_exit(code)}"
            write(f"failed: {failure}", stderr=True)
            return failure
    return ""


def run_process(arguments: list[str]) -> tuple[int, int]:
    """Return the exit code of `segtrain ARGUMENTS`, and the signal this process got, or 0.

    A terminal sends Ctrl-C to both processes; SIGTERM and SIGUSR1 go to this one and are forwarded.
    """
    command = [sys.executable, "-m", "segtrain", *arguments]
    with StopRequest(announce=False) as stop_request:
        process = subprocess.Popen(command, env=os.environ | {PARENT: str(os.getpid())})
        forwarded = False
        while True:
            try:
                return process.wait(POLL_SECONDS), stop_request.signum
            except subprocess.TimeoutExpired:
                if stop_request.signum in SIGNALS[1:] and not forwarded:
                    process.send_signal(stop_request.signum)
                    forwarded = True


def compare_all(jobs: list[Job], out: Path) -> str:
    """Compare the runs of this sweep, its first loss first, and all others in the folder.

    Only those that have been evaluated; return how the comparison failed, or ''.
    """
    evaluated = [scores.parents[2] for scores in sorted(out.glob(f"*/{SCORES}"))]
    runs = [job.run for job in jobs if job.run in evaluated]
    runs += [run for run in evaluated if run not in runs and not run.is_symlink()]  # OUT/latest
    if len(runs) > 1:
        return run_commands([["compare", *map(str, runs), "--out", str(out)]], out)
    write(f"{out}: {len(runs)} evaluated, nothing to compare")
    return ""
