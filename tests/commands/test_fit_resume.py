"""What segtrain fit refuses, resumed, dry and real: in one line, with nothing written."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import QUICK, run_cli, write_pairs
from PIL import Image
from same_run import assert_same_run, rows_of

from segtrain.errors import SegtrainError
from segtrain.runs.folder import lock_run

STATE = "checkpoints/last.state.pt"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set `set` and the run runs/r of two epochs. Copy it to write."""
    home = tmp_path_factory.mktemp("home")
    write_pairs(home / "set", 6)
    options = ["--data", home / "set", "--out", home / "runs", "--name", "r", "--epochs", "2"]
    done = run_cli("fit", *QUICK, *options)
    assert done.code == 0, done.stderr
    return home


@pytest.fixture
def here(cli, home: Path, tmp_path: Path) -> Path:
    """The current folder, a copy of `home`."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path


def listing(root: Path) -> dict[str, tuple]:
    """Return all that a command could write: each path with its times and size, or its target."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        target = path.readlink() if path.is_symlink() else None
        found[str(path)] = status.st_mtime_ns, status.st_ino, status.st_size, target
    return found


def change_state(run: Path, **fields: object) -> None:
    state = torch.load(run / STATE, weights_only=True)
    state["state"] |= fields
    torch.save(state, run / STATE)


def change_mask(path: Path) -> None:
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = (mask[0, 0] + 1) % 3
    Image.fromarray(mask).save(path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_that_have_changed_are_refused(here: Path, split: str):
    held_out = {"train": 0, "val": 5}
    for folder in ("images", "masks"):
        for index in range(6):
            part = "val" if index == held_out["val"] else "train"
            file = here / f"set/{folder}/{index:03d}.png"
            file.parent.joinpath(part).mkdir(exist_ok=True)
            file.rename(file.parent / part / file.name)
    fit = ["fit", *QUICK, "--data", "set", "--name", "s"]
    assert run_cli(*fit).code == 0
    before = listing(here / "runs")
    mask = here / f"set/masks/{split}/{held_out[split]:03d}.png"
    content = mask.read_bytes()
    change_mask(mask)
    resume = ["fit", "--resume", "s", "--epochs", "2"]
    refused = run_cli(*resume)
    assert refused.code == 2 and f"masks of {split} was" in refused.error
    assert "restore" in refused.error and listing(here / "runs") == before
    mask.write_bytes(content)
    for file in (here / "set/masks").glob("*/*.png"):  # the same values in another file
        Image.open(file).save(file, compress_level=0)
    resumed = run_cli(*resume)
    assert resumed.code == 0, resumed.stderr


def test_an_older_state_without_a_digest_resumes_with_a_note(here: Path):
    state = torch.load(here / "runs/r" / STATE, weights_only=True)
    state["data"] = {k: v for k, v in state["data"].items() if not k.startswith("masks of")}
    torch.save(state, here / "runs/r" / STATE)
    change_mask(here / "set/masks/000.png")
    resumed = run_cli("fit", "--resume", "r", "--epochs", "3", "--data", "set")
    assert resumed.code == 0, resumed.stderr
    assert "note: the state is of an older segtrain, without a digest" in resumed.stdout
    again = run_cli("fit", "--resume", "r", "--epochs", "4")
    assert again.code == 0 and "digest" not in again.stdout


@pytest.mark.parametrize(
    "change, fields, reason",
    [
        ("train.epochs=1", {}, "2 epochs are done already"),
        ("optim.lr=0.5", {}, "2 epochs are done already"),
        ("train.epochs=9", {"stale": 1}, "train.patience"),
        ("train.patience=1", {"stale": 1}, "2 epochs are done already"),
    ],
)
def test_a_change_without_effect_is_refused(here: Path, change: str, fields: dict, reason: str):
    run = here / "runs/r"
    change_state(run, **fields)
    if fields:
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["train"]["patience"] = 1
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        change = change.replace("patience=1", "patience=2")
    before = listing(here)
    for dry in ([], ["--dry-run"]):
        refused = run_cli("fit", "--resume", "r", "--set", change, *dry)
        assert refused.code == 2 and reason in refused.error
        assert listing(here) == before
    kept = run_cli("fit", "--resume", "r", "--set", "train.log_every=7")  # as schedulers repeat it
    assert kept.code == 0 and "the run is finished" in kept.stdout
    assert "log_every: 7" not in (run / "config.yaml").read_text()


def test_a_config_changes_together_with_the_state(here: Path, home: Path, monkeypatch):
    def fail(*args: object) -> None:
        raise SegtrainError("no such thing")

    resume = ["fit", "--resume", "r", "--epochs", "3"]
    with monkeypatch.context() as patch:
        patch.setattr("segtrain.training.loop.open_loaders", fail)
        assert run_cli(*resume).code == 1
    config = here / "runs/r/config.yaml"
    assert config.read_bytes() == (home / "runs/r/config.yaml").read_bytes()
    assert_same_run(home / "runs/r", here / "runs/r")
    assert run_cli(*resume).code == 0
    assert yaml.safe_load(config.read_text())["train"]["epochs"] == 3
    assert len(rows_of(here / "runs/r")) == 3


def other_shapes(here: Path) -> None:
    file = here / "runs/r" / STATE
    state = torch.load(file, weights_only=True)
    state["model"] = {name: torch.stack([value] * 2) for name, value in state["model"].items()}
    torch.save(state, file)


NEW = ["--data", "set", *QUICK]
CASES: dict[str, tuple[list[str], str, Callable | None]] = {
    "a name that exists": ([*NEW, "--name", "r"], "exists", None),
    "a name that is a path": ([*NEW, "--name", "a/b"], "plain folder name", None),
    "a name too long": ([*NEW, "--name", "n" * 300], "too long", None),
    "a dangling link": (
        [*NEW, "--name", "l"],
        "exists",
        lambda here: (here / "runs/l").symlink_to("x"),
    ),
    "a file as --out": (
        [*NEW, "--name", "n", "--out", "set/images/000.png"],
        "Not a directory",
        None,
    ),
    "a file above --out": (
        [*NEW, "--name", "n", "--out", "set/images/000.png/x"],
        "Not a directory",
        None,
    ),
    "no weights": ([*NEW, "--weights", "gone.safetensors"], "no such file", None),
    "other weights": (
        ["--data", "set", *QUICK, "--encoder", "tu-test_resnet"]
        + ["--weights", "runs/r/checkpoints/best.safetensors"],
        "don't fit the model",
        None,
    ),
    "weights offline": (
        [
            "--data",
            "set",
            "--weights",
            "imagenet",
            "--encoder",
            "mobilenet_v2",
            "--batch-size",
            "2",
        ],
        "neither cached",
        None,
    ),
    "no gpu": ([*NEW, "--device", "cuda"], "torch sees no GPU", None),
    "another loss": (["--resume", "r", "--loss", "ce"], "loss.expression", None),
    "a damaged state": (
        ["--resume", "r", "--epochs", "3"],
        "last.state.pt",
        lambda here: (here / "runs/r" / STATE).write_bytes(b"x"),
    ),
    "a state of other shapes": (["--resume", "r", "--epochs", "3"], "last.state.pt", other_shapes),
    "no run": (["--resume", "gone"], "no such run", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_refuses_what_the_run_would(here: Path, case: str, monkeypatch):
    options, reason, prepare = CASES[case]
    monkeypatch.setenv("HF_HOME", str(here / "hub"))
    if prepare:
        prepare(here)
    before = listing(here)
    dry = run_cli("fit", *options, "--dry-run")
    assert listing(here) == before
    real = run_cli("fit", *options)
    assert reason in dry.error and (dry.code, dry.error) == (real.code, real.error)


def test_a_dry_run_refuses_a_run_in_training_and_writes_nothing(here: Path):
    before = listing(here)
    with lock_run(here / "runs/r"):
        refused = run_cli("fit", "--resume", "r", "--epochs", "3", "--dry-run")
    assert refused.code == 2 and "another process is training it" in refused.error
    for options in (["--resume", "r", "--epochs", "3"], [*NEW, "--name", "new"]):
        dry = run_cli("fit", *options, "--dry-run")
        assert dry.code == 0, dry.stderr
        assert "parameters: " in dry.stdout and "steps per epoch: 2" in dry.stdout
    assert listing(here) == before


# with a class that no mask has, which counts with classes=all
FOUR_CLASSES = [*QUICK, *"--data set --epochs 2 --set train.steps_per_epoch=2".split()]
FOUR_CLASSES += ["--set", "data.classes=[a, b, c, d]"]


def test_a_resumed_run_pastes_the_same(here: Path, monkeypatch: pytest.MonkeyPatch):
    from segtrain.training import loop

    def stop_and_step(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    step, fit = loop.train_step, ["fit", *QUICK, "--data", "set", "--epochs", "2"]
    paste = ["--set", "augment.copy_paste=0.5", "--set", "data.rare_classes=['1']"]
    assert run_cli(*fit, *paste, "--name", "straight").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_and_step)
        assert run_cli(*fit, *paste, "--name", "stopped").code == 128 + signal.SIGTERM
    other = run_cli("fit", "--resume", "stopped", "--set", "augment.copy_paste=0.6")
    assert other.code == 2 and "augment.copy_paste was 0.5, now 0.6" in other.error
    resumed = run_cli("fit", "--resume", "stopped", "--workers", "2")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(Path("runs/straight"), Path("runs/stopped"))
    assert rows_of(Path("runs/straight")) != rows_of(Path("runs/r"))  # without copy-paste


def set_loss(run: Path, expression: str) -> None:
    """Write the loss of a run as an older version did."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["loss"]["expression"] = expression
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    state = torch.load(run / STATE, weights_only=True)
    state["config"]["loss"]["expression"] = expression
    torch.save(state, run / STATE)


@pytest.mark.parametrize(
    "made, older, again, kept",
    [
        ("ohem+dice(classes=all)", "ohem+dice", [], "ohem + dice(classes='all')"),
        ("ohem+dice(classes=all)", "ohem+dice", ["--loss", "ohem+dice"],
         "ohem + dice(classes='all')"),
        ("ohem+dice", None, ["--loss", "ohem+dice"], "ohem + dice(classes='present')"),
    ],
)  # fmt: skip
def test_a_resumed_run_keeps_the_defaults_of_its_version(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: str,
    older: str | None,
    again: list,
    kept: str,
):
    from segtrain.training import loop

    def stop_and_step(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    straight, run, step = Path("runs/straight"), Path("runs/stopped"), loop.train_step
    fit = ["fit", *FOUR_CLASSES, "--loss", made]
    assert run_cli(*fit, "--name", straight.name).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_and_step)
        assert run_cli(*fit, "--name", run.name).code == 128 + signal.SIGTERM
    if older:
        set_loss(run, older)
    resumed = run_cli("fit", "--resume", run, *again)
    assert resumed.code == 0, resumed.stderr
    assert ("with the defaults of the version" in resumed.stdout) == bool(older)
    assert_same_run(straight, run)
    assert yaml.safe_load((run / "config.yaml").read_text())["loss"]["expression"] == kept
