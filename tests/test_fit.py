"""segtrain fit, from outside."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import QUICK, scene, write_pairs
from PIL import Image
from safetensors import safe_open

CONFIGS = Path(__file__).parents[1] / "configs"
SEEDED_LOSS = 1.2170
TIMES = {"images_per_second", "train_seconds", "seconds"}


def rows_of(run: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns of time."""
    with open(run / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def weights_of(run: Path) -> dict[str, np.ndarray]:
    with safe_open(run / "checkpoints/last.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def assert_same_run(one: Path, other: Path) -> None:
    assert rows_of(one) == rows_of(other)
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


def test_a_run_leaves_all_its_files(trained: Path):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    events = {file for file in files if file.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert files - events == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "checkpoints/last.state.pt",
    }
    assert (trained.parent / "latest").resolve() == trained.resolve()
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["device"] == "cpu" and environment["packages"]["torch"]
    assert len(rows_of(trained)) == 1


def test_two_seeded_steps_keep_their_loss(trained: Path):
    # a change that is called a refactoring leaves this number as it is
    assert float(rows_of(trained)[0]["train_loss"]) == pytest.approx(SEEDED_LOSS, rel=1e-3)


def test_fit_learns_and_eval_and_predict_use_it(cli, tmp_path: Path):
    """The one road: three commands, from files to masks that are right."""
    write_pairs(tmp_path / "set", 10)
    options = ["--epochs", "2", "--set", "train.steps_per_epoch=40", "--lr", "0.01"]
    fitted = cli("fit", "--data", "set", *QUICK, *options, "--set", "augment.scale=[1, 1]")
    assert fitted.code == 0, fitted.stderr
    lines = [line for line in fitted.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert cli("eval").code == 0
    scores = json.loads(Path("runs/latest/eval/val/metrics.json").read_text())
    assert scores["miou"] > 0.9 and scores["images"] == 2
    image, mask = scene(99)
    Image.fromarray(image).save("new.png")
    assert cli("predict", "new.png").code == 0
    assert (np.asarray(Image.open("predictions/new_mask.png")) == mask).mean() > 0.9


def test_the_runs_config_repeats_it_exactly(cli, trained: Path):
    again = cli("fit", "--config", trained / "config.yaml", "--name", "again")
    assert again.code == 0, again.stderr
    assert_same_run(trained, Path("runs/again"))


def test_workers_change_nothing(cli, trained: Path):
    config = trained / "config.yaml"
    assert cli("fit", "--config", config, "--workers", "2", "--name", "two").code == 0
    assert_same_run(trained, Path("runs/two"))


def test_resuming_equals_the_straight_run(cli, pairs: Path, monkeypatch: pytest.MonkeyPatch):
    import segtrain.fit

    command = ["fit", "--data", pairs, *QUICK, "--epochs", "2"]
    assert cli(*command, "--name", "straight").code == 0
    whole_save = segtrain.fit.save

    def save_once(*args, **kwargs):
        whole_save(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(segtrain.fit, "save", save_once)
    assert cli(*command, "--name", "stopped").code == 130
    monkeypatch.undo()
    os.chdir(pairs.parent)  # undone, too
    resumed = cli("fit", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(Path("runs/straight"), Path("runs/stopped"))


def test_epochs_without_validation_have_empty_scores(cli, pairs: Path):
    every = ["--set", "eval.every=2"]
    assert cli("fit", "--data", pairs, *QUICK, "--epochs", "3", *every, "--name", "r").code == 0
    validated = [row["val_miou"] != "" for row in rows_of(Path("runs/r"))]
    assert validated == [False, True, True]


def test_a_dropped_short_batch_is_said_once(cli, pairs: Path):
    # six pairs, one held out: five images in batches of two
    said = cli("fit", "--data", pairs, *QUICK, "--epochs", "2")
    assert len(re.findall("leaves out 1,", said.stdout)) == 1


def test_a_loss_that_is_not_finite_ends_the_run(cli, pairs: Path):
    failed = cli(
        "fit",
        "--data",
        pairs,
        *QUICK,
        "--lr",
        "1e30",
        "--set",
        "optim.clip_norm=0",
        "--set",
        "train.log_every=1",
        "--set",
        "train.steps_per_epoch=9",
    )
    assert failed.code == 1
    assert "the loss is" in failed.error and "--lr" in failed.error


@pytest.mark.parametrize("layout, said", [(True, "/data"), (False, "no data set in data/")])
def test_without_data_it_says_what_it_took(cli, tmp_path: Path, layout: bool, said: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/README.md").write_text("no data set")
    if layout:
        write_pairs(tmp_path / "data")
    answer = cli("fit", "--dry-run", "--weights", "none", "--batch-size", "2")
    assert answer.code == 0, answer.stderr
    assert said in answer.stdout.splitlines()[0]
    assert ("embedded demo" in answer.stdout) != layout


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_train(cli, tmp_path: Path, config: Path):
    data = yaml.safe_load(config.read_text())["data"]
    source = data["path"] if "path" in data else write_toy(tmp_path / "toy", data)
    done = cli(
        "fit",
        "--config",
        config,
        "--data",
        source,
        "--weights",
        "none",
        "--crop",
        "32x32",
        "--epochs",
        "1",
        "--workers",
        "0",
        "--set",
        "train.steps_per_epoch=2",
        "--name",
        "r",
    )
    assert done.code == 0, done.stderr
    assert len(rows_of(Path("runs/r"))) == 1


def write_toy(root: Path, data: dict) -> Path:
    """Random pairs in the folders that a config names, of its classes and mapped values."""
    values = [*range(len(data["classes"])), *data["label_map"]]
    rng = np.random.default_rng(0)
    for folders in data["splits"].values():
        for index in range(6):
            arrays = {
                "images": rng.integers(0, 256, (40, 48, 3)),
                "masks": rng.choice(values, (40, 48)),
            }
            for kind, array in arrays.items():
                file = root / folders[kind] / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(file)
    return root


# the second one's encoder has parameters that no loss reaches, which DDP must bear
NETWORKS = {
    "unet": "",
    "fpn": "--arch fpn --encoder efficientnet-b0 --set model.options={}",
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_two_processes_make_one_run_and_count_each_image_once(cli, tmp_path: Path, network: str):
    """Real processes: Fabric's launcher runs the command line again for the second one."""
    write_pairs(tmp_path / "set", 10)
    options = f"--devices 2 --batch-size 4 --set data.val_fraction=0.5 {network}".split()
    command = [sys.executable, "-m", "segtrain", "fit", "--data", "set", *QUICK, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    runs = [path for path in Path("runs").iterdir() if not path.is_symlink()]
    assert len(runs) == 1
    assert len([line for line in done.stdout.splitlines() if line.startswith("epoch ")]) == 1
    (row,) = rows_of(runs[0])
    assert cli("eval").code == 0  # one process; five images, so one rank had two and one three
    scores = json.loads((runs[0] / "eval/val/metrics.json").read_text())
    assert scores["images"] == 5
    assert scores["pixel_accuracy"] == pytest.approx(float(row["val_pixel_accuracy"]), abs=1e-12)
    assert scores["miou"] == pytest.approx(float(row["val_miou"]), abs=1e-12)
