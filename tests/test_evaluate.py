"""segtrain eval, from outside."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Answer, run_cli, scene
from PIL import Image

from segtrain.checkpoint import load_model, save_model
from segtrain.data.dataset import Batch
from segtrain.evaluate import of_one_size

CLASS_KEYS = ["name", "iou", "dice", "precision", "recall", "share", "kept"]


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run that may be written to."""
    ignored = shutil.ignore_patterns("*.pt", "last.safetensors", "events*")
    return shutil.copytree(trained, tmp_path_factory.mktemp("eval") / "run", ignore=ignored)


@pytest.fixture(scope="module")
def ignoring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another data set of three sizes, whose masks lack class 2 and hold ignored pixels."""
    root = tmp_path_factory.mktemp("ignoring")
    for index, (height, width) in enumerate([(48, 40), (40, 33), (56, 47), (48, 31)]):
        image, mask = scene(index, height, width, classes=2)
        mask[:5, :7] = 255
        for kind, array in (("images", image), ("masks", mask)):
            for split in ("train", "val"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / kind / split / f"{index}.png")
    return root


def evaluate(*args: object) -> Answer:
    answer = run_cli("eval", *args, "--device", "cpu", "--workers", "0")
    assert answer.code == 0, answer.stderr
    return answer


def report(run: Path, split: str = "val") -> dict:
    return json.loads((run / "eval" / split / "metrics.json").read_text())


def pixel_pairs(run: Path, images: list[Path], masks: Path, out: Path) -> Iterator[tuple]:
    """(image name, truth, prediction) of each image, as `segtrain predict` writes it."""
    done = run_cli("predict", *images, "--checkpoint", run, "--out", out, "--device", "cpu")
    assert done.code == 0, done.stderr
    for image in images:
        truth = np.asarray(Image.open(masks / f"{image.stem}.png"))
        yield image.name, truth, np.asarray(Image.open(out / f"{image.stem}_mask.png"))


def count(pairs: list[tuple], c: int, lb_ignore: int = 255) -> tuple[int, int, int, int]:
    """tp, fp, fn of class c and all valid pixels, counted pixel by pixel."""
    tp = fp = fn = total = 0
    for _, truth, prediction in pairs:
        for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist()):
            if t != lb_ignore:
                total += 1
                tp += t == c and p == c
                fp += t != c and p == c
                fn += t == c and p != c
    return tp, fp, fn, total


def check_scores(scores: dict, pairs: list[tuple], classes: int) -> None:
    """The report against scores recomputed by their definitions."""
    counts = [count(pairs, c) for c in range(classes)]
    for found, (tp, fp, fn, total) in zip(scores["classes"], counts, strict=True):
        expected = {"share": (tp + fn) / total}
        expected["iou"] = tp / (tp + fp + fn) if tp + fp + fn else None
        expected["dice"] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
        expected["precision"] = tp / (tp + fp) if tp + fp else None
        expected["recall"] = tp / (tp + fn) if tp + fn else None
        counted = {k: v for k, v in found.items() if k not in ("name", "kept")}
        assert counted == pytest.approx(expected, abs=1e-12)
    present = [row for row in counts if row[0] + row[1] + row[2]]
    in_truth = [row for row in counts if row[0] + row[2]]
    total = counts[0][3]
    assert scores["pixel_accuracy"] == pytest.approx(sum(row[0] for row in counts) / total)
    ious = [tp / (tp + fp + fn) for tp, fp, fn, _ in present]
    assert scores["miou"] == pytest.approx(sum(ious) / len(ious))
    recalls = [tp / (tp + fn) for tp, _, fn, _ in in_truth]
    assert scores["mean_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
    weighted = [(tp + fn) / total * tp / (tp + fp + fn) for tp, fp, fn, _ in in_truth]
    assert scores["fw_iou"] == pytest.approx(sum(weighted))


def test_scores_are_those_of_the_masks_that_predict_writes(run, ignoring: Path, tmp_path: Path):
    evaluate(run, "--data", ignoring)
    scores = report(run)
    means = ["miou", "pixel_accuracy", "mean_accuracy", "fw_iou"]
    assert list(scores) == [*means, "images", "classes"]
    assert [list(c) for c in scores["classes"]] == [CLASS_KEYS] * 3
    assert (scores["images"], [c["name"] for c in scores["classes"]]) == (4, ["0", "1", "2"])
    images = sorted((ignoring / "images/val").iterdir())
    pairs = list(pixel_pairs(run, images, ignoring / "masks/val", tmp_path / "out"))
    check_scores(scores, pairs, 3)

    rows = list(csv.DictReader(open(run / "eval/val/per_image.csv")))
    assert [row["image"] for row in rows] == [image.name for image in images]
    for row, pair in zip(rows, pairs):
        counts = [count([pair], c) for c in range(3)]
        assert int(row["pixels"]) == counts[0][3] < pair[1].size
        for c, (tp, fp, fn, _) in enumerate(counts):
            iou = tp / (tp + fp + fn) if tp + fp + fn else None
            assert (float(row[f"iou/{c}"]) if row[f"iou/{c}"] else None) == pytest.approx(iou)


def test_the_runs_own_val_gives_the_best_miou_of_its_history(run: Path, trained: Path):
    answer = evaluate(run)
    rows = csv.DictReader(open(trained / "metrics.csv"))
    best = max(float(row["val_miou"]) for row in rows)
    scores = report(run)
    assert scores["miou"] == pytest.approx(best, abs=1e-9)
    assert scores["images"] == 1
    assert f"mIoU {best:.4f} on val" in answer.stdout
    assert "ignore id 255, native size, 1 images" in answer.stdout


def test_pictures_of_the_report_open(run: Path, ignoring: Path):
    answer = evaluate(run, "--data", ignoring, "--split", "train", "--set", "eval.worst=3")
    folder = run / "eval/train"
    assert sorted(path.name for path in folder.iterdir()) == [
        "confusion.png", "hard_pixels", "metrics.json", "per_image.csv", "worst"]  # fmt: skip
    assert str(folder) in answer.stdout
    rows = list(csv.DictReader(open(folder / "per_image.csv")))
    by_score = sorted(rows, key=lambda row: float(row["miou"]))
    worst = sorted((folder / "worst").iterdir())
    expected = [f"{i:02d}_{Path(row['image']).stem}.png" for i, row in enumerate(by_score[:3], 1)]
    assert [path.name for path in worst] == expected
    hard = sorted((folder / "hard_pixels").iterdir())
    assert [path.name for path in hard] == expected
    for path in [folder / "confusion.png", *worst, *hard]:
        with Image.open(path) as image:
            image.load()
            assert len(image.convert("RGB").getcolors(1 << 20)) > 3


@pytest.mark.parametrize("thresh", [0.7, 0.05])
def test_kept_shares_are_those_of_each_images_hard_pixels(run, ignoring: Path, thresh: float):
    evaluate(run, "--data", ignoring, "--set", f"loss.thresh={thresh}")
    model, _ = load_model(run / "checkpoints/best.safetensors")
    kept, pixels = np.zeros(3), np.zeros(3)
    for path in sorted((ignoring / "images/val").iterdir()):
        image = np.array(Image.open(path).convert("RGB"))
        truth = np.array(Image.open(ignoring / "masks/val" / path.name))
        with torch.inference_mode():
            logits = model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].double().numpy()
        probs = np.exp(logits) / np.exp(logits).sum(0)
        valid = truth != 255
        sure = np.take_along_axis(probs, np.where(valid, truth, 0)[None], 0)[0]
        n_min = max(1, valid.sum() // 16)
        cut = max(thresh, np.sort(sure[valid])[n_min - 1] * (1 + 1e-9))
        for c in range(3):
            kept[c] += ((sure < cut) & (truth == c)).sum()
            pixels[c] += (truth == c).sum()
    shares = [c["kept"] for c in report(run)["classes"]]
    assert shares[:2] == pytest.approx(kept[:2] / pixels[:2], abs=0.002)
    assert shares[2] is None and 0 < sum(shares[:2]) <= 2


def test_a_loss_that_mines_nothing_has_no_hard_pixels(run, ignoring: Path):
    answer = evaluate(run, "--data", ignoring, "--set", "loss.expression=ce+dice")
    assert not (run / "eval/val/hard_pixels").exists()
    assert "kept" not in report(run)["classes"][0] and "kept" not in answer.stdout


def test_an_absent_class_is_null_and_named(run: Path, ignoring: Path, tmp_path: Path):
    model, meta = load_model(run / "checkpoints/best.safetensors")
    model.network.segmentation_head[0].bias.data[2] = -1e9  # never predicted
    save_model(tmp_path / "never.safetensors", model, meta)
    answer = evaluate(tmp_path / "never.safetensors", "--data", ignoring)
    scores = report(tmp_path)
    absent = dict(zip(CLASS_KEYS, ["2", None, None, None, None, 0, None]))
    assert scores["classes"][2] == absent
    ious = [c["iou"] for c in scores["classes"][:2]]
    assert scores["miou"] == pytest.approx(sum(ious) / 2)
    assert "macro over 2 of 3 classes (2 absent, in no mean)" in answer.stdout
    rows = list(csv.DictReader(open(tmp_path / "eval/val/per_image.csv")))
    assert [row["iou/2"] for row in rows] == [""] * 4


def test_a_split_that_is_all_ignored_has_no_score(cli, run: Path, ignoring: Path, tmp_path: Path):
    root = shutil.copytree(ignoring, tmp_path / "void")
    for path in (root / "masks/val").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    copy = tmp_path / "alone.safetensors"
    shutil.copy(run / "checkpoints/best.safetensors", copy)
    answer = cli("eval", copy, "--data", root, "--workers", "0")
    assert answer.code == 1 and "every pixel of val is ignored" in answer.error
    assert not (tmp_path / "eval").exists()


def test_images_of_one_size_go_together(cli, trained: Path):
    """More images than one a forward pass: the same scores but for rounding, in the same order."""
    home = trained.parents[1]
    for index, size in enumerate([(48, 40), (48, 40), (40, 48), (48, 40), (48, 40), (48, 40)]):
        image, mask = scene(index, *size)
        for folder, array in (("images", image), ("masks", mask)):
            Path(f"sizes/{folder}/val").mkdir(parents=True, exist_ok=True)
            Path(f"sizes/{folder}/train").mkdir(parents=True, exist_ok=True)
            for split in ("train", "val"):
                Image.fromarray(array).save(f"sizes/{folder}/{split}/{index}.png")
    run = shutil.copytree(home / "runs/quick", Path("quick"))
    reports = []
    for batch_size in (1, 2):
        together = ["--set", f"eval.batch_size={batch_size}"]
        done = cli("eval", run, "--data", "sizes", "--workers", "0", *together)
        assert done.code == 0, done.stderr
        with open(run / "eval/val/per_image.csv") as file:
            reports.append(list(csv.DictReader(file)))
    one, two = reports
    assert [row["image"] for row in one] == [f"{index}.png" for index in range(6)]
    for alone, together in zip(one, two, strict=True):
        assert alone["image"] == together["image"] and alone["pixels"] == together["pixels"]
        assert float(alone["pixel_accuracy"]) == pytest.approx(
            float(together["pixel_accuracy"]), abs=2e-3
        )


def test_what_goes_together():
    def of(*shapes: int) -> list[Batch]:
        return [Batch(torch.zeros(1, 3, s, s), None, [i], {}) for i, s in enumerate(shapes)]

    groups = [[b.indices[0] for b in group] for group in of_one_size(of(1, 1, 1, 2, 1, 1), 2)]
    assert groups == [[0, 1], [2], [3], [4, 5]]
    assert [len(group) for group in of_one_size(of(1, 1, 2), 1)] == [1, 1, 1]
    assert list(of_one_size([], 3)) == []
