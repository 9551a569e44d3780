"""Layouts on disk -> pairs by split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import Data, Split
from segtrain.data.formats import find_pairs
from segtrain.errors import SegtrainError, UsageError


def fill(root: Path, folder: str, *names: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / folder / name)


def names(found, split: str) -> list[tuple[str, str]]:
    return [(pair.image.name, pair.mask.name) for pair in found.splits[split]]


# (folders of train, of val, of test): images and masks
LAYOUTS = {
    "kind/split": (("images/train", "masks/train"), ("images/val", "masks/val"),
                   ("images/test", "masks/test")),
    "kind/split aliases": (("img/training", "labels/training"), ("img/valid", "labels/valid"),
                           ("img/testing", "labels/testing")),
    "split/kind": (("train/images", "train/masks"), ("val/images", "val/masks"),
                   ("test/images", "test/masks")),
    "split/kind aliases": (("training/imgs", "training/annotations"),
                           ("validation/imgs", "validation/annotations"),
                           ("testing/imgs", "testing/annotations")),
    "splitannot": (("train", "trainannot"), ("val", "valannot"), ("test", "testannot")),
}  # fmt: skip


@pytest.mark.parametrize("folders", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_with_splits_is_found(tmp_path: Path, folders):
    for place, (images, masks) in enumerate(folders):
        own = [f"{place}{letter}" for letter in "cab"[: 3 - place]]
        fill(tmp_path, images, *(f"{name}.jpg" for name in own))
        fill(tmp_path, masks, *(f"{name}.png" for name in own))
    found = find_pairs(Data(), tmp_path)
    assert list(found.splits) == ["train", "val", "test"]
    assert names(found, "train") == [(f"0{x}.jpg", f"0{x}.png") for x in "abc"]
    assert names(found, "val") == [("1a.jpg", "1a.png"), ("1c.jpg", "1c.png")]
    assert names(found, "test") == [("2c.jpg", "2c.png")]
    assert all((tmp_path / images).name in found.layout for images, _ in folders)


@pytest.mark.parametrize("images", ["images", "image", "imgs", "img"])
@pytest.mark.parametrize("masks", ["masks", "mask", "labels", "label", "annotations", "annot"])
def test_folders_without_splits_are_found(tmp_path: Path, images: str, masks: str):
    fill(tmp_path, images, *(f"{i}.png" for i in range(5)))
    fill(tmp_path, masks, *(f"{i}.png" for i in range(5)))
    found = find_pairs(Data(), tmp_path)
    assert (len(found.splits["train"]), len(found.splits["val"])) == (4, 1)
    assert found.splits["train"][0].mask.parent == tmp_path / masks


def test_a_layout_with_splits_comes_before_one_without(tmp_path: Path):
    fill(tmp_path, "images", "a.png", "b.png")
    fill(tmp_path, "masks", "a.png", "b.png")
    fill(tmp_path, "images/train", "c.png", "d.png", "e.png")
    fill(tmp_path, "masks/train", "c.png", "d.png", "e.png")
    found = find_pairs(Data(), tmp_path)
    both = found.splits["train"] + found.splits["val"]
    assert sorted(pair.name for pair in both) == ["c", "d", "e"]


def test_held_out_pairs_depend_on_the_seed_alone(tmp_path: Path):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, *(f"{i:02d}.png" for i in range(20)))
    by_seed = {
        seed: find_pairs(Data(split_seed=seed, val_fraction=0.3), tmp_path) for seed in (0, 1)
    }
    again = find_pairs(Data(split_seed=0, val_fraction=0.3), tmp_path)
    assert again == by_seed[0]
    assert names(by_seed[0], "val") != names(by_seed[1], "val")
    for found in by_seed.values():
        train, val = (set(names(found, split)) for split in ("train", "val"))
        assert (len(train), len(val), len(train | val)) == (14, 6, 20)
    assert "6 held out" in by_seed[0].layout


@pytest.mark.parametrize("fraction, held", [(0.01, 1), (0.5, 1), (0.99, 1)])
def test_both_sides_of_a_hold_out_keep_a_pair(tmp_path: Path, fraction: float, held: int):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, "a.png", "b.png")
    found = find_pairs(Data(val_fraction=fraction), tmp_path)
    assert (len(found.splits["train"]), len(found.splits["val"])) == (2 - held, held)


def test_one_pair_cannot_be_split(tmp_path: Path):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, "a.png")
    with pytest.raises(SegtrainError, match="a.png.*one pair is too few"):
        find_pairs(Data(), tmp_path)


def test_stems_match_whatever_the_extension_and_hidden_files_do_not(tmp_path: Path):
    fill(tmp_path, "train", "a.JPG", "b.bmp", "c.d.tif", "._a.jpg", ".hidden.png")
    fill(tmp_path, "trainannot", "a.png", "b.PNG", "c.d.png", "._z.png")
    fill(tmp_path, "val", "v.png")
    fill(tmp_path, "valannot", "v.png")
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"?")
    (tmp_path / "trainannot" / "README.txt").write_text("?")
    found = find_pairs(Data(), tmp_path)
    assert names(found, "train") == [("a.JPG", "a.png"), ("b.bmp", "b.PNG"), ("c.d.tif", "c.d.png")]


def test_two_images_of_one_stem_are_refused(tmp_path: Path):
    fill(tmp_path, "train", "a.png", "a.jpg")
    fill(tmp_path, "trainannot", "a.png")
    with pytest.raises(SegtrainError, match="a.jpg and a.png have the same stem"):
        find_pairs(Data(), tmp_path)


@pytest.fixture
def free(tmp_path: Path) -> Path:
    """rgb/ + ids/ with a..d: no layout, to be named in data.splits."""
    fill(tmp_path, "rgb", *(f"{x}.jpg" for x in "abcd"))
    fill(tmp_path, "ids", *(f"{x}.png" for x in "abcd"))
    return tmp_path


@pytest.mark.parametrize(
    "text, expected",
    [
        ("c\na\n", "ac"),
        ("c.jpg\n\n  a.jpg\nc.jpg\n", "ac"),
        ("rgb/b.jpg ids/b.png\n", "b"),
    ],
)
def test_a_list_chooses_among_the_pairs_of_folders(free: Path, text: str, expected: str):
    (free / "train.txt").write_text(text)
    splits = {
        "train": Split(images="rgb", masks="ids", list="train.txt"),
        "val": Split(images="rgb", masks="ids"),
    }
    found = find_pairs(Data(splits=splits), free)
    assert [pair.name for pair in found.splits["train"]] == list(expected)
    assert [pair.name for pair in found.splits["val"]] == list("abcd")


def test_what_a_list_leaves_out_needs_no_partner(free: Path):
    fill(free, "rgb", "my photo.v2.jpg", "unlabelled.jpg")
    fill(free, "ids", "my photo.v2.png")
    (free / "train.txt").write_text("my photo.v2\na\n")
    splits = {name: Split(images="rgb", masks="ids", list="train.txt") for name in ("train", "val")}
    found = find_pairs(Data(splits=splits), free)
    assert [pair.name for pair in found.splits["train"]] == ["a", "my photo.v2"]


@pytest.mark.parametrize("text", ["rgb/d.jpg ids/c.png\nrgb/a.jpg ids/a.png\n",
                                  "rgb/a.jpg,ids/a.png\nrgb/d.jpg, ids/c.png\n"])  # fmt: skip
def test_a_list_of_pairs_needs_no_equal_stems(free: Path, text: str):
    (free / "all.txt").write_text(text)
    splits = {"train": Split(list="all.txt"), "val": Split(list="all.txt")}
    found = find_pairs(Data(splits=splits), free)
    assert names(found, "train") == [("a.jpg", "a.png"), ("d.jpg", "c.png")]
    assert found.splits["train"][0].image == free / "rgb" / "a.jpg"


@pytest.mark.parametrize(
    "split, text, error, words",
    [
        (Split(images="rgb", masks="ids", list="l.txt"), "a\nz", SegtrainError, "no pair named z"),
        (Split(list="l.txt"), "rgb/a.jpg\n", SegtrainError, "expected 'image mask' a line"),
        (Split(list="l.txt"), "rgb/a.jpg ids/z.png\n", SegtrainError, "no such file: .*z.png"),
        (Split(list="other.txt"), "", UsageError, "other.txt: no such list file"),
        (Split(list="l.txt"), "", SegtrainError, "no pairs found for train in l.txt"),
        (Split(images="rgb"), "", UsageError, "give images and masks, or a list"),
        (Split(images="rgb", list="l.txt"), "", UsageError, "give images and masks, or a list"),
        (Split(images="rgbb", masks="ids"), "", UsageError, "rgbb: no such folder"),
    ],
)
def test_wrong_splits_are_refused(free: Path, split: Split, text: str, error: type, words: str):
    (free / "l.txt").write_text(text)
    with pytest.raises(SegtrainError, match=words) as raised:
        find_pairs(Data(splits={"train": split}), free)
    assert type(raised.value) is error
