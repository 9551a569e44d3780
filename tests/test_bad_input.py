"""Wrong input of every kind: one line that says what is wrong and what to do, and the exit code."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import QUICK, RESNET18, Answer, write_pairs
from PIL import Image
from safetensors.torch import save_file

from segtrain.distributed.devices import has_mps

SET = Path("set")  # in the test's own folder


def refused(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == code, (answer.stdout, answer.stderr)
    assert [word for word in words if word not in answer.error] == [], answer.error


def fit(cli, *more: object, data: object = SET) -> Answer:
    return cli("fit", "--data", data, *QUICK, *more)


def mask(name: str = "002.png", folder: str = "masks") -> Path:
    return SET / folder / name


def paint(values: np.ndarray | list, path: Path | None = None) -> None:
    Image.fromarray(np.asarray(values, np.uint8)).save(path or mask())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def every_mask(change: Callable[[np.ndarray], np.ndarray], suffix: str = ".png") -> None:
    for path in sorted((SET / "masks").iterdir()):
        values = np.asarray(Image.open(path))
        path.unlink()
        Image.fromarray(change(values)).save(path.with_suffix(suffix))


def lossy(ids: np.ndarray) -> np.ndarray:
    """Values 0, 90, 180 in a pattern that JPEG can't keep."""
    return np.triu(ids + 1)[:, : ids.shape[1]].astype(np.uint8) % 3 * 90


def some_unknown() -> None:
    values = np.asarray(Image.open(mask())).copy()
    values[0, :3] = 7
    paint(values)


COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0)], np.uint8)
NAMED = ["--set", "data.classes=[a, b, c]"]
PALETTE = ["--set", "data.palette=[[0, 0, 0], [250, 0, 0], [0, 0, 250]]"]

# what is done to six good pairs, further options, exit code, words that the line must hold
DATA = {
    "image without mask": (lambda: mask().unlink(), [], 1,
                           ["image(s) without a mask", "images/002.png", "remove"]),
    "mask without image": (lambda: (SET / "images/004.png").unlink(), [], 1,
                           ["mask(s) without an image", "masks/004.png", "remove"]),
    "sizes differ": (lambda: paint(np.zeros((47, 40))), [], 1,
                     ["images/002.png is 40x48", "masks/002.png is 40x47"]),
    "truncated mask": (lambda: cut(mask()), [], 1, ["masks/002.png", "truncated", "replace"]),
    "mask that is text": (lambda: mask().write_text("?"), [], 1, ["masks/002.png", "not an image"]),
    "image that is text": (lambda: (SET / "images/002.png").write_text("?"), [], 1,
                           ["images/002.png", "not an image"]),
    "unknown value": (some_unknown, NAMED, 1,
                      ["masks/002.png", "value 7 (3 px)", "classes are 0..2", "255 is ignored",
                       "data.label_map: {7: ignore}"]),
    "0 and 255 alone": (lambda: every_mask(lambda m: (m > 0) * np.uint8(255)), [], 1,
                        ["0, 255", "label_map: {255: 1}"]),
    "holes in the ids": (lambda: every_mask(lambda m: m + (m > 1) * np.uint8(4)), [], 1,
                         ["0, 1, 6", "label_map: {6: 2}", "7 classes"]),
    "one class": (lambda: every_mask(np.zeros_like), [], 1, ["values 0", "two classes"]),
    "all ignored": (lambda: None, ["--set", "data.label_map={0: ignore, 1: ignore, 2: ignore}",
                                   *NAMED], 1, ["ignored"]),
    "RGB without palette": (lambda: every_mask(lambda m: COLOURS[m]), NAMED, 1,
                            ["masks/00", "data.palette", "(250, 0, 0) ("]),
    "RGB of another palette": (lambda: every_mask(lambda m: COLOURS[m]), [*NAMED, *PALETTE], 1,
                               ["masks/00", "data.palette lacks", "(0, 250, 0) ("]),
    "JPEG masks": (lambda: every_mask(lossy, ".jpg"),
                   ["--set", "data.classes=[a, b]", "--set", "data.label_map={90: 1, 180: 1}"], 1,
                   ["masks/00", ".jpg", "changes labels", "PNG", "data.allow_lossy_masks: true"]),
    "JPEG masks, no classes": (lambda: every_mask(lossy, ".jpg"), [], 1,
                               ["JPEG", "PNG"]),
    "fewer classes than ids": (lambda: None, ["--set", "data.classes=[a, b]"], 1,
                               ["masks/00", "value 2 (", "classes are 0..1", "label_map"]),
    "another stem": (lambda: mask().rename(mask("x.png")), [], 1,
                     ["images/002.png", "masks/x.png"]),
    "several kinds": (lambda: (mask().unlink(), cut(mask("003.png")),
                               paint([[9]], mask("004.png"))), [], 1,
                      ["images/002.png", "masks/003.png", "masks/004.png is 1x1",
                       "'segtrain check' shows all"]),
    "large pixel counts": (lambda: None, ["--set", "data.max_pixels=1919"], 1,
                           ["images/00", "40 x 48", "data.max_pixels (1919)"]),
    "wrong channels": (lambda: None, ["--set", "model.in_channels=4"], 1,
                       ["images/00", "model.in_channels is 4"]),
    "excluded file that is none": (lambda: None, ["--set", "data.exclude=[images/9.png]"], 2,
                                   ["data.exclude", "images/9.png", "images/000.png"]),
    "all excluded": (lambda: None, ["--set", "data.exclude=['images/*']"], 1,
                     ["no pairs", "6 excluded"]),
    "value range the wrong way": (lambda: None, ["--set", "data.value_range=[9, 0]"], 2,
                                  ["data.value_range", "lower one first"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_wrong_data(cli, pairs: Path, case: str):
    spoil, more, code, words = DATA[case]
    spoil()
    refused(fit(cli, *more), code, *words)
    assert not Path("runs").exists()


def test_the_same_image_in_train_and_val(cli):
    for split, first in (("train", 0), ("val", 4)):
        write_pairs(SET, 4, f"images/{split}", f"masks/{split}", first=first)
    shutil.copy(SET / "images/train/001.png", SET / "images/val/005.png")
    refused(fit(cli), 1, "images/train/001.png = images/val/005.png", "two splits",
            "data.exclude: [images/train/001.png]")  # fmt: skip
    assert fit(cli, "--set", "data.exclude=[images/train/001.png]", "--dry-run").code == 0


def test_no_such_folder(cli):
    refused(fit(cli, data="nowhere"), 2, "nowhere", "no such folder", "--data")
    assert list(Path().iterdir()) == []


def test_a_part_of_a_data_set(cli, pairs: Path):
    refused(fit(cli, data=pairs / "images"), 1, f"did you mean {pairs}?")


def test_one_class_is_nothing_to_learn(cli, pairs: Path):
    """Names for masks of 0 and 255, where 255 is ignored by default."""
    every_mask(lambda ids: (ids > 0) * np.uint8(255))
    answer = fit(cli, "--set", "data.classes=[cell, membrane]")
    refused(answer, 1, "all training pixels are cell", "0, 255", "is ignored", "data.label_map")
    assert [path.name for path in Path().iterdir()] == ["set"]


def test_a_folder_without_image_and_mask_folders(cli):
    (SET / "pictures").mkdir(parents=True)
    refused(fit(cli), 1, "set", "pictures holds no files", "data.splits")


def test_empty_folders(cli):
    for folder in ("images", "masks"):
        (SET / folder).mkdir(parents=True)
    refused(fit(cli), 1, "set", "images holds no files", "masks holds no files")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_truncated_image_found_in_training(cli, workers: str):
    for split in ("train", "val"):
        first = 4 * (split == "val")
        write_pairs(SET, 4, f"images/{split}", f"masks/{split}", first=first)
    jpeg = SET / "images/train/001.jpg"
    Image.open(jpeg.with_suffix(".png")).save(jpeg, quality=95)
    jpeg.with_suffix(".png").unlink()
    cut(jpeg)
    answer = fit(cli, "--workers", workers)
    refused(answer, 1, "images/train/001.jpg", "truncated", "replace or remove")
    assert "run: runs" in answer.stdout  # the header was whole: it was found only on reading


@pytest.mark.parametrize("keyed", ["{-1: ignore}", "{-1: 0}"])
def test_a_negative_value_in_the_label_map_hides_no_other(cli, pairs: Path, keyed: str):
    values = np.asarray(Image.open(mask())).astype(np.uint16)
    values[0, :3] = 777
    Image.fromarray(values).save(mask())
    answer = fit(cli, *NAMED, "--set", f"data.label_map={keyed}", "--dry-run")
    assert answer.code in (1, 2), answer.stdout
    assert "label_map" in answer.error


# options, exit code, words
OPTIONS = {
    "unknown key": (["--set", "train.epoch=3"], ["unknown key train.epoch", "train.epochs"]),
    "unknown section": (["--set", "trains.epochs=3"], ["unknown key trains", "train"]),
    "unknown loss": (["--loss", "ohen"], ["'ohen'", "ce, ohem, topk, focal", "did you mean ohem"]),
    "unknown argument of a loss": (["--loss", "ohem(tresh=0.7)"], ["tresh", "thresh"]),
    "no loss expression": (["--loss", "ohem+"], ["'ohem+'", "ohem+0.5*dice"]),
    "code as a loss": (["--loss", "__import__('os').getcwd()"], ["not a loss expression"]),
    "unknown arch": (["--arch", "unett"], ["'unett'", "did you mean unet", "deeplabv3plus"]),
    "unknown encoder": (["--encoder", "resnet81"], ["'resnet81'", "did you mean resnet18"]),
    "unknown timm encoder": (["--encoder", "tu-resnet81"], ["'tu-resnet81'", "tu-resnet"]),
    "thresh 0": (["--thresh", "0"], ["--thresh 0", "greater than 0", "got 0"]),
    "thresh 1.5": (["--thresh", "1.5"], ["--thresh 1.5", "at most 1,", "got 1.5"]),
    "thresh in the loss": (["--loss", "ohem(thresh=2)"], ["thresh", "(0, 1]", "got 2"]),
    "n-min-factor 0": (["--n-min-factor", "0"], ["--n-min-factor 0", "got 0"]),
    "crop words": (["--crop", "big"], ["--crop big", "512 or 512x512"]),
    "crop of three": (["--crop", "32x32x32"], ["--crop 32x32x32"]),
    "crop 0": (["--crop", "0x32"], ["--crop 0x32", "512 or 512x512"]),
    "crop of 10^10 pixels": (["--crop", "100000"], ["100000x100000", "GB", "a smaller --crop"]),
    "crop with a fraction": (["--crop", "12.5"], ["--crop 12.5"]),
    "unknown device": (["--device", "gpu"], ["--device gpu", "'cuda'"]),
    "fp16 on CPU": (["--precision", "fp16"], ["train.precision", "fp16 needs a GPU", "bf16"]),
    "unknown precision": (["--precision", "64"], ["--precision 64", "'fp16'"]),
    "workers below 0": (["--workers", "-1"], ["--workers -1"]),
    "workers in words": (["--workers", "some"], ["--workers some", "auto"]),
    "lr 0": (["--lr", "0"], ["--lr 0", "greater than 0", "got 0"]),
    "lr nan": (["--lr", "nan"], ["--lr nan"]),
    "epochs 0": (["--epochs", "0"], ["--epochs 0", "at least 1", "got 0"]),
    "wrong type": (["--set", "train.log_every=many"], ["train.log_every", "integer", "'many'"]),
    "section that is none": (["--set", "optim.lr.x=1"], ["optim.lr", "number"]),
    "value that is not YAML": (["--set", "model.options={a: ["], ["model.options", "not YAML"]),
    "lb-ignore is a class": (["--lb-ignore", "1", *NAMED], ["lb_ignore 1", "class b", "outside"]),
    "two at once": (["--epochs", "0", "--thresh", "3"], ["--epochs 0", "--thresh 3"]),
    "scale the wrong way": (["--set", "augment.scale=[2, 0.5]"], ["augment.scale", "lower one"]),
    "batch above the images": (["--batch-size", "6"],
                               ["train.batch_size", "6", "5 training images"]),
    "batch and devices": (["--devices", "2", "--batch-size", "3"],
                          ["train.batch_size", "3", "2 devices", "is 4"]),
    "batch of one": (["--batch-size", "1", "--arch", "deeplabv3plus", "--set", "model.options={}"],
                     ["deeplabv3plus", "--batch-size 2"]),
    "batch of one pixel": ([*RESNET18, "--batch-size", "1", "--encoder", "resnet18"],
                           ["unet", "--batch-size 2"]),
    "option of no arch": (["--set", "model.options={decoder_chanels: [8]}", "--dry-run"],
                          ["unet", "decoder_chanels"]),
    "no such weights": (["--weights", "gone.pth"], ["gone.pth", "no such file", "none"]),
    "existing name": (["--name", "old"], ["runs/old exists", "--resume"]),
    "name of a path": (["--name", "a/b"], ["--name a/b", "folder name"]),
    "name latest": (["--name", "latest"], ["--name latest"]),
    "resume of nothing": (["--resume", "gone"], ["--resume gone", "no such run"]),
    "resume without a run": (["--resume"], ["no run in runs", "segtrain fit"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_wrong_options(cli, pairs: Path, case: str):
    more, words = OPTIONS[case]
    Path("runs/old").mkdir(parents=True)
    refused(fit(cli, *more), 2, *words)
    assert list(Path("runs").rglob("*")) == [Path("runs/old")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_a_gpu(cli, pairs: Path):
    refused(fit(cli, "--device", "cuda"), 2, "train.device", "no GPU", "--device cpu")


@pytest.mark.skipif(has_mps(), reason="has the GPU of a Mac")
def test_mps_without_a_mac(cli, pairs: Path):
    line = ["train.device: mps", "torch sees no GPU", "a Mac", "--device cpu"]
    refused(fit(cli, "--device", "mps", "--name", "r"), 2, *line)
    assert not Path("runs").exists()
    assert fit(cli, "--name", "r").code == 0
    for verb in (["eval"], ["tune"], ["predict", "set/images"]):
        refused(cli(*verb, "--device", "mps"), 2, *line)
    refused(fit(cli, "--resume", "r", "--epochs", "2", "--device", "mps"), 2, *line)


def test_a_batch_of_one_image_trains_unet(cli, pairs: Path):
    answer = fit(cli, "--batch-size", "1", "--crop", "64", "--set", "train.steps_per_epoch=1")
    assert answer.code == 0, answer.stderr
    assert list(Path("runs").glob("*/checkpoints/best.safetensors"))


@pytest.mark.parametrize(
    "text, words",
    [
        (None, ["my.yaml", "no such file"]),
        ("train: [1, 2", ["my.yaml", "not YAML"]),
        ("a sentence", ["my.yaml", "expected sections", "a sentence"]),
        ("- train", ["my.yaml", "expected sections"]),
        ("train: {epoch: 3}", ["my.yaml", "unknown key train.epoch", "train.epochs"]),
        ("train: {log_every: few}", ["my.yaml", "train.log_every", "'few'"]),
        ("train: 3", ["my.yaml", "train: expected keys with values"]),
        ("data: {label_map: {255: background}}", ["my.yaml", "data.label_map", "'background'"]),
        ("data: {classes: [a]}", ["my.yaml", "data.classes", "at least 2"]),
        ("data: {palette: [[0, 0, 300]]}", ["my.yaml", "data.palette", "255", "300"]),
        ("data: {classes: [a, b], palette: [[0, 0, 0]]}", ["my.yaml", "1 colours for 2 classes"]),
        ("data: {splits: {train: {image: rgb}}}", ["my.yaml", "data.splits.train.image"]),
    ],
)
def test_wrong_config_files(cli, pairs: Path, text: str | None, words: list[str]):
    if text is not None:
        Path("my.yaml").write_text(text)
    refused(fit(cli, "--config", "my.yaml"), 2, *words)
    assert not Path("runs").exists()


def test_a_config_that_is_no_text(cli, pairs: Path):
    Path("my.yaml").write_bytes(b"\xff\xfe\x00\x01")
    refused(fit(cli, "--config", "my.yaml"), 2, "my.yaml", "cannot be read")


def copy_of(run: Path) -> Path:
    """The run in the test's own folder, without the state to resume from."""
    ignored = shutil.ignore_patterns("*.pt", "last.safetensors", "events*", "eval")
    return shutil.copytree(run, Path("runs") / run.name, ignore=ignored)


@pytest.mark.parametrize(
    "changed, words",
    [
        (["--arch", "fpn", "--loss", "ce"],
         ["model.arch was unet, now fpn", "loss.expression was ohem, now ce", "new run"]),
        (["--batch-size", "3"], ["train.batch_size was 2, now 3"]),
        (["--seed", "5"], ["train.seed was 0, now 5"]),
    ],
)  # fmt: skip
def test_resuming_with_changes_lists_them(cli, trained: Path, changed: list[str], words: list[str]):
    run = copy_of(trained)
    before = (run / "config.yaml").read_bytes()
    answer = cli("fit", "--resume", "quick", *changed, "--set", "model.options={}")
    refused(answer, 2, "--resume runs/quick", *words)
    assert (run / "config.yaml").read_bytes() == before


def test_classes_that_contradict_the_checkpoint(cli, trained: Path):
    run = copy_of(trained)
    refused(cli("eval", run, "--set", "data.classes=[a, b]"), 2, "data.classes", "0, 1, 2")
    assert not (run / "eval").exists()


def text_file(path: Path, _: Path) -> None:
    path.write_text("These are no weights.\n")


def empty_file(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def without_metadata(path: Path, _: Path) -> None:
    save_file({"x": torch.zeros(2)}, path)


def truncated(path: Path, trained: Path) -> None:
    content = (trained / "checkpoints/best.safetensors").read_bytes()
    path.write_bytes(content[: len(content) // 2])


class Payload:
    def __reduce__(self):
        return (open, ("payload-ran", "w"))


def hostile(path: Path, _: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(), protocol=2))


def hostile_archive(path: Path, _: Path) -> None:
    torch.save({"weight": Payload()}, path)


NO_CHECKPOINTS = {
    "text.safetensors": text_file, "text.pth": text_file, "empty.safetensors": empty_file,
    "empty.pth": empty_file, "bare.safetensors": without_metadata,
    "cut.safetensors": truncated, "cut.pth": truncated, "hostile.pth": hostile,
    "hostile_archive.pth": hostile_archive, "hostile.safetensors": hostile,
}  # fmt: skip


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_no_checkpoint(cli, trained: Path, name: str):
    NO_CHECKPOINTS[name](Path(name), trained)
    Image.new("RGB", (8, 8)).save("a.png")
    answer = cli("eval", name, "--data", trained.parents[1] / "set")
    refused(answer, 1, name, "not a segtrain checkpoint")
    refused(cli("predict", "a.png", "--checkpoint", name), 1, name, "not a segtrain checkpoint")
    assert sorted(path.name for path in Path().iterdir()) == sorted(["a.png", name])


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_files_that_are_no_weights(cli, pairs: Path, trained: Path, name: str):
    NO_CHECKPOINTS[name](Path(name), trained)
    refused(fit(cli, "--weights", name), 1, name)
    assert not Path("payload-ran").exists()


def test_wrong_weights_leave_no_run_behind(cli, pairs: Path):
    text_file(Path("text.pth"), Path())
    refused(fit(cli, "--weights", "text.pth"), 1, "text.pth")
    assert not Path("runs").exists()


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache; the hub is offline in all tests."""
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))


def test_imagenet_without_the_hub(cli, pairs: Path, no_hub):
    refused(
        fit(cli, "--weights", "imagenet", "--encoder", "resnet18"), 1, "resnet18", "--weights none"
    )


def test_imagenet_of_an_encoder_that_has_none(cli, pairs: Path, no_hub):
    answer = fit(cli, "--weights", "imagenet", "--encoder", "tu-resnet18d.nothing")
    assert answer.code == 2 and "tu-resnet18d.nothing" in answer.error


def test_auto_without_the_hub_warns_and_continues(cli, pairs: Path, no_hub):
    answer = fit(cli, "--weights", "auto", "--dry-run", *RESNET18[-2:], "--encoder", "resnet18")
    assert answer.code == 0
    assert "warning: no ImageNet weights for resnet18" in answer.stdout
    assert "weights: none" in answer.stdout


@pytest.mark.parametrize("command", [["eval"], ["predict", "a.png"]])
def test_no_run_yet(cli, command: list[str]):
    Image.new("RGB", (8, 8)).save("a.png")
    refused(cli(*command), 2, "no run in runs", "segtrain fit")
    assert [path.name for path in Path().iterdir()] == ["a.png"]


@pytest.mark.parametrize("named", ["gone", "empty"])
def test_no_such_run(cli, named: str):
    Path("empty").mkdir()
    Image.new("RGB", (8, 8)).save("a.png")
    refused(cli("eval", named), 2, named)
    refused(cli("predict", "a.png", "--checkpoint", named), 2, named)


def test_a_run_whose_folder_was_renamed(cli, trained: Path):
    shutil.copytree(trained, "runs/renamed", ignore=shutil.ignore_patterns("*.pt"))
    Path("runs/latest").symlink_to("old_name")
    Image.new("RGB", (8, 8)).save("a.png")
    refused(cli("eval"), 2, "runs/latest", "renamed")
    assert cli("predict", "a.png", "--checkpoint", "renamed", "--device", "cpu").code == 0


def test_unknown_split(cli, trained: Path):
    run = copy_of(trained)
    refused(cli("eval", run, "--split", "tset"), 2, "--split tset", "train, val")
    assert not (run / "eval").exists()


PATHS = {
    "no such path": (lambda: None, "gone.png", 2, ["gone.png", "no such file"]),
    "no match": (lambda: None, "*.png", 2, ["*.png", "glob"]),
    "not an image": (lambda: Path("a.png").write_text("?"), "a.png", 1, ["a.png", "not an image"]),
    "folder without images": (lambda: Path("sub").mkdir(), "sub", 1, ["sub", "no images"]),
    "glob of folders alone": (lambda: Path("sub").mkdir(), "s*", None, ["s*"]),
}


@pytest.mark.parametrize("case", PATHS)
def test_wrong_paths_to_predict(cli, trained: Path, case: str):
    prepare, path, code, words = PATHS[case]
    prepare()
    answer = cli("predict", path, "--checkpoint", trained)
    refused(answer, code or max(1, answer.code), *words)
    assert not Path("predictions").exists()
