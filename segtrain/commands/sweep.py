"""segtrain sweep: a training for each loss and seed, all else the same, then a comparison."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from segtrain.config import Config
from segtrain.config.loading import compare_configs, load_config, make_config
from segtrain.distributed.launch import describe_exit
from segtrain.distributed.processes import PARENT
from segtrain.distributed.signals import SIGNALS, StopRequest
from segtrain.errors import SegtrainError, Stopped, UsageError
from segtrain.files import write_json
from segtrain.models.segmentation import check_names
from segtrain.runs.folder import CONFIG, safe_name
from segtrain.training.plan import read_loss

BASE = Path("sweep.json")  # what all runs of the folder have in common
SCORES = Path("eval/val/metrics.json")  # a run that has it is done
OWN = ("loss.expression", "train.seed")  # fields that a run has to itself
LONGEST_NAME = 80  # of a run's folder, but its seed
LOOK = 0.5  # seconds between two looks at a process and at signals


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    loss: str
    seed: int
    run: Path

    @property
    def done(self) -> bool:
        return (self.run / SCORES).is_file()


def sweep(
    losses: str,
    seeds: int,
    file: Path | None,
    sets: list[str],
    data: str | None,
    device: str | None,
    out: Path,
    dry_run: bool = False,
) -> None:
    """The verb: trains and evaluates what is not done yet, and compares all runs in `out`.

    With dry_run, prints the commands instead, and writes nothing.
    """
    base = load_config(file, sets, {"data.path": data, "train.device": device})
    check_names(base.model.arch, base.model.encoder)
    jobs = make_jobs(split_losses(losses), seeds, base, out)
    refuse_other_base(out, base)
    given = [] if file is None else ["--config", str(file)]
    given += [] if data is None else ["--data", data]
    on = [] if device is None else ["--device", device]
    given += on + [word for entry in sets for word in ("--set", entry)]
    if dry_run:
        return print_commands(jobs, given, on)
    if not (out / BASE).exists():
        write_json(out / BASE, {"base": base.model_dump(mode="json")})
    for number, job in enumerate(jobs, 1):
        place = f"[{number}/{len(jobs)}] {job.loss}, seed {job.seed}"
        print(f"{place}: done already, skipped" if job.done else place, flush=True)
        for words in commands(job, given, on):
            carry_out(words, job.run)
    compare_all(jobs, out)


def split_losses(text: str) -> list[str]:
    """'ce,ohem(thresh=0.6, focal)' -> its expressions: split at commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def make_jobs(losses: list[str], seeds: int, base: Config, out: Path) -> list[Job]:
    """Seed by seed, so that a sweep that stops halfway has all losses. Raises UsageError."""
    parsed = [
        read_loss(load_config(base=base, flags={"loss.expression": loss})).terms for loss in losses
    ]
    if twice := [
        loss for loss, terms in zip(losses, parsed, strict=True) if parsed.count(terms) > 1
    ]:
        raise UsageError(f"--loss: {twice[0]} is named more than once")
    names = [safe_name(loss)[:LONGEST_NAME] for loss in losses]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"--loss: two losses would share the folder {twice[0]}")
    return [
        Job(loss, seed, out / f"{name}-seed{seed}")
        for seed in range(seeds)
        for loss, name in zip(losses, names, strict=True)
    ]


def refuse_other_base(out: Path, base: Config) -> None:
    """Raises UsageError where the folder's runs were begun with another config."""
    try:
        kept = json.loads((out / BASE).read_text(encoding="utf-8"))["base"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out / BASE}: can't be read ({error}); take another --out") from error
    changed = compare_configs(make_config(kept, str(out / BASE)), base)
    if listed := [f"{k} was {old}, now {new}" for k, (old, new) in changed.items() if k not in OWN]:
        raise UsageError(f"--out {out}: its runs differ: {'; '.join(listed)}; take another --out")


def commands(job: Job, given: list[str], on: list[str]) -> list[list[str]]:
    """The words of what is left to do for a job; none where it is done.

    A run that has begun goes on from its last checkpoint, or from the start where it has none.
    """
    if job.done:
        return []
    if (job.run / CONFIG).is_file():
        fit = ["fit", "--resume", str(job.run)]
    else:
        own = ["--loss", job.loss, "--seed", str(job.seed)]
        fit = ["fit", *given, *own, "--out", str(job.run.parent), "--name", job.run.name]
    return [fit, ["eval", str(job.run), *on]]


def print_commands(jobs: list[Job], given: list[str], on: list[str]) -> None:
    for job in jobs:
        if words := commands(job, given, on):
            print(" && ".join(shlex.join(["segtrain", *each]) for each in words))
    done = sum(job.done for job in jobs)
    print(f"{done} of {len(jobs)} are done; nothing was started or written", file=sys.stderr)


def carry_out(words: list[str], run: Path) -> None:
    """Runs one command to its end. Raises SegtrainError where it fails, Stopped on a signal."""
    code, signum = start(words)
    again = "the same sweep command goes on from there"
    if not signum and code - 128 in SIGNALS:
        signum = code - 128
    if signum:
        raise Stopped(f"stopped at {run}; {again}", signum)
    if code:
        raise SegtrainError(f"{run}: segtrain {words[0]} {describe_exit(code)}; {again}")


def start(words: list[str]) -> tuple[int, int]:
    """Exit code of `segtrain WORDS...`, and the signal that asked this process to stop, or 0.

    A terminal gives its Ctrl-C to both; SIGTERM and SIGUSR1, which one process gets, are passed on.
    """
    command = [sys.executable, "-m", "segtrain", *words]
    with StopRequest(announce=False) as stop_request:
        process = subprocess.Popen(command, env=os.environ | {PARENT: str(os.getpid())})
        passed_on = False
        while True:
            try:
                return process.wait(LOOK), stop_request.signum
            except subprocess.TimeoutExpired:
                if stop_request.signum in SIGNALS[1:] and not passed_on:
                    process.send_signal(stop_request.signum)
                    passed_on = True


def compare_all(jobs: list[Job], out: Path) -> None:
    """The runs of this sweep, its first loss first, and all others in the folder that are done."""
    runs = [job.run for job in jobs]
    runs += [
        scores.parents[2]
        for scores in sorted(out.glob(f"*/{SCORES}"))
        if scores.parents[2] not in runs and not scores.parents[2].is_symlink()
    ]
    if len(runs) == 1:
        print(f"{runs[0]}: one run, nothing to compare it with")
        return
    carry_out(["compare", *map(str, runs), "--out", str(out)], out)
