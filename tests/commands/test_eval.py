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

from segtrain.data.loading.batch import Batch
from segtrain.evaluation.prediction import group_by_size
from segtrain.models.checkpoint import load_model, save_model

MEANS = ["miou", "miou_ci", "miou_absent_as_0", "pixel_accuracy", "mean_accuracy", "fw_iou"]
MEANS += ["boundary_iou", "ece", "images", "groups", "headline", "classes", "regions"]
CLASS_KEYS = ["name", "iou", "iou_ci", "dice", "precision", "recall", "share", "boundary_iou"]
CLASS_KEYS += ["regions", "kept"]
FILES = ["confusion.csv", "confusion.png", "metrics.json", "per_image.csv", "report.html"]


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A writable copy of the trained run."""
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


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def newest(run: Path) -> Path:
    """Return the folder of the last evaluation: the run's own, or one beside it."""
    return max((run / "eval").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


def report(run: Path) -> dict:
    return json.loads((newest(run) / "metrics.json").read_text())


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
        for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
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
        counted = {key: found[key] for key in expected}
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
    assert list(scores) == [*MEANS, "calibration", "scored"]
    assert [list(c) for c in scores["classes"]] == [CLASS_KEYS] * 3
    assert (scores["images"], [c["name"] for c in scores["classes"]]) == (4, ["0", "1", "2"])
    images = sorted((ignoring / "images/val").iterdir())
    pairs = list(pixel_pairs(run, images, ignoring / "masks/val", tmp_path / "out"))
    check_scores(scores, pairs, 3)

    rows = read_csv(newest(run) / "per_image.csv")
    assert [row["image"] for row in rows] == [image.name for image in images]
    for row, pair in zip(rows, pairs, strict=True):
        counts = [count([pair], c) for c in range(3)]
        assert int(row["pixels"]) == counts[0][3] < pair[1].size
        for c, (tp, fp, fn, _) in enumerate(counts):
            iou = tp / (tp + fp + fn) if tp + fp + fn else None
            assert (float(row[f"iou/{c}"]) if row[f"iou/{c}"] else None) == pytest.approx(iou)


def test_the_runs_own_val_gives_the_best_miou_of_its_history(run: Path, trained: Path):
    answer = evaluate(run)
    rows = read_csv(trained / "metrics.csv")
    best = max(float(row["val_miou"]) for row in rows)
    scores = report(run)
    assert scores["miou"] == pytest.approx(best, abs=1e-9)
    assert scores["images"] == 1
    assert f"mIoU {best:.4f} on val: macro over" in answer.stdout
    assert "ignore id 255, native size, 1 image\n" in answer.stdout
    assert scores["miou_ci"] is None  # one image has no spread


@pytest.mark.parametrize(
    "text", ["epoch,val_miou\n1,high\n", "val_miou\n0.5\n", "epoch\n1,2\n", "epoch\n\xff\n"]
)
def test_a_damaged_history_is_refused_before_scoring(run: Path, tmp_path: Path, text: str):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    (copy / "metrics.csv").write_text(text, encoding="latin-1")
    answer = run_cli("eval", copy, "--device", "cpu", "--workers", "0")
    assert answer.code == 1 and f"{copy / 'metrics.csv'}: damaged" in answer.error
    assert not (copy / "eval").exists()


def test_pictures_of_the_report_open(run: Path, ignoring: Path):
    answer = evaluate(run, "--data", ignoring, "--split", "train", "--set", "eval.worst=3")
    folder = newest(run)
    found = sorted(path.name for path in folder.iterdir())
    assert found == sorted([*FILES, "hard_pixels", "worst"])
    assert str(folder) in answer.stdout
    rows = read_csv(folder / "per_image.csv")
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
def test_kept_shares_are_those_of_each_images_hard_pixels(
    run, ignoring: Path, tmp_path: Path, thresh: float
):
    model, meta = load_model(run / "checkpoints/best.safetensors")
    meta.config.loss.thresh = thresh
    save_model(tmp_path / "other.safetensors", model, meta)
    evaluate(tmp_path / "other.safetensors", "--data", ignoring)
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
    shares = [c["kept"] for c in report(tmp_path)["classes"]]
    assert shares[:2] == pytest.approx(kept[:2] / pixels[:2], abs=0.002)
    assert shares[2] is None and 0 < sum(shares[:2]) <= 2


def test_a_loss_that_mines_nothing_has_no_hard_pixels(run, ignoring: Path, tmp_path: Path):
    model, meta = load_model(run / "checkpoints/best.safetensors")
    meta.config.loss.expression = "ce+dice"
    save_model(tmp_path / "other.safetensors", model, meta)
    answer = evaluate(tmp_path / "other.safetensors", "--data", ignoring)
    assert not (newest(tmp_path) / "hard_pixels").exists()
    assert "kept" not in report(tmp_path)["classes"][0] and "kept" not in answer.stdout


def test_an_absent_class_is_null_and_named(run: Path, ignoring: Path, tmp_path: Path):
    model, meta = load_model(run / "checkpoints/best.safetensors")
    model.network.segmentation_head[0].bias.data[2] = -1e9  # never predicted
    save_model(tmp_path / "never.safetensors", model, meta)
    answer = evaluate(tmp_path / "never.safetensors", "--data", ignoring)
    scores = report(tmp_path)
    none = {"count": 0, "found": 0, "recall": None}
    absent = dict.fromkeys(CLASS_KEYS) | {"name": "2", "share": 0}
    absent["regions"] = {"small": none, "medium": none, "large": none}
    assert scores["classes"][2] == absent
    ious = [c["iou"] for c in scores["classes"][:2]]
    assert scores["miou"] == pytest.approx(sum(ious) / 2)
    assert scores["miou_absent_as_0"] == pytest.approx(sum(ious) / 3)
    absence = f"(2 absent, in no mean; {sum(ious) / 3:.4f} if counted as 0)"
    assert f"macro over 2 of 3 classes {absence}" in answer.stdout
    rows = read_csv(newest(tmp_path) / "per_image.csv")
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
    """Several images in a forward pass: the same scores up to rounding, in the same order."""
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
        with open(newest(run) / "per_image.csv") as file:
            reports.append(list(csv.DictReader(file)))
    one, two = reports
    assert [row["image"] for row in one] == [f"{index}.png" for index in range(6)]
    for alone, together in zip(one, two, strict=True):
        assert alone["image"] == together["image"] and alone["pixels"] == together["pixels"]
        assert float(alone["pixel_accuracy"]) == pytest.approx(
            float(together["pixel_accuracy"]), abs=2e-3
        )


def test_consecutive_images_of_one_size_are_grouped():
    def of(*shapes: int) -> list[Batch]:
        return [Batch(torch.zeros(1, 3, s, s), None, [i], {}) for i, s in enumerate(shapes)]

    groups = [[b.indices[0] for b in group] for group in group_by_size(of(1, 1, 1, 2, 1, 1), 2)]
    assert groups == [[0, 1], [2], [3], [4, 5]]
    assert [len(group) for group in group_by_size(of(1, 1, 2), 1)] == [1, 1, 1]
    assert list(group_by_size([], 3)) == []


@pytest.fixture(scope="module")
def predicted(run: Path, ignoring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks and overlays that segtrain predict writes of the val images of `ignoring`."""
    out = tmp_path_factory.mktemp("masks") / "out"
    list(pixel_pairs(run, sorted((ignoring / "images/val").iterdir()), ignoring / "masks/val", out))
    return out


def test_masks_of_another_tool_have_the_scores_of_the_network_behind_them(
    run: Path, ignoring: Path, predicted: Path, tmp_path: Path
):
    evaluate(run, "--data", ignoring)
    of_network = report(run)
    masks = shutil.copytree(predicted, tmp_path / "masks")
    answer = evaluate("--predictions", masks, "--data", ignoring, "--set", "data.classes=[a, b, c]")
    of_masks = report(masks)
    assert (of_masks["ece"], of_masks["calibration"]) == (None, None)
    for key in [*MEANS[:7], "images", "groups", "regions"]:
        assert of_masks[key] == of_network[key], key
    for row, same in zip(of_masks["classes"], of_network["classes"], strict=True):
        assert "kept" not in row
        assert row | {"name": same["name"], "kept": same["kept"]} == same
    folder = masks / "eval/val"
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "worst"])
    assert str(folder / "report.html") in answer.stdout
    again = evaluate("--predictions", masks, "--data", ignoring, "--set", "data.classes=[a, b, c]")
    assert again.stdout == answer.stdout  # its own pictures are no masks


def test_classes_of_masks_are_those_of_the_data(cli, pairs: Path):
    """Without names classes are inferred from the training masks."""
    answer = evaluate("--predictions", pairs / "masks", "--data", pairs)
    scores = report(pairs / "masks")
    assert [row["name"] for row in scores["classes"]] == ["0", "1", "2"]
    assert (scores["miou"], scores["images"]) == (1, 1) and "1 held out for val" in answer.stdout


def test_masks_may_hold_the_values_of_the_data_set(tmp_path: Path):
    root = tmp_path / "cells"
    for split in ("train", "val"):
        for folder in ("images", "masks", "tool"):
            (root / folder / split).mkdir(parents=True)
        image, mask = scene(1, classes=2)
        Image.fromarray(image).save(root / f"images/{split}/a.png")
        Image.fromarray(mask * 255).save(root / f"masks/{split}/a.png")
        Image.fromarray(mask * 255).save(root / f"tool/{split}/a.png")
    (tmp_path / "cells.yaml").write_text("data: {classes: [out, cell], label_map: {255: 1}}")
    asked = ["--predictions", root / "tool/val", "--data", root]
    asked += ["--config", tmp_path / "cells.yaml"]
    answer = run_cli("eval", *asked, "--workers", "0")
    assert answer.code == 1
    assert "tool/val/a.png: 960 pixels of 255, which is no class" in answer.error
    assert "--set eval.mask_values=own" in answer.error
    evaluate(*asked, "--set", "eval.mask_values=own")
    assert report(root / "tool/val")["miou"] == 1


VIEW = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)


def save_indexed(file: Path, mask: np.ndarray, order: list[int]) -> None:
    """Save class ids in the colours of VIEW, its palette in another order."""
    image = Image.fromarray(np.argsort(order)[mask].astype(np.uint8))
    image.putpalette(VIEW[order].ravel().tolist())
    file.parent.mkdir(exist_ok=True)
    image.save(file)


@pytest.mark.parametrize("truth", ["given", "indexed", "grey"])
@pytest.mark.parametrize("turns", [[0, 1, 2, 0], [1, 1, 1, 1]])
def test_perfect_masks_with_other_palettes_are_read_by_colour(
    ignoring: Path, tmp_path: Path, truth: str, turns: list[int]
):
    """Predictions that an optimiser made indexed contradict each other or the truth."""
    root = shutil.copytree(ignoring, tmp_path / "set")
    for turn, file in zip(turns, sorted((root / "masks/val").iterdir()), strict=True):
        mask = np.asarray(Image.open(file)) % 255
        save_indexed(tmp_path / "tool" / file.name, mask, np.roll([0, 1, 2], turn).tolist())
    if truth == "indexed":
        for file in sorted((root / "masks").glob("*/*.png")):
            save_indexed(file, np.asarray(Image.open(file)) % 255, [0, 1, 2])
    given = ["--set", f"data.palette={VIEW.tolist()}"] * (truth == "given")
    asked = ["--predictions", tmp_path / "tool", "--data", root, "--set", "data.classes=[a, b, c]"]
    answer = run_cli("eval", *asked, *given, "--workers", "0")
    if truth == "grey" and len(set(turns)) == 1:
        assert answer.code == 0  # nothing shows that the colours are not for the eye
        return
    assert answer.code == 1 and "data.palette_by=colour" in answer.error
    assert (str(VIEW.tolist()) in answer.error) == (truth == "indexed")
    colours = ["--set", "data.palette_by=colour", "--set", f"data.palette={VIEW.tolist()}"]
    evaluate(*asked, *colours)
    assert report(tmp_path / "tool")["miou"] == 1
    evaluate(*asked, *given, "--set", "data.palette_by=index")
    assert report(tmp_path / "tool")["miou"] < 1


@pytest.mark.parametrize(
    "spoil, code, message",
    [
        (lambda masks: (masks / "0_mask.png").unlink(), 1, "no mask for 1 of 4 images: 0"),
        (lambda masks: shutil.rmtree(masks), 2, "no such folder"),
        (
            lambda masks: Image.new("L", (9, 9)).save(masks / "1_mask.png"), 1, "sizes differ"
        ),
        (
            lambda masks: Image.new("L", (40, 48), 255).save(masks / "0_mask.png"), 1,
            "1885 pixels of 255, which is no class",
        ),
        (lambda masks: Image.new("L", (40, 48), 3).save(masks / "0_mask.png"), 1, "value 3"),
        (
            lambda masks: [shutil.copytree(masks, masks / sub) for sub in ("a", "b")], 1,
            "two masks for",
        ),
    ],
)  # fmt: skip
def test_masks_that_cannot_be_scored(
    cli, ignoring: Path, predicted: Path, tmp_path: Path, spoil, code: int, message: str
):
    masks = shutil.copytree(predicted, tmp_path / "masks")
    spoil(masks)
    asked = ["--predictions", masks, "--data", ignoring, "--set", "data.classes=[a, b, c]"]
    answer = cli("eval", *asked, "--workers", "0")
    assert (answer.code, message in answer.error) == (code, True), answer.error
    assert not (masks / "eval").exists()


@pytest.mark.parametrize("mirrored", [True, False])
def test_images_of_one_name_have_masks_of_their_own(cli, tmp_path: Path, mirrored: bool):
    """Two cameras with images of the same names: their folders tell the masks apart."""
    lines = []
    for index, camera in enumerate(("cam1", "cam2", "cam3")):
        image, mask = scene(index)
        for kind, array in (("image", image), ("mask", mask), ("tool", mask)):
            folder = tmp_path / kind / (camera if mirrored or kind != "tool" else "all")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / "7.png")
        lines.append(f"image/{camera}/7.png,mask/{camera}/7.png")
    (tmp_path / "train.txt").write_text(lines.pop())
    (tmp_path / "val.txt").write_text("\n".join(lines))
    asked = ["--predictions", tmp_path / "tool", "--data", tmp_path, "--set", "data.format=lists"]
    answer = cli("eval", *asked, "--split", "val", "--set", "data.classes=[a, b, c]")
    if mirrored:
        assert answer.code == 0, answer.stderr
        assert report(tmp_path / "tool")["miou"] == 1
        rows = read_csv(tmp_path / "tool/eval/val/per_image.csv")
        assert [row["image"] for row in rows] == ["cam1/7.png", "cam2/7.png"]
    else:
        assert answer.code == 1 and "would be the prediction of both" in answer.error


def test_where_no_report_can_be_written_nothing_is_scored(
    cli, ignoring: Path, predicted: Path, tmp_path: Path, monkeypatch
):
    masks = shutil.copytree(predicted, tmp_path / "masks")
    (masks / "eval").write_text("a file")
    monkeypatch.setattr("segtrain.commands.eval.Accumulator", None)  # scoring begins with it
    asked = ["--predictions", masks, "--data", ignoring, "--set", "data.classes=[a, b, c]"]
    answer = cli("eval", *asked)
    assert answer.code == 1 and f"{masks / 'eval'} is not a writable folder" in answer.error


def test_a_run_and_masks_are_not_scored_at_once(cli, run: Path, predicted: Path):
    answer = cli("eval", run, "--predictions", predicted)
    assert answer.code == 2 and "score one of the two" in answer.error
    answer = cli("eval", run, "--config", "x.yaml")
    assert answer.code == 2 and "--config is for --predictions" in answer.error


def test_images_are_drawn_in_groups(run: Path, ignoring: Path, tmp_path: Path):
    """Two groups of two: a resample is one of them twice, or the whole."""
    root = shutil.copytree(ignoring, tmp_path / "videos")
    for path in list(root.rglob("*.png")):
        path.rename(path.with_stem("ab"[int(path.stem) // 2] + f"_{path.stem}"))
    evaluate(run, "--data", root)
    assert report(run)["groups"] == 4
    evaluate(run, "--data", root, "--set", "data.group_by='^(.)_'")
    named = report(run)
    evaluate(run, "--data", root, "--set", "eval.group_by='^(.)_'")  # the older name
    scores = report(run)
    assert scores["miou_ci"] == named["miou_ci"]
    assert (scores["images"], scores["groups"]) == (4, 2)
    assert "over 2 groups of images" in scores["headline"]
    rows = read_csv(newest(run) / "per_image.csv")
    assert [row["group"] for row in rows] == ["a", "a", "b", "b"]

    def miou(rows: list[dict]) -> float:
        sums = {kind: [sum(int(row[f"{kind}/{c}"]) for row in rows) for c in range(3)]
                for kind in ("tp", "fp", "fn")}  # fmt: skip
        counts = zip(*sums.values(), strict=True)
        ious = [tp / all_ for tp, *others in counts if (all_ := tp + sum(others))]
        return sum(ious) / len(ious)

    assert scores["miou_ci"] == pytest.approx(sorted([miou(rows[:2]), miou(rows[2:])]))
    assert scores["miou"] == pytest.approx(miou(rows))


def test_an_image_that_is_all_ignored_is_not_drawn(run: Path, ignoring: Path, tmp_path: Path):
    """One image is left, which has no spread."""
    root = shutil.copytree(ignoring, tmp_path / "one")
    for path in sorted((root / "masks/val").iterdir())[1:]:
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    evaluate(run, "--data", root)
    scores = report(run)
    assert (scores["images"], scores["groups"], scores["miou_ci"]) == (4, 1, None)


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("night", "data.group_by: 'night' matches nothing in 4 of 4 names, such as 0.png"),
        ("[1-3]", "'[1-3]' matches nothing in 1 of 4 names, such as 0.png; add '|(.+)'"),
        ("(", "expected a regular expression"),
    ],
)
def test_patterns_that_cannot_group(run: Path, ignoring: Path, pattern: str, message: str):
    answer = run_cli("eval", run, "--data", ignoring, "--set", f"eval.group_by='{pattern}'")
    assert answer.code == 2 and message in answer.error


def test_json_is_all_that_is_printed(run: Path, ignoring: Path):
    answer = evaluate(run, "--data", ignoring, "--json")
    assert json.loads(answer.stdout) == report(run)


def test_names_of_classes_are_text_and_no_markup(cli, pairs: Path):
    masks = pairs.rename(pairs.with_name("[red]")) / "masks"
    names = "data.classes=['[bold]', '[/u]', \"\\e[31m\", '[i]']"  # the last is absent
    answer = evaluate("--predictions", masks, "--data", masks.parent, "--set", names)
    rows = [line.split()[0] for line in answer.stdout.splitlines() if line[0] in "[\\"]
    assert rows == ["[bold]", "[/u]", r"\x1b[31m", "[i]"] and "\x1b" not in answer.stdout
    assert "[i] absent" in answer.stdout and f"report: {masks}/eval" in answer.stdout


def test_the_table_fits_a_terminal_of_80_columns(run: Path, ignoring: Path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    answer = evaluate(run, "--data", ignoring)
    lines = answer.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class"))
    end = next(i for i, line in enumerate(lines) if line.startswith("mIoU 0") and " on " in line)
    table = lines[start:end]
    assert len(table) >= 6 and max(map(len, table)) <= 80
    assert "\x1b" not in answer.stdout and "…" not in answer.stdout


def test_windows_give_nearly_the_same_score(run: Path, ignoring: Path):
    evaluate(run, "--data", ignoring)
    whole = report(run)["miou"]
    windows = ["--set", "eval.max_pixels=700", "--set", "eval.window=32"]
    evaluate(run, "--data", ignoring, *windows)
    assert report(run)["miou"] == pytest.approx(whole, abs=0.1)
    evaluate(run, "--data", ignoring, "--set", "eval.tta=[hflip, 1.25]")
    assert report(run)["miou"] == pytest.approx(whole, abs=0.1)
    assert report(run)["headline"].endswith(
        "native size, 4 images, test-time augmentation hflip, 1.25"
    )


def test_windowed_and_flipped_scores_are_those_of_the_masks_that_predict_writes(
    run: Path, ignoring: Path, tmp_path: Path
):
    changed = ["--set", "eval.max_pixels=700", "--set", "eval.window=32"]
    changed += ["--set", "eval.tta=[hflip, 0.75]"]
    evaluate(run, "--data", ignoring, *changed)
    images = sorted((ignoring / "images/val").iterdir())
    done = run_cli("predict", *images, "--checkpoint", run, "--out", tmp_path / "out", *changed)
    assert done.code == 0, done.stderr
    scores = report(run)
    masks = ["--predictions", tmp_path / "out", "--set", "data.classes=[a, b, c]"]
    evaluate(*masks, "--data", ignoring)
    assert report(tmp_path / "out")["miou"] == scores["miou"]


def test_long_class_names_differ_in_the_table(cli, trained: Path, tmp_path: Path, monkeypatch):
    """Other classes of the same number; on a narrow terminal, too."""
    names = ["a class of a very long name 1 to 9", "a class of a very long name 2 to 9", "=道路"]
    masks = tmp_path / "masks"
    shutil.copytree(trained.parents[1] / "set/masks", masks)
    listed = ", ".join(map(repr, names))
    command = ["eval", "--predictions", masks, "--data", trained.parents[1] / "set"]
    for columns, last in (("80", "share"), ("40", "95 % interval")):
        monkeypatch.setenv("COLUMNS", columns)
        answer = cli(*command, "--set", f"data.classes=[{listed}]")
        assert answer.code == 0, answer.stderr
        lines = answer.stdout.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("class "))
        assert lines[start].endswith(last)
        rows = [line.split(" 1.000")[0].strip() for line in lines[start + 1 : start + 4]]
        assert len(set(rows)) == 3 and rows[2] == "=道路"
    rows = list(csv.DictReader(open(masks / "eval/val/confusion.csv", encoding="utf-8")))
    assert rows[2]["true \\ predicted"] == "'=道路" and "'=道路" in rows[0]
