"""segtrain sweep: train combinations of losses, values and seeds, else alike; then compare them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from segtrain.commands.sweep_jobs import SCORES, Job, SweepOptions, list_jobs
from segtrain.console import write
from segtrain.distributed.processes import PARENT, describe_exit
from segtrain.distributed.signals import SIGNALS, StopRequest
from segtrain.errors import SegtrainError, Stopped
from segtrain.runs.sweep_record import save_sweep_record

POLL_SECONDS = 0.5  # between two looks at a process and at signals


def sweep(options: SweepOptions, seeds: int, out: Path, dry_run: bool) -> None:
    """Train and evaluate what is not done yet, and compare all runs in `out`.

    With dry_run, print the commands instead, and write no file. Raise UsageError for a device that
    this machine lacks.
    """
    jobs = list_jobs(options, seeds, out)
    if dry_run:
        print_commands(jobs, options)
        return
    for job in jobs:  # a dry run may be for another machine
        if job.config.train.device not in ("auto", "cpu"):
            from segtrain.distributed.devices import resolve_device  # of torch, which takes seconds

            resolve_device(job.config.train.device)
    save_sweep_record(out, {job.run.name: job.config for job in jobs})
    failures = []
    for number, job in enumerate(jobs, 1):
        commands = job.list_commands(options)
        write(
            f"[{number}/{len(jobs)}] {job.label}, seed {job.config.train.seed}"
            + ("" if commands else ": done already, skipped")
        )
        if failure := run_commands(commands, job.run):
            failures.append(failure)
    text = f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}" if failures else ""
    if failure := compare_all(jobs, out):
        text = f"{text}; {failure}" if text else failure
    if text:
        raise SegtrainError(f"{text}; the same sweep command takes up the rest")


def print_commands(jobs: list[Job], options: SweepOptions) -> None:
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
