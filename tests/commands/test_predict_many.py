"""segtrain predict over many images: failures, the record in --out, and names of the outputs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Answer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from segtrain.errors import SegtrainError
from segtrain.prediction import rasters
from segtrain.prediction.record import RECORD


@pytest.fixture
def predict(cli, trained: Path):
    """Run segtrain predict on the CPU, with the trained run unless --checkpoint names another."""

    def run(*args: object, code: int = 0) -> Answer:
        network = [] if "--checkpoint" in args else ["--checkpoint", trained]
        answer = cli("predict", *args, *network, "--device", "cpu")
        assert answer.code == code, (answer.stdout, answer.stderr)
        return answer

    return run


def draw(*paths: str) -> None:
    """Write images, each another."""
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(list(os.fsencode(path))).integers(0, 256, (16, 24, 3))
        image = Image.fromarray(pixels.astype(np.uint8))
        image.save(path, **({} if Path(path).suffix else {"format": "png"}))


def counts(answer: Answer) -> tuple[int, int]:
    """Return how many images a command says it kept and predicted."""
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("kept ")]
    kept, predicted = line.removeprefix("kept ").split(", predicted ")
    predicted, _, speed = predicted.partition(", ")
    assert bool(int(predicted)) == speed.endswith(" images/s")
    return int(kept), int(predicted)


def masks(out: str = "predictions") -> list[str]:
    return sorted(str(p.relative_to(out)) for p in Path(out).rglob("*_mask.png"))


def contents(out: str = "predictions") -> dict[Path, tuple[int, bytes]]:
    """Return the inode and content of each output: a file that is written again has another."""
    files = [path for path in sorted(Path(out).rglob("*_*.*")) if path.is_file()]
    return {path: (path.stat().st_ino, path.read_bytes()) for path in files}


def damage(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:100])


def too_large(path: str) -> None:
    Image.new("L", (90, 90)).save(path)


def no_file(path: str) -> None:
    Path(path).unlink()
    Path(path).symlink_to("nowhere")


def pipe(path: str) -> None:
    Path(path).unlink()
    os.mkfifo(path)


def blocked(path: str) -> None:
    Path("predictions", f"{Path(path).stem}_overlay.png").mkdir(parents=True)


@pytest.mark.parametrize("break_image", [damage, too_large, no_file, pipe, blocked])
def test_an_image_that_fails_is_named_and_the_others_are_predicted(predict, break_image):
    draw("in/a.png", "in/b.png", "in/c.png", "in/d.png")
    break_image("in/b.png")
    limit = ["--set", "data.max_pixels=8000"]
    answer = predict("in", *limit, code=1)
    assert "3 of 4; 1 failed: " in answer.error and "b" in answer.error.partition("failed:")[2]
    assert {"a_mask.png", "c_mask.png", "d_mask.png"} <= set(masks())
    assert not [path for path in Path("predictions").iterdir() if path.name.startswith(".")]
    assert counts(predict("in", *limit, code=1)) == (3, 0)
    if break_image is not blocked:
        Path("in/b.png").unlink()
        draw("in/b.png")
        assert counts(predict("in")) == (3, 1)


def test_images_out_of_memory_do_not_stop_the_others(predict, monkeypatch):
    draw("in/a.png", "in/b.png", "in/c.png")
    predicted, calls = rasters.predict_image, []

    def short(*args):
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return predicted(*args)

    monkeypatch.setattr(rasters, "predict_image", short)
    answer = predict("in", code=1)
    assert "2 of 3; 1 failed: out of memory: in/b.png" in answer.error
    assert masks() == ["a_mask.png", "c_mask.png"]


def test_a_full_disk_ends_the_command_and_the_same_one_takes_up_the_rest(predict, monkeypatch):
    draw("in/a.png", "in/b.png", "in/c.png")
    save_mask, calls = rasters.save_mask, []

    def full(path: Path, *args, **options):
        calls.append(path)
        if len(calls) == 2:
            error = OSError(errno.ENOSPC, "No space left on device")
            raise SegtrainError(f"cannot write {path}: {error.strerror}") from error
        save_mask(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(rasters, "save_mask", full)
        answer = predict("in", code=1)
    assert "b_mask.png: No space left on device" in answer.error
    assert masks() == ["a_mask.png"]
    assert counts(predict("in")) == (1, 2)


def test_an_interrupted_command_is_taken_up(predict, monkeypatch):
    draw("in/a.png", "in/b.png", "in/c.png")
    save_mask, calls = rasters.save_mask, []

    def interrupted(path: Path, *args, **options):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save_mask(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(rasters, "save_mask", interrupted)
        answer = predict("in", code=130)
    assert "interrupted" in answer.error and counts(answer) == (0, 2)
    assert counts(predict("in")) == (2, 1)


def other_weights(trained: Path) -> list[str]:
    """Write a copy of the run whose weights differ in one bit."""
    shutil.copytree(trained, "run")
    change_weights("run", lambda name, weights: weights.neg() if "head" in name else weights)
    return ["--checkpoint", "run"]


def change_weights(run: str, change) -> None:
    file = Path(run, "checkpoints/best.safetensors")
    with safe_open(file, "pt") as opened:
        meta = opened.metadata()
        weights = {name: change(name, opened.get_tensor(name)) for name in opened.keys()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file, meta)


SETTINGS = [
    "predict.opacity=0.25",
    "eval.tta=[hflip]",
    "eval.max_pixels=1000",
    "data.exif=false",
    "data.value_range=[0, 128]",
    "train.precision=bf16",
    "predict.save_probs=true",
]


def test_outputs_are_kept_where_nothing_differs(predict):
    draw("in/a.png", "in/sub/b.png")
    assert counts(predict("in")) == (0, 2)
    first = contents()
    assert len(first) == 4
    for same in (["in"], ["in/sub/b.png", "in/a.png"], ["in", "--set", "data.max_pixels=9999"]):
        assert counts(predict(*same)) == (2, 0)
        assert contents() == first
    os.utime("in/a.png", (1, 1))
    shutil.copytree("in", "moved")
    shutil.rmtree("in")
    assert counts(predict("moved")) == (2, 0) and contents() == first


def test_outputs_of_other_settings_or_weights_are_written_again(predict, trained):
    draw("in/a.png", "in/b.png")
    predict("in")
    options = [["--set", setting] for setting in SETTINGS] + [["--legend"], other_weights(trained)]
    for differs in options:
        before = contents()
        assert counts(predict("in", *differs)) == (0, 2), differs
        after = contents()
        written = [path for path in after if after[path] != before.get(path)]
        assert len(written) == (6 if "predict.save_probs=true" in differs else 4), differs


def test_outputs_that_are_not_as_they_were_written_are_written_again(predict):
    draw("in/a.png", "in/b.png")
    predict("in")
    first = {path: content for path, (_, content) in contents().items()}
    mask, overlay = Path("predictions/a_mask.png"), Path("predictions/a_overlay.png")

    def flip_bit(path: Path) -> None:
        content, times = bytearray(path.read_bytes()), path.stat()
        content[-20] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def link() -> None:
        mask.rename("elsewhere.png")
        mask.symlink_to(Path("elsewhere.png").resolve())

    for change in (lambda: flip_bit(mask), lambda: flip_bit(overlay), mask.unlink, link):
        change()
        assert counts(predict("in")) == (1, 1)
        assert {path: content for path, (_, content) in contents().items()} == first
        assert not mask.is_symlink()
    flip_bit(Path("in/a.png"))  # now it is damaged
    assert counts(predict("in", code=1)) == (1, 0)


HOSTILE = {
    "cut": lambda text: text[:-40],
    "empty": lambda text: "",
    "another version": lambda text: text.replace('"version": 1', '"version": 2'),
    "another shape": lambda text: text.replace('"predictions": {', '"predictions": {"x": 3, '),
    "nested": lambda text: '{"version": 1, "commands": ' + "[" * 100_000,
    "paths outside": lambda text: text.replace("a_mask.png", "../in/a.png").replace(
        '"a"', '"../a"'
    ),
}


def test_a_record_that_cannot_be_read_is_none(predict):
    draw("in/a.png", "in/b.png")
    predict("in")
    record = Path("predictions", RECORD)
    for kind, change in HOSTILE.items():
        record.write_text(change(record.read_text()))
        answer = predict("in")
        assert counts(answer) == ((1, 1) if kind == "paths outside" else (0, 2)), kind
        assert (RECORD in answer.stderr) == (kind != "paths outside")
        assert sorted(path.name for path in Path("in").iterdir()) == ["a.png", "b.png"]
    assert counts(predict("in")) == (2, 0)


@pytest.mark.parametrize("text", ["[]", '{"images": []}'])
def test_a_file_of_another_program_is_not_replaced(predict, text: str):
    draw("in/a.png")
    Path("predictions").mkdir()
    Path("predictions", RECORD).write_text(text)
    answer = predict("in", code=2)
    assert RECORD in answer.error and "--out" in answer.error
    assert Path("predictions", RECORD).read_text() == text and not masks()


@pytest.mark.parametrize(
    "out, given",
    [
        ("in", ["in"]),
        ("in/p", ["in/**/*"]),
        ("in/deep/er", ["in"]),
        ("link", ["in/a.png", "in/sub"]),
    ],
)
def test_outputs_among_the_images_are_not_predicted(predict, out: str, given: list[str]):
    draw("in/a.png", "in/sub/b.png")
    Path("link").symlink_to("in")
    options = ["--out", out, "--set", "predict.save_probs=true"]
    first = predict(*given, *options)
    made = contents("in")
    assert len(made) == 6 and counts(first) == (0, 2)
    again = [*given, *map(str, Path("in").glob("*.*"))]
    assert counts(predict(*again, *options)) == (2, 0)
    assert contents("in") == made
    assert counts(predict(*again, "--out", "apart")) == (0, 2)


def test_outputs_of_a_killed_command_are_not_predicted(predict, monkeypatch):
    """It can't save its record at the end."""
    draw("in/a.png", "in/b.png")
    with monkeypatch.context() as patch:
        patch.setattr("segtrain.prediction.record.Record.__exit__", lambda *_: None)
        patch.setattr("segtrain.prediction.record.SAVING_SHARE", 1e-9)
        predict("in", "--out", "in")
    assert counts(predict("in", "--out", "in"))[1] <= 2
    assert masks("in") == ["a_mask.png", "b_mask.png"]


def test_an_image_is_not_replaced_by_an_output(predict):
    """Here the masks of a data set stand beside its images."""
    draw("in/a.png", "in/a_mask.png")
    before = Path("in/a_mask.png").read_bytes()
    predict("in", "--out", "in")
    assert Path("in/a_mask.png").read_bytes() == before
    assert masks("in") == ["a_mask.png", "a_mask_mask.png", "a_png_mask.png"]
    assert counts(predict("in", "--out", "in")) == (2, 0)


def test_a_mask_beside_an_image_is_not_replaced_by_its_output(predict):
    draw("in/a.png", "in/a_mask.png")
    before = Path("in/a_mask.png").read_bytes()
    predict("in/a.png", "--out", "in")
    assert counts(predict("in/a.png", "--out", "in")) == (1, 0)
    assert Path("in/a_mask.png").read_bytes() == before
    assert masks("in") == ["a_mask.png", "a_png_mask.png"]


def test_images_of_one_stem_are_kept_apart(predict):
    draw("x/a.png", "x/a.bmp", "y/a.png", "y/sub/a.png", "x/c.png", "y/b.png", "y/b_png.png")
    predict("x", "y")
    expected = ["a_bmp", "b", "b_png", "c", "sub/a", "x/a", "y/a"]
    assert masks() == [f"{name}_mask.png" for name in expected]
    assert counts(predict("y/sub/../b.png", "y", "x")) == (7, 0)
    with Image.open("predictions/x/a_mask.png") as mask:
        predict("x/a.png", "--out", "alone")
        assert mask.tobytes() == Image.open("alone/a_mask.png").tobytes()


def test_another_image_does_not_take_the_outputs_of_one_that_exists(predict):
    draw("x/a.png", "y/a.png")
    predict("x/a.png")
    made = contents()
    predict("y/a.png")
    assert masks() == ["a_mask.png", "y/a_mask.png"]
    draw("x/a.bmp")
    assert counts(predict("x", "y")) == (2, 1)
    assert made.items() <= contents().items()
    assert masks() == ["a_bmp_mask.png", "a_mask.png", "y/a_mask.png"]


def test_names_do_not_depend_on_what_fails(predict):
    draw("in/a.png", "in/a.bmp", "in/é.png")
    damage("in/a.bmp")
    predict("in", code=1)
    assert masks() == ["a_png_mask.png", "é_mask.png"]


def test_long_and_odd_names(predict):
    names = [
        "x" * 250 + ".png",
        "x" * 250 + ".bmp",
        "ü" * 124 + ".png",
        "-e.png",
        " .png",
        "a\n.png",
    ]
    names += ["A.png", "a.png", "b..png"]
    draw(*(f"in/{name}" for name in names))
    Path(os.fsdecode(b"in/\xff.png")).write_bytes(Path("in/a.png").read_bytes())
    count = len(names) + 1
    assert counts(predict("in")) == (0, count)
    folded = {name.casefold() for name in masks()}
    assert len(folded) == count
    assert counts(predict("in")) == (count, 0)


def test_folders_are_read_with_their_subfolders(predict, monkeypatch):
    draw("in/a.png", "in/sub/b.png", "in/sub/deep/c.jpg", "in/.hidden/d.png", "in/sub/.e.png")
    draw("other/f.png")
    Path("in/sub/loop").symlink_to("..")
    Path("in/other").symlink_to("../other")
    Path("in/sub/notes.txt").write_text("no image")
    Path("in/empty.png").mkdir()
    assert counts(predict("in")) == (0, 4)
    expected = ["a", "other/f", "sub/b", "sub/deep/c"]
    assert masks() == [f"{name}_mask.png" for name in expected]

    def listed(folder: Path):
        if folder.name == "deep":
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(folder)

    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", listed)
    answer = predict("in", code=1)
    assert "3 of 4; 1 failed: in/sub/deep: " in answer.error and counts(answer) == (3, 0)


def test_the_checkpoint_is_named(predict, trained: Path):
    draw("a.png")
    line = predict("a.png").stdout.splitlines()[0]
    assert str(trained / "checkpoints/best.safetensors") in line
    assert "quick" in line and "epoch 1" in line and "mIoU 0." in line
    shutil.copy(trained / "checkpoints/last.safetensors", "alone.safetensors")
    assert "alone.safetensors" in predict("a.png", "--checkpoint", "alone.safetensors").stdout


def test_two_commands_at_once_record_both(predict, monkeypatch):
    draw("x/a.png", "y/b.png")
    predicted = rasters.predict_image

    def meanwhile(*args):
        monkeypatch.setattr(rasters, "predict_image", predicted)
        predict("y")
        return predicted(*args)

    monkeypatch.setattr(rasters, "predict_image", meanwhile)
    predict("x")
    assert counts(predict("x", "y")) == (2, 0)
    assert set(json.loads(Path("predictions", RECORD).read_text())["predictions"]) == {"a", "b"}


@pytest.mark.parametrize("settings", [[], ["--set", "eval.tta=[hflip]"]])
def test_a_network_without_finite_output_predicts_nothing(predict, trained, settings):
    """Its weights are finite, and far too large."""
    draw("in/a.png", "in/b.png")
    shutil.copytree(trained, "run")
    change_weights("run", lambda n, w: torch.full_like(w, 3e38) if "head" in n else w)
    alone = predict("in/a.png", "--checkpoint", "run", *settings, code=1)
    both = predict("in", "--checkpoint", "run", *settings, code=1)
    for answer in (alone, both):
        assert "a.png: the network's output is not finite" in answer.error
    assert "0 of 2; 2 failed: it is the network" in both.error
    assert not Path("predictions").exists()


def test_a_run_is_no_folder_of_images(predict, trained):
    """Its reports are pictures, too, and --checkpoint is what was meant."""
    draw("in/a.png")
    answer = predict(trained, "in", code=2)
    assert f"{trained}: a run, not a folder of images" in answer.error
    assert answer.error.endswith(f"--checkpoint {trained}")
