"""segtrain sweep, from outside; its commands run in this process, except for one real one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from conftest import run_cli, write_pairs
from running import wait_for

from segtrain.commands.sweep import run_process

CONFIG = {
    "data": {"workers": 0},
    "augment": {"crop": [32, 32]},
    "model": {
        "encoder": "tu-test_byobnet",
        "weights": "none",
        "options": {"encoder_depth": 3, "decoder_channels": [8, 8, 4]},
    },
    "train": {"epochs": 1, "batch_size": 2, "steps_per_epoch": 2},
    "eval": {"worst": 0},
}
SWEEP = ("sweep", "--loss", "ce,ohem", "--seeds", "2", "--config", "c.yaml", "--device", "cpu")
BEST = "checkpoints/best.safetensors"
NAMES = ["ce-seed0", "ohem-seed0", "ce-seed1", "ohem-seed1"]


def prepare(folder: Path) -> None:
    write_pairs(folder / "set")
    data = CONFIG["data"] | {"path": str(folder / "set")}
    (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG | {"data": data}))


@pytest.fixture
def started(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a sweep has started so far; they run in this process."""
    prepare(tmp_path)
    commands: list[list[str]] = []

    def run_process(arguments: list[str]) -> tuple[int, int]:
        commands.append(arguments)
        answer = run_cli(*arguments)
        print(answer.stdout + answer.stderr)
        return answer.code, 0

    monkeypatch.setattr("segtrain.commands.sweep.run_process", run_process)
    return commands


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep of 2 losses and 2 seeds; copy it, don't write to it."""
    home = tmp_path_factory.mktemp("swept")
    prepare(home)

    def run_here(arguments: list[str]) -> tuple[int, int]:
        return run_cli(*arguments).code, 0

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("segtrain.commands.sweep.run_process", run_here)
        done = run_cli(*SWEEP)
    assert done.code == 0, done.stderr
    (home / "stdout").write_text(done.stdout)
    return home


@pytest.fixture
def copied(swept: Path, tmp_path: Path, started: list) -> Path:
    """The finished sweep and its config in the test's own folder."""
    shutil.copy(swept / "c.yaml", tmp_path)
    return shutil.copytree(swept / "sweep", tmp_path / "sweep", symlinks=True)


def kinds(started: list[list[str]]) -> list[tuple[str, str]]:
    """Return (command, name of the run) of each; the command of a resumed fit is "resume"."""
    listed = []
    for words in started:
        if words[0] == "fit":
            kind = "resume" if "--resume" in words else "fit"
            listed.append((kind, Path(words[-1]).name))
        elif words[0] == "eval":
            listed.append(("eval", Path(words[1]).name))
        else:
            listed.append((words[0], ""))
    return listed


def both(*names: str) -> list[tuple[str, str]]:
    return [(kind, name) for name in names for kind in ("fit", "eval")]


def test_two_losses_with_two_seeds(swept: Path):
    out = swept / "sweep"
    places = [line for line in (swept / "stdout").read_text().splitlines() if line.startswith("[")]
    # seed by seed: a sweep that stops halfway has all losses
    assert places == ["[1/4] ce, seed 0", "[2/4] ohem, seed 0", "[3/4] ce, seed 1",
                      "[4/4] ohem, seed 1"]  # fmt: skip
    configs = {name: yaml.safe_load((out / name / "config.yaml").read_text()) for name in NAMES}
    for name, config in configs.items():
        assert name == f"{config['loss'].pop('expression')}-seed{config['train'].pop('seed')}"
    assert configs[NAMES[0]] == configs[NAMES[1]] == configs[NAMES[2]] == configs[NAMES[3]]
    assert configs[NAMES[0]]["train"]["device"] == "cpu"
    assert configs[NAMES[0]]["train"]["steps_per_epoch"] == 2
    comparison = json.loads((out / "comparison.json").read_text())
    assert [(c["name"], c["seeds"]) for c in comparison["contenders"]] == [("ce", [0, 1]),
                                                                     ("ohem", [0, 1])]  # fmt: skip
    for group in comparison["contenders"]:
        scores = [json.loads((swept / run / "eval/val/metrics.json").read_text())["miou"]
                  for run in group["runs"]]  # fmt: skip
        assert group["miou"] == pytest.approx(sum(scores) / 2)
    assert (out / "comparison.html").is_file()


def test_what_is_done_is_skipped(copied: Path, started: list):
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.parent != copied}
    answer = run_cli(*SWEEP)
    assert answer.code == 0, answer.stderr
    assert kinds(started) == [("compare", "")]
    assert answer.stdout.count("done already, skipped") == 4
    assert before == {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.parent != copied}


def test_what_is_missing_is_done(copied: Path, started: list):
    """One run was never started, one ended before its evaluation, one before any checkpoint."""
    shutil.rmtree(copied / "ohem-seed0")
    shutil.rmtree(copied / "ce-seed1" / "eval")
    shutil.rmtree(copied / "ohem-seed1" / "eval")
    shutil.rmtree(copied / "ohem-seed1" / "checkpoints")
    answer = run_cli(*SWEEP)
    assert answer.code == 0, answer.stderr
    assert kinds(started) == [
        *both("ohem-seed0"), ("resume", "ce-seed1"), ("eval", "ce-seed1"),
        ("resume", "ohem-seed1"), ("eval", "ohem-seed1"), ("compare", ""),
    ]  # fmt: skip
    assert "resumed after step 2 of 2" in answer.stdout
    assert all((copied / name / "eval/val/metrics.json").is_file() for name in NAMES)


def test_scores_of_earlier_weights_are_not_done(copied: Path, started: list):
    """A run that was trained on, as another run's checkpoint is here; and another's report."""
    shutil.copy(copied / NAMES[0] / BEST, copied / NAMES[1] / BEST)
    metrics = copied / NAMES[2] / "eval/val/metrics.json"
    metrics.write_text(metrics.read_text().replace('"tta": []', '"tta": ["hflip"]'))
    answer = run_cli(*SWEEP)
    assert answer.code == 0, answer.stderr
    assert [name for kind, name in kinds(started) if kind == "eval"] == NAMES[1:3]


def test_further_losses_join_those_that_are_there(copied: Path, started: list):
    command = [*SWEEP[:2], "ce , ohem( thresh=0.6 )+0.5*ghm", *SWEEP[5:]]
    answer = run_cli(*command)
    assert answer.code == 0, answer.stderr
    assert kinds(started) == [*both("ohem_thresh_0.6_+0.5_ghm-seed0"), ("compare", "")]
    comparison = json.loads((copied / "comparison.json").read_text())
    assert [(c["name"], c["seeds"]) for c in comparison["contenders"]] == [
        ("ce", [0, 1]), ("ohem( thresh=0.6 )+0.5*ghm", [0]), ("ohem", [0, 1]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "more, words",
    [
        (["--set", "optim.lr=0.5"], ["optim.lr was 0.001, now 0.5", "another --out"]),
        (["--data", "demo"], ["data.path was /", "now demo"]),
        (["--set", "train.seed=7"], ["train.seed", "--seeds"]),  # is a run's own
    ],
)
def test_another_config_in_the_same_folder_is_refused(copied: Path, started, more, words):
    answer = run_cli(*SWEEP, *more)
    assert answer.code == 2 and started == []
    assert [word for word in words if word not in answer.error] == []


def test_a_job_that_fails_ends_alone(copied: Path, started: list):
    """One can't be trained and one can't be scored: the others are trained, scored and compared."""
    shutil.rmtree(copied / "ohem-seed0")
    (copied / "ohem-seed0").write_text("in the way")
    shutil.rmtree(copied / "ce-seed1")
    shutil.rmtree(copied / "ohem-seed1" / "eval")
    (copied / "ohem-seed1" / "eval").write_text("in the way")
    answer = run_cli(*SWEEP)
    assert answer.code == 1
    assert kinds(started) == [
        ("fit", "ohem-seed0"), *both("ce-seed1"), ("resume", "ohem-seed1"), ("eval", "ohem-seed1"),
        ("compare", ""),
    ]  # fmt: skip
    words = [
        "2 of 4 runs failed",
        "sweep/ohem-seed0: segtrain fit",
        "sweep/ohem-seed1: segtrain eval",
    ]
    assert [word for word in words if word not in answer.error] == []
    comparison = json.loads((copied / "comparison.json").read_text())
    assert [c["seeds"] for c in comparison["contenders"]] == [[0], [1]]
    (copied / "ohem-seed0").unlink()
    (copied / "ohem-seed1" / "eval").unlink()
    started.clear()
    assert run_cli(*SWEEP).code == 0
    assert kinds(started) == [
        *both("ohem-seed0"), ("resume", "ohem-seed1"), ("eval", "ohem-seed1"), ("compare", "")
    ]  # fmt: skip


def test_where_all_fail_nothing_is_compared(started: list):
    answer = run_cli(*SWEEP, "--set", "data.exclude=['images/*']")
    assert answer.code == 1 and "4 of 4 runs failed" in answer.error
    assert kinds(started) == [("fit", name) for name in NAMES]


def test_one_run_needs_no_comparison(started: list):
    answer = run_cli("sweep", "--loss", "ce", *SWEEP[5:])
    assert answer.code == 0, answer.stderr
    assert kinds(started) == both("ce-seed0")
    assert "nothing to compare" in answer.stdout


# before anything starts


@pytest.mark.parametrize(
    "loss, words",
    [
        ("ce,ohm", ["'ohm'", "did you mean ohem"]),
        ("ce,ohem(thresh=2)", ["thresh"]),
        ("ce,,ohem", ["''", "not a loss expression"]),
        ("ce,ohem,ce", ["ce is given more than once"]),
        ("ohem+dice,ohem + 1.0*dice", ["given more than once", "--loss ohem+dice"]),
        ("ohem(thresh=0.5),ohem( thresh = 0.50 )", ["given more than once"]),
    ],
)
def test_wrong_losses_cost_no_training(started: list, tmp_path: Path, loss: str, words: list[str]):
    answer = run_cli("sweep", "--loss", loss, *SWEEP[5:])
    assert answer.code == 2 and started == []
    assert [word for word in words if word not in answer.error] == []
    assert not (tmp_path / "sweep").exists()


# --dry-run


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_starts_nothing(
    started: list, tmp_path: Path, device, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    prepare(tmp_path)
    refused = run_cli(*SWEEP[:-1], device)
    assert refused.code == 2 and device in refused.error and "--device cpu" in refused.error
    assert not started and not Path("runs").exists()
    assert run_cli(*SWEEP[:-1], device, "--dry-run").code == 0  # for another machine


def test_dry_run_prints_commands_that_a_shell_can_run(started: list, tmp_path: Path):
    """They may be jobs on a cluster; the same command then finds all done, and compares."""
    (tmp_path / "set").rename(tmp_path / "my set")
    before = sorted(tmp_path.rglob("*"))
    command = [*SWEEP, "--data", "my set", "--out", "big sweep", "--seeds", "1"]
    command += ["--set", "optim.lr=0.01"]
    answer = run_cli(*command, "--dry-run")
    assert answer.code == 0, answer.stderr
    assert sorted(tmp_path.rglob("*")) == before and started == []
    lines = answer.stdout.splitlines()
    assert len(lines) == 2 and "0 of 2 are done" in answer.stderr
    for line in lines:
        for job in line.split(" && "):
            program, *words = shlex.split(job)
            assert program == "segtrain"
            done = run_cli(*words)
            assert done.code == 0, done.stderr
    left = run_cli(*command, "--dry-run")
    assert (left.code, left.stdout) == (0, "") and "2 of 2 are done" in left.stderr
    assert not (tmp_path / "big sweep" / "sweep.json").exists()
    answer = run_cli(*command)
    assert answer.code == 0, answer.stderr
    assert kinds(started) == [("compare", "")]
    assert (tmp_path / "big sweep" / "comparison.html").is_file()
    config = yaml.safe_load((tmp_path / "big sweep" / "ohem-seed0" / "config.yaml").read_text())
    assert (config["optim"]["lr"], config["loss"]["expression"]) == (0.01, "ohem")


def test_dry_run_omits_what_is_done_and_resumes_what_was_started(copied: Path, started):
    shutil.rmtree(copied / "ohem-seed0" / "eval")
    answer = run_cli(*SWEEP, "--dry-run")
    assert answer.stdout.splitlines() == [
        "segtrain fit --resume sweep/ohem-seed0 && segtrain eval sweep/ohem-seed0 --device cpu"
    ]


# real processes


CHILD = """
import os, signal, sys, time
def stop(signum, frame):
    print("child had", signum, flush=True)
    time.sleep(0.3)  # as a step that ends and is saved
    sys.exit(128 + signum)
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, stop)
print("child runs", *sys.argv[1:], "for", os.environ["SEGTRAIN_PARENT"], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["SIGINT to both", "SIGTERM to the sweep", "SIGTERM to the child"])
def test_a_signal_ends_the_fit_and_the_sweep(cli, tmp_path: Path, monkeypatch, how: str):
    """The process that a sweep starts is real, but does nothing; `how` says who gets the signal."""
    prepare(tmp_path)
    signum = signal.Signals[how.split()[0]]
    processes, started = [], subprocess.Popen

    def popen(command: list[str], **more: object) -> subprocess.Popen:
        with open(tmp_path / "stdout", "w") as file:
            command = [command[0], "-c", CHILD, *command[1:]]
            processes.append(started(command, stdout=file, **more))
        return processes[-1]

    def send_signal() -> None:
        wait_for(lambda: (tmp_path / "stdout").read_text().endswith("\n"))
        for receiver, pid in (("child", processes[0].pid), ("sweep", os.getpid())):
            if receiver in how or "both" in how:  # as a terminal does
                os.kill(pid, signum)

    monkeypatch.setattr("segtrain.commands.sweep.POLL_SECONDS", 0.05)
    monkeypatch.setattr("segtrain.commands.sweep.subprocess.Popen", popen)
    (tmp_path / "stdout").touch()
    sender = threading.Thread(target=send_signal)
    sender.start()
    answer = run_cli(*SWEEP)
    sender.join()
    assert answer.code == 128 + signum
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert lines[0].startswith("child runs -m segtrain fit --config c.yaml")
    assert lines[0].endswith(f"--name ce-seed0 for {os.getpid()}")  # which it ends with
    assert lines[1:] == [f"child had {int(signum)}"]
    assert processes[0].returncode == 128 + signum and len(processes) == 1
    assert answer.stderr.splitlines() == [
        "stopped at sweep/ce-seed0; the same sweep command continues from there"
    ]


def test_real_processes_are_started(capfd):
    assert run_process(["--version"]) == (0, 0)
    assert run_process(["fti"]) == (2, 0)
    output = capfd.readouterr()
    assert output.out.startswith("segtrain ") and "fti" in output.err
