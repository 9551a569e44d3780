"""What a score is of, from outside: where eval writes it, and what compare says of two."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Answer, run_cli, write_pairs
from PIL import Image

from segtrain.models.checkpoint import load_model, save_model

BEST = "checkpoints/best.safetensors"


@pytest.fixture(scope="module")
def scored(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run with its own scores; copy it, don't write to it."""
    home = tmp_path_factory.mktemp("scored")
    ignored = shutil.ignore_patterns("*.pt", "events*", "eval")
    run = shutil.copytree(trained, home / "a", ignore=ignored)
    assert evaluate(run).code == 0
    return run


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segtrain.evaluation.report.save_confusion", lambda *_: None)


@pytest.fixture
def run(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scored, "a")
    return Path("a")


def evaluate(*args: object) -> Answer:
    quick = ["--set", "eval.worst=0", "--set", "eval.best=0", "--workers", "0"]
    return run_cli("eval", *quick, "--device", "cpu", *args)


def folders(run: Path) -> list[str]:
    return sorted(folder.name for folder in (run / "eval").iterdir())


def record(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())["scored"]


def change_weights(checkpoint: Path, epoch: int = 9) -> None:
    """As training on does."""
    model, meta = load_model(checkpoint)
    model.network.segmentation_head[0].bias.data += 1
    object.__setattr__(meta, "epoch", epoch)
    save_model(checkpoint, model, meta)


OTHERS = {
    "views": ["--set", "eval.tta=[hflip]"],
    "groups": ["--set", "data.group_by='^.'"],
    "range": ["--set", "data.value_range=[0, 100]"],
    "other files": ["--data", "other"],
}


@pytest.mark.parametrize("how", OTHERS)
def test_other_scores_have_a_folder_of_their_own(run: Path, how: str):
    write_pairs(Path("other"), 6)
    before = (run / "eval/val/metrics.json").read_bytes()
    answer = evaluate(run, *OTHERS[how])
    assert answer.code == 0, answer.stderr
    other, own = folders(run)[1], folders(run)[0]
    assert own == "val" and other.startswith("val-") and len(other) == len("val-12345678")
    assert f"a/eval/{other}" in answer.stdout and "apart from the run's own" in answer.stdout
    assert (run / "eval/val/metrics.json").read_bytes() == before


def test_other_weights_have_a_folder_of_their_own(run: Path):
    file = "last.safetensors"
    shutil.copy(run / BEST, run / "checkpoints" / file)
    change_weights(run / "checkpoints" / file)
    answer = evaluate(run / "checkpoints" / file)
    assert answer.code == 0 and file in answer.stdout and len(folders(run)) == 2
    own, other = (record(run / "eval" / name) for name in folders(run))
    assert own["weights"] != other["weights"] and other["epoch"] == 9
    assert own["truth"] == other["truth"]
    compared = run_cli("compare", run, run / "eval" / folders(run)[1], "--json")
    assert compared.code == 0, compared.stderr
    assert json.loads(compared.stdout)["outdated"] == []


@pytest.mark.parametrize(
    "given",
    [["--set", "eval.worst=1"], ["--set", "predict.opacity=0.9"], ["--data", "SET"]],
)  # fmt: skip
def test_what_changes_no_score_replaces_the_runs_own(run: Path, trained: Path, given: list[str]):
    own = str(trained.parents[1] / "set")
    before = record(run / "eval/val")
    answer = evaluate(run, *[own if word == "SET" else word for word in given])
    assert answer.code == 0 and folders(run) == ["val"]
    after = record(run / "eval/val")
    assert [key for key in after if after[key] != before[key]] in (
        ["checkpoint"],
        ["checkpoint", "eval"],
    )


def test_a_checkpoint_outside_a_run_overwrites_no_other(run: Path):
    for name in ("one", "two"):
        shutil.copy(run / BEST, f"{name}.safetensors")
    change_weights(Path("two.safetensors"))
    assert evaluate("one.safetensors").code == evaluate("two.safetensors").code == 0
    assert len(folders(Path())) == 2


def test_a_data_set_that_moved_is_the_runs_own(run: Path, trained: Path):
    """Its old folder is gone, and the new one has its name."""
    shutil.copytree(trained.parents[1] / "set", "here/set")
    model, meta = load_model(run / BEST)
    meta.config.data.path = "/gone/set"
    save_model(run / BEST, model, meta)
    (run / "config.yaml").write_text("data: {path: /gone/set}")
    assert evaluate(run, "--data", "here/set").code == 0 and folders(run) == ["val"]
    Path("here/set").rename("here/other")
    assert evaluate(run, "--data", "here/other").code == 0 and len(folders(run)) == 2


def test_the_digest_of_masks_is_the_same_for_any_format(run: Path, trained: Path):
    shutil.copytree(trained.parents[1] / "set", "set")
    for path in Path("set/masks").iterdir():
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)).astype(np.int16))
        path.unlink()
    assert evaluate(run, "--data", "set").code == 0
    own, other = (record(run / "eval" / name) for name in folders(run))
    assert own["truth"] == other["truth"] and own["weights"] == other["weights"]


# compare


def test_one_network_in_two_settings_is_no_better_than_itself(run: Path):
    for _ in range(2):  # the same scores
        evaluate(run, "--set", "eval.tta=[hflip]")
    assert len(folders(run)) == 2
    answer = run_cli("compare", run, run / "eval" / folders(run)[1])
    text = " ".join(answer.stdout.split())
    assert answer.code == 0 and "more than" not in text
    assert "The weights are the same" in text and "with eval.tta [hflip], not []" in text
    page = Path("comparison/comparison.html").read_text()
    assert "eval.tta [hflip]" in page and record(run / "eval/val")["weights"][:12] in page


def test_where_only_other_scores_exist_they_are_named(run: Path):
    shutil.copytree(run, "b")
    shutil.rmtree("b/eval")
    evaluate("b", "--set", "eval.tta=[hflip]")
    answer = run_cli("compare", run, "b")
    assert answer.code == 0 and "b: no scores of its own, these are of eval.tta" in answer.stdout
    evaluate("b", "--set", "eval.tta=[vflip]")
    answer = run_cli("compare", run, "b")
    assert answer.code == 2 and "b: not scored on val" in answer.error
    assert all(f"b/eval/{name}" in answer.error for name in folders(Path("b")))


def test_scores_older_than_the_best_checkpoint_are_named(run: Path):
    shutil.copytree(run, "b")
    change_weights(Path("b") / BEST)
    answer = run_cli("compare", run, "b")
    line = next(line for line in answer.stdout.splitlines() if line.startswith("note: b: "))
    assert answer.code == 0 and line.endswith("; do: segtrain eval b")
    assert "best is newer than its scores (epoch 9, scored was epoch 1)" in line
    evaluate("b")
    answer = run_cli("compare", run, "b")
    assert "newer" not in answer.stdout and "note: " not in answer.stdout


@pytest.mark.parametrize("difference, named", [(0.0, False), (0.004, False), (0.1, True)])
def test_scores_without_a_record_have_the_miou_of_the_training(run: Path, difference, named: bool):
    """A run of an older version that was trained on: no weights are recorded."""
    shutil.copytree(run, "b")
    metrics = json.loads(Path("b/eval/val/metrics.json").read_text())
    del metrics["scored"]
    Path("b/eval/val/metrics.json").write_text(json.dumps(metrics))
    model, meta = load_model(Path("b") / BEST)
    save_model(Path("b") / BEST, model, replace(meta, miou=metrics["miou"] + difference))
    answer = run_cli("compare", run, "b")
    assert answer.code == 0 and "note: b: scored by an older version" in answer.stdout
    assert ("note: b: the run's best had val mIoU " in answer.stdout) == named


def test_a_checkpoint_outside_a_run_has_no_newer_scores(run: Path):
    Path("alone").mkdir()
    shutil.copy(run / BEST, "alone/one.safetensors")
    assert evaluate("alone/one.safetensors").code == 0
    assert "note: " not in run_cli("compare", "alone", run).stdout


def test_masks_that_changed_between_two_scores_are_refused(run: Path, trained: Path):
    """As many pixels of each class, at other places."""
    shutil.copytree(trained.parents[1] / "set", "set")
    for name in ("b", "c"):
        shutil.copytree(run, name)
        evaluate(name, "--data", "set")
        for path in Path("set/masks").iterdir():
            Image.fromarray(np.roll(np.asarray(Image.open(path)), 8, axis=0)).save(path)
    paths = [Path(name, "eval", folders(Path(name))[1]) for name in ("b", "c")]
    answer = run_cli("compare", *paths)
    assert answer.code == 2 and "different masks" in answer.error


def test_one_that_cannot_be_compared_leaves_the_others(run: Path):
    shutil.copytree(run, "b")
    shutil.copytree(run, "c")
    Path("c/eval/val/per_image.csv").unlink()
    answer = run_cli("compare", run, "c", "b", "--json")
    assert answer.code == 1 and "1 of 3 runs were not compared: c: " in answer.error
    found = json.loads(answer.stdout)
    assert [c["runs"] for c in found["contenders"]] == [["a"], ["b"]]
    assert "c: not scored" in found["warnings"][-1]
    assert run_cli("compare", "c", run, "b").code == 2  # the reference


def test_the_page_shows_what_was_scored(run: Path):
    page = (run / "eval/val/report.html").read_text()
    own = record(run / "eval/val")
    assert own["weights"][:12] in page and own["truth"][:12] in page
    assert f"epoch {own['epoch']}, step {own['step']}" in page


def test_another_precision_is_named_as_rounding(run: Path):
    evaluate(run, "--set", "train.precision=bf16")
    answer = run_cli("compare", run, run / "eval" / folders(run)[1])
    text = " ".join(answer.stdout.split())
    assert answer.code == 0 and "with precision bf16, not 32: last digits may differ" in text
