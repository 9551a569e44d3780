"""segtrain tune, from outside: what it stores, and who honours it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, Answer, run_cli, write_pairs
from PIL import Image
from sklearn.metrics import jaccard_score

import segtrain
from segtrain.models.checkpoint import load_model, read_meta, save_model
from segtrain.models.stored_weights import hash_stored_weights
from segtrain.models.tuning import Tuning

ON_CPU = ["--device", "cpu", "--workers", "0"]
BEST = "checkpoints/best.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, converted_once: None) -> Path:
    """Return set/, whose test split can't be read, and run/, whose network is biased and timid."""
    home = tmp_path_factory.mktemp("tune")
    for first, split in ((0, "train"), (20, "val"), (40, "test")):
        folders = {"images": f"images/{split}", "masks": f"masks/{split}"}
        write_pairs(home / "set", 8, first=first, classes=2, **folders)
    for file in home.glob("set/*/test/*"):
        file.write_bytes(b"damaged")
    quick = [word.replace("steps_per_epoch=2", "steps_per_epoch=60") for word in QUICK]
    data = ["--data", home / "set", "--out", home, "--name", "run", "--lr", "0.01"]
    assert run_cli("fit", *data, *quick).code == 0
    model, meta = load_model(home / "run" / BEST)
    with torch.no_grad():
        model.network.segmentation_head[0].bias[1] -= 1
    save_model(home / "run" / BEST, model, meta)
    return home


@pytest.fixture(scope="module")
def scored(home: Path) -> Path:
    """Return the run with the scores that it has without tuning."""
    assert run_cli("eval", home / "run", *ON_CPU).code == 0
    return home / "run"


@pytest.fixture(scope="module")
def tuned(scored: Path) -> Path:
    """Return a tuned copy of the scored run."""
    copy = shutil.copytree(scored, scored.parent / "tuned")
    tune(copy)
    return copy


def tune(run: Path, *more: object) -> Answer:
    done = run_cli("tune", run, *ON_CPU, *more)
    assert done.code == 0, done.stderr
    return done


def fit_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fits return what can only do harm."""
    module = "segtrain.evaluation.tuning"
    monkeypatch.setattr(f"{module}.fit_biases", lambda logits, truth: np.array([0, 9.0]))
    monkeypatch.setattr(f"{module}.fit_temperature", lambda logits, truth: 50.0)


def scores(run: Path, *more: object) -> dict:
    done = run_cli("eval", run, *ON_CPU, "--json", *more)
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def masks(checkpoint: Path, out: Path, *more: str) -> dict[str, np.ndarray]:
    images = sorted((checkpoint.parents[1] if checkpoint.is_file() else checkpoint).glob("../set"))
    images = images or sorted(checkpoint.parents[2].glob("set"))
    done = run_cli(
        "predict", images[0] / "images/val", "--checkpoint", checkpoint, "--out", out,
        "--device", "cpu", *more,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    return {f.stem[:3]: np.array(Image.open(f)) for f in sorted(out.rglob("*_mask.png"))}


def test_it_stores_what_helps_beside_the_same_weights(scored: Path, tmp_path: Path):
    run = shutil.copytree(scored, tmp_path / "run")
    shutil.copytree(scored.parent / "set", tmp_path / "set")
    before = hash_stored_weights(run / BEST)[0]
    done = tune(run)
    table = [line.split() for line in done.stdout.splitlines() if line.startswith(("biases", "t"))]
    assert [row[0] for row in table] == ["biases", "temperature"]
    assert [row[-1] for row in table] == ["yes", "yes"]
    assert "from a probability of 0." in done.stdout.splitlines()[-1]
    meta = read_meta(run / BEST)
    assert meta.tuning.split == "val" and meta.tuning.biases[1] > 0
    assert [choice.name for choice in meta.tuning.choices] == ["biases", "temperature"]
    assert hash_stored_weights(run / BEST)[0] == before
    assert tune(run).stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]  # of itself nothing
    assert read_meta(run / BEST) == meta


def test_json_is_all_that_is_printed(scored: Path, tmp_path: Path):
    run = shutil.copytree(scored, tmp_path / "run")
    shutil.copytree(scored.parent / "set", tmp_path / "set")
    model, meta = load_model(run / BEST)
    viewed = meta.config.eval.model_copy(update={"tta": ["hflip"]})
    viewed = meta.config.model_copy(update={"eval": viewed})
    save_model(run / BEST, model, replace(meta, config=viewed))
    grouped = ["--set", "data.group_by='^0.[13579]|^0'"]  # the even ones in one
    done = tune(run, "--data", tmp_path / "set", "--json", *grouped)
    assert "eval.tta: left out" in done.stderr and "pairs: 8 train, 8 val" in done.stderr
    found = json.loads(done.stdout)
    assert found["checkpoint"] == str(run / BEST) and found["split"] == "val"
    assert found["weights"] == hash_stored_weights(run / BEST)[0]
    assert found["data"] == str(tmp_path / "set")
    assert (found["images"], found["groups"]) == (8, 5)
    assert found["tuning"] == asdict(read_meta(run / BEST).tuning)
    assert [(c["name"], c["score"], c["stored"]) for c in found["choices"]] == [
        ("biases", "mIoU", True), ("temperature", "calibration error", True)
    ]  # fmt: skip
    for choice, kept in zip(found["choices"], found["tuning"]["choices"], strict=True):
        assert {key: choice[key] for key in kept} == kept


def test_json_names_what_is_not_stored(scored: Path, tmp_path: Path, monkeypatch):
    run = shutil.copytree(scored, tmp_path / "run")
    fit_harm(monkeypatch)
    found = json.loads(tune(run, "--json").stdout)
    assert found["tuning"] is None and read_meta(run / BEST).tuning is None
    assert not any(choice["stored"] for choice in found["choices"])
    assert found["choices"][0]["gain"] < 0


def test_eval_shows_before_and_after(scored: Path, tuned: Path):
    own = json.loads((scored / "eval/val/metrics.json").read_text())
    done = run_cli("eval", tuned, *ON_CPU)
    found = json.loads((tuned / "eval/val/metrics.json").read_text())
    assert found["miou"] > own["miou"] and found["ece"] < own["ece"]
    assert found["before_tuning"] == pytest.approx(
        {"miou": own["miou"], "ece": own["ece"]}, abs=1e-6
    )
    assert (
        f"before tuning: mIoU {own['miou']:.3f}  calibration error {own['ece']:.3f}" in done.stdout
    )
    assert found["headline"].endswith(", tuned on this split")
    assert "tuned" not in own["headline"] and "before_tuning" not in own
    assert found["scored"]["tuned"] == read_meta(tuned / BEST).tuning.describe()
    assert found["scored"]["weights"] == own["scored"]["weights"]
    assert (
        found["scored"]["tuned"].replace("'", "&#39;")
        in (tuned / "eval/val/report.html").read_text()
    )


def test_eval_can_turn_it_off_in_a_folder_of_its_own(scored: Path, tuned: Path):
    own = json.loads((scored / "eval/val/metrics.json").read_text())
    found = scores(tuned, "--set", "predict.tuned=false")
    assert [found[k] for k in ("miou", "ece", "classes")] == [
        own[k] for k in ("miou", "ece", "classes")
    ]
    assert found["scored"]["changes"] == ["predict.tuned"]
    assert len([*tuned.glob("eval/val-????????")]) == 1
    assert scores(scored, "--set", "predict.tuned=false")["scored"]["changes"] == []


def test_other_images_were_not_tuned_on(tuned: Path, tmp_path: Path):
    other = write_pairs(tmp_path / "other", 4, "images/val", "masks/val", first=60, classes=2)
    found = scores(tuned, "--data", other)
    assert found["headline"].endswith(", tuned on a split that may have some of these images")


def test_views_are_tuned_each(tuned: Path):
    found = scores(tuned, "--set", "eval.tta=[hflip]")
    plain = scores(tuned, "--set", "eval.tta=[hflip]", "--set", "predict.tuned=false")
    assert found["ece"] < plain["ece"] and "before_tuning" not in found


def test_older_scores_are_named(scored: Path, tuned: Path, tmp_path: Path):
    copy = shutil.copytree(tuned, tmp_path / "copy")
    shutil.copytree(scored / "eval/val", copy / "eval/val", dirs_exist_ok=True)
    done = run_cli("compare", scored, copy, "--out", tmp_path)
    assert done.code == 0 and "was tuned, or its tuning dropped, after its scores" in done.stdout


def test_compare_names_the_difference(scored: Path, tuned: Path, tmp_path: Path):
    scores(tuned)
    done = run_cli("compare", scored, tuned, "--out", tmp_path)
    assert done.code == 0 and "predict.tuned" in done.stdout
    assert "after its scores" not in done.stdout


def test_predict_honours_it_and_can_turn_it_off(tuned: Path, tmp_path: Path):
    truth = {f.stem: np.array(Image.open(f)) for f in (tuned.parent / "set/masks/val").iterdir()}

    def score(found: dict[str, np.ndarray]) -> float:
        pixels = (np.concatenate([m[k].ravel() for k in sorted(truth)]) for m in (truth, found))
        return jaccard_score(*pixels, labels=[0, 1], average="macro")

    out = tmp_path / "out"
    found = scores(tuned)
    assert score(masks(tuned, out)) == pytest.approx(found["miou"])
    plain = masks(tuned, out, "--set", "predict.tuned=false")  # other settings: none is kept
    assert score(plain) == pytest.approx(found["before_tuning"]["miou"])


@pytest.mark.parametrize("format", ["onnx", "openvino", "hf"])
def test_an_export_has_it(tuned: Path, tmp_path: Path, format: str):
    suffix = {"openvino": ".xml", "hf": ""}.get(format, f".{format}")
    path = tmp_path / f"tuned{suffix}"
    done = run_cli("export", tuned, "--format", format, "--out", path)  # its proof compares
    assert done.code == 0, done.stderr
    assert f"{read_meta(tuned / BEST).tuning.describe()}" in done.stdout
    target = path / "model.safetensors" if format == "hf" else path
    miou, ece = (scores(tuned)[key] for key in ("miou", "ece"))
    found = scores(target)
    assert (found["miou"], found["ece"]) == pytest.approx((miou, ece), abs=1e-4)
    assert found["headline"].endswith("tuned on this split")
    if format == "hf":
        assert read_meta(target).tuning == read_meta(tuned / BEST).tuning
        tune(path, "--data", tuned.parent / "set")  # in place: the same weights, the same choices
        assert read_meta(target).tuning == read_meta(tuned / BEST).tuning
    off = run_cli("eval", target, *ON_CPU, "--json", "--set", "predict.tuned=false")
    if format == "hf":
        assert json.loads(off.stdout)["miou"] < miou
        assert "(logits + biases) / temperature" in (path / "README.md").read_text()
    else:
        assert off.code == 2 and "was exported with its tuning" in off.error


def test_an_export_without_it(scored: Path, tuned: Path, tmp_path: Path):
    path = tmp_path / "plain.onnx"
    done = run_cli("export", tuned, "--out", path, "--set", "predict.tuned=false")
    assert done.code == 0 and "tuning" not in done.stdout
    own = json.loads((scored / "eval/val/metrics.json").read_text())
    assert scores(path)["miou"] == pytest.approx(own["miou"], abs=1e-4)
    done = run_cli("tune", path, *ON_CPU)
    assert done.code == 2 and "exported already; tune its run" in done.error


def test_a_loaded_model_is_tuned(scored: Path, tuned: Path):
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    one, meta = segtrain.load(tuned / BEST)
    other, _ = segtrain.load(scored / BEST)
    with torch.inference_mode():
        assert torch.allclose(one(image), meta.tuning.apply(other(image)), atol=1e-5)


def test_training_on_drops_it_with_a_note(tuned: Path, tmp_path: Path):
    data = ["--data", tuned.parent / "set", "--out", tmp_path]
    quick = [word for word in QUICK if word not in ("--weights", "none")]
    done = run_cli("fit", *data, "--name", "new", "--weights", tuned / BEST, *quick)
    assert done.code == 0 and "tuning left out" in done.stdout
    assert read_meta(tmp_path / "new" / BEST).tuning is None
    run = shutil.copytree(tuned, tmp_path / "old")
    done = run_cli("fit", "--resume", run, "--epochs", "2", *ON_CPU)
    assert done.code == 0, done.stderr
    assert "its tuning is dropped with the first better weights" in done.stdout + done.stderr
    assert read_meta(run / "checkpoints/last.safetensors").tuning is None


def test_nothing_is_stored_where_nothing_helps(scored: Path, tmp_path: Path, monkeypatch):
    run = shutil.copytree(scored, tmp_path / "run")
    meta = read_meta(run / BEST)
    model, _ = load_model(run / BEST)
    save_model(run / BEST, model, replace(meta, tuning=Tuning([0.0, 5.0])))
    fit_harm(monkeypatch)
    done = tune(run)
    assert ", and an earlier tuning dropped: no gain is beyond noise" in done.stdout
    assert read_meta(run / BEST) == meta


@pytest.mark.parametrize("place", ["folder", "disk"])
def test_what_cannot_be_written_stays(scored: Path, tmp_path: Path, monkeypatch, place: str):
    run = shutil.copytree(scored, tmp_path / "run")
    before = (run / BEST).read_bytes()
    if place == "folder":
        access = os.access
        monkeypatch.setattr(os, "access", lambda p, mode: "run" not in str(p) and access(p, mode))
    else:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    done = run_cli("tune", run, *ON_CPU)
    assert done.code == 1
    assert ("cannot write in" if place == "folder" else "No space left on device") in done.error
    assert (run / BEST).read_bytes() == before
    assert len([*(run / "checkpoints").iterdir()]) == 3


def test_wrong_commands_are_a_line(trained: Path, tmp_path: Path):
    done = run_cli("tune", trained, *ON_CPU)  # one image held out
    assert done.code == 2 and "val is one group of images" in done.error
    done = run_cli("tune", "hf://someone/network")
    assert done.code == 2 and "isn't yours" in done.error
    assert "No such option: --split" in run_cli("tune", trained, "--split", "test").stderr
    done = run_cli("tune", trained, "--set", "eval.tta=[hflip]")
    assert done.code == 2 and "tune does not read eval.tta" in done.error
    only = write_pairs(tmp_path / "only", 3, "images/train", "masks/train")
    done = run_cli("tune", trained, *ON_CPU, "--data", only)
    assert done.code and "val" in done.error
