"""Loaders of a training, seen through `fit`: samplers, caches, bad files, any channels."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import QUICK, scene, write_pairs
from PIL import Image

from segtrain.commands.requests import read_loss
from segtrain.config.loading import load_config
from segtrain.data.inspection.survey import survey_data_set
from segtrain.data.loading.sampling import batch_at
from segtrain.training.plan import make_plan


def losses(run: str) -> list[str]:
    with open(Path("runs", run, "metrics.csv")) as file:
        return [row["train_loss"] for row in csv.DictReader(file)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_a_sampler_reports_its_share_of_each_class(cli, pairs: Path):
    named = ["--set", "data.classes=[sky, pole, road]", "--set", "data.rare_classes=[pole]"]
    answers = {
        sampler: cli("fit", "--data", pairs, *QUICK, *named, "--set", f"data.sampler={sampler}",
                     "--set", "data.rare_share=1.0", "--name", sampler)
        for sampler in ("uniform", "class-balanced", "rare-crop")
    }  # fmt: skip
    assert [answer.code for answer in answers.values()] == [0, 0, 0]
    assert "pixels under" not in answers["uniform"].stdout
    shares = {}
    for sampler, answer in answers.items():
        start = "training pixels" if sampler == "uniform" else f"pixels under {sampler}"
        line = next(line for line in answer.stdout.splitlines() if line.startswith(start))
        shares[sampler] = float(line.partition("pole ")[2].partition("%")[0])
    assert shares["rare-crop"] > shares["uniform"] + 5
    assert len({losses(sampler)[0] for sampler in answers}) == 3


def test_a_sampler_repeats_whatever_the_workers(cli, pairs: Path):
    more = ["--set", "data.sampler=rare-crop", "--set", "data.rare_classes=['1']"]
    for workers in ("0", "2"):
        assert cli("fit", "--data", pairs, *QUICK, *more, "--workers", workers,
                   "--name", workers).code == 0  # fmt: skip
    assert losses("0") == losses("2")


PASTE = ["--set", "augment.copy_paste=0.5", "--set", "data.rare_classes=['1']"]


def test_copy_paste_is_reported_and_the_same_for_any_workers(cli, pairs: Path):
    for workers in ("0", "2"):
        answer = cli(
            "fit", "--data", pairs, *QUICK, *PASTE, "--workers", workers, "--name", workers
        )
        assert answer.code == 0, answer.stderr
    assert "copy-paste from 5 training images: 1 (in " in answer.stdout
    assert "pixels under uniform and copy-paste (256 crops counted): 0 " in answer.stdout
    cli("fit", "--data", pairs, *QUICK, "--name", "without")
    assert losses("0") == losses("2") != losses("without")


def test_a_batchs_files_have_those_that_are_pasted_from(pairs: Path):
    sets = [*PASTE[1::2], "train.batch_size=2", "augment.crop=32x32"]
    config = load_config(sets=sets, flags={"data.path": str(pairs), "model.weights": "none"})
    plan = make_plan(config, read_loss(config), survey_data_set(config.data))
    names = [sample.image.name for sample in plan.data.splits["train"]]
    seen = set()
    for step in range(10):
        draws = batch_at(step, 5, 2, 0, plan.by_class)
        sources = [names[draw.patch.image] for draw in draws if draw.patch]
        assert plan.batch_files(step) == [names[draw.index] for draw in draws] + sources
        seen.add(len(sources))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("more, words", [
    ([], "augment.copy_paste finds no rare class: none has less than 8.33% .* or leave it out"),
    (["--set", "data.rare_classes=[pole]"], "rare_classes names 'pole'; classes are 0, 1, 2"),
    (["--set", "augment.copy_paste=1.5"], "augment.copy_paste.*at most 1, got 1.5"),
])  # fmt: skip
def test_copy_paste_that_cannot_be_leaves_no_run(cli, pairs: Path, more: list[str], words: str):
    for verb in (["fit", *QUICK, "--data"], ["check", "--augment", "a.png"]):
        answer = cli(*verb, pairs, "--set", "augment.copy_paste=0.5", *more)
        assert answer.code == 2 and re.search(words, answer.error)
    assert not Path("runs").exists() and not Path("a.png").exists()


def test_copy_paste_needs_another_image(cli):
    write_pairs(Path("set"), 1, "train/images", "train/masks")
    write_pairs(Path("set"), 1, "val/images", "val/masks", first=1)
    answer = cli("fit", "--data", "set", *QUICK, "--batch-size", "1", *PASTE)
    assert answer.code == 2 and "there is only one" in answer.error and not Path("runs").exists()


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_changes_no_number(cli, pairs: Path, monkeypatch, cache: str):
    monkeypatch.setenv("SEGTRAIN_CACHE", str(Path("cache").resolve()))
    twice = ["--epochs", "2", "--set", "eval.every=1"]
    for name in ("none", cache, "again"):
        answer = cli("fit", "--data", pairs, *QUICK, *twice, "--name", name, "--set",
                     f"data.cache={'none' if name == 'none' else cache}")  # fmt: skip
        assert answer.code == 0, answer.stderr
        assert ("cache: " in answer.stdout) == (name != "none")
    assert losses("none") == losses(cache) == losses("again")
    assert (len(list(Path("cache/decoded").glob("[0-9a-f]*"))) == 6) == (cache == "disk")


def test_a_damaged_image_is_skipped_and_counted(cli):
    write_pairs(Path("set"), 130, height=32, width=32)
    # only decoding finds the fault: the JPEG's header is whole
    broken = Path("set/images/007.jpg")
    Image.open(broken.with_suffix(".png")).save(broken, quality=95)
    broken.with_suffix(".png").unlink()
    cut(broken)
    more = ["--data", "set", *QUICK, "--set", "train.steps_per_epoch=60", "--workers", "0"]
    stopped = cli("fit", *more, "--name", "stop")
    assert stopped.code == 1 and "images/007.jpg" in stopped.error
    answer = cli("fit", *more, "--name", "skip", "--set", "data.on_error=skip")
    assert answer.code == 0, answer.stderr
    assert "1 image skipped: 007.jpg" in answer.stdout


def test_a_damaged_mask_is_skipped_before_training(cli):
    write_pairs(Path("set"), 130, height=32, width=32)
    cut(Path("set/masks/007.png"))
    more = ["--data", "set", *QUICK]
    assert "masks/007.png" in cli("fit", *more).error
    answer = cli("fit", *more, "--set", "data.on_error=skip")
    assert answer.code == 0, answer.stderr
    assert "skipped: 1 file cannot be read: masks/007.png" in answer.stdout
    for name in ("008", "009", "010"):
        cut(Path(f"set/masks/{name}.png"))
    assert "3 files cannot be read" in cli("fit", *more, "--set", "data.on_error=skip").error


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_images_of_five_channels(cli, pairs: Path, suffix: str):
    for index, path in enumerate(sorted((pairs / "images").iterdir())):
        values = np.concatenate([scene(index)[0], scene(index)[0][..., :2]], 2).astype(np.uint16)
        path.unlink()
        if suffix == ".npy":
            np.save(path.with_suffix(suffix), values * 16)
        else:
            planes = (values * 16).transpose(2, 0, 1)
            tifffile.imwrite(path.with_suffix(suffix), planes, planarconfig="separate")
    more = ["--data", pairs, *QUICK]
    assert "model.in_channels is 3" in cli("fit", *more).error
    bands = ["--set", "model.in_channels=5", "--set", "data.value_range=[0, 4095]"]
    answer = cli("fit", *more, *bands)
    assert answer.code == 0, answer.stderr
    assert "the mean of the 5 channels is unknown" in answer.stdout
    moments = ["--set", "model.mean=[1, 2, 3, 4, 5]", "--set", "model.std=[5, 4, 3, 2, 1]"]
    assert "is unknown" not in cli("fit", *more, *bands, *moments, "--name", "own").stdout
    assert cli("eval", "runs/own").code == 0
    assert cli("predict", pairs / f"images/000{suffix}").code == 0
    with Image.open("predictions/000_overlay.png") as overlay:
        assert overlay.size == (40, 48)


def test_wrong_transforms_leave_no_run(cli, pairs: Path):
    answer = cli("fit", "--data", pairs, *QUICK, "--set", "augment.transforms=[HorizontalFip]")
    assert answer.code == 2 and "did you mean HorizontalFlip" in answer.error
    assert not Path("runs").exists()


def test_another_folder_is_evaluated_in_its_own_layout(cli, pairs: Path):
    other = write_pairs(Path("other"), 4, "images/val", "masks/val", first=20)
    write_pairs(other, 2, "images/train", "masks/train", first=30)
    excluded = ["--set", "data.exclude=[images/003.png]", "--set", "data.format=pairs"]
    assert cli("fit", "--data", pairs, *QUICK, *excluded).code == 0
    Path("other/val.txt").write_text("")
    answer = cli("eval", "--data", other)
    assert answer.code == 0, answer.stderr
    assert "pairs: 2 train, 4 val;" in answer.stdout
