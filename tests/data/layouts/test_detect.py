"""Layouts on disk to pairs by split."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.findings import raise_errors
from segtrain.data.layouts.detect import LAYOUTS, FoundPairs, find_pairs
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError, UsageError


def fill(root: Path, folder: str, *names: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / folder / name)


def names(found: FoundPairs, split: str) -> list[tuple[str, str]]:
    return [(pair.image.name, pair.mask.name) for pair in found.splits[split]]


def stems(found: FoundPairs, split: str = "train") -> list[str]:
    return [pair.name for pair in found.splits[split]]


def faults(found: FoundPairs) -> list[tuple[str, list[str]]]:
    """(kind, places) of the findings, all of which must be errors."""
    assert all(finding.error for finding in found.findings)
    return [(finding.kind, finding.places) for finding in found.findings]


# (folders of train, of val, of test): images and masks
FOLDERS = {
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


@pytest.mark.parametrize("folders", FOLDERS.values(), ids=FOLDERS)
def test_a_layout_with_splits_is_found(tmp_path: Path, folders):
    for place, (images, masks) in enumerate(folders):
        own = [f"{place}{letter}" for letter in "cab"[: 3 - place]]
        fill(tmp_path, images, *(f"{name}.jpg" for name in own))
        fill(tmp_path, masks, *(f"{name}.png" for name in own))
    found = find_pairs(DataConfig(), tmp_path)
    assert list(found.splits) == ["train", "val", "test"]
    assert names(found, "train") == [(f"0{x}.jpg", f"0{x}.png") for x in "abc"]
    assert names(found, "val") == [("1a.jpg", "1a.png"), ("1c.jpg", "1c.png")]
    assert names(found, "test") == [("2c.jpg", "2c.png")]
    assert found.layout == ", ".join(f"{images} + {masks}" for images, masks in folders)
    assert (found.format, found.findings) == ("pairs", [])
    assert (found.classes, found.palette, found.label_map) == ([], None, {})


@pytest.mark.parametrize("images", ["images", "image", "imgs", "img"])
@pytest.mark.parametrize("masks", ["masks", "mask", "labels", "label", "annotations", "annot"])
def test_folders_without_splits_are_found(tmp_path: Path, images: str, masks: str):
    fill(tmp_path, images, *(f"{i}.png" for i in range(5)))
    fill(tmp_path, masks, *(f"{i}.png" for i in range(5)))
    found = find_pairs(DataConfig(), tmp_path)
    assert (len(found.splits["train"]), len(found.splits["val"])) == (4, 1)
    assert found.splits["train"][0].mask.parent == tmp_path / masks


def test_a_layout_with_splits_comes_before_one_without(tmp_path: Path):
    fill(tmp_path, "images", "a.png", "b.png")
    fill(tmp_path, "masks", "a.png", "b.png")
    fill(tmp_path, "images/train", "c.png", "d.png", "e.png")
    fill(tmp_path, "masks/train", "c.png", "d.png", "e.png")
    found = find_pairs(DataConfig(), tmp_path)
    both = found.splits["train"] + found.splits["val"]
    assert sorted(pair.name for pair in both) == ["c", "d", "e"]


def test_held_out_pairs_depend_on_the_seed_alone(tmp_path: Path):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, *(f"{i:02d}.png" for i in range(20)))
    by_seed = {
        seed: find_pairs(DataConfig(split_seed=seed, val_fraction=0.3), tmp_path) for seed in (0, 1)
    }
    again = find_pairs(DataConfig(split_seed=0, val_fraction=0.3), tmp_path)
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
    found = find_pairs(DataConfig(val_fraction=fraction), tmp_path)
    assert (len(found.splits["train"]), len(found.splits["val"])) == (2 - held, held)


def test_one_pair_cannot_be_split(tmp_path: Path):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, "a.png")
    with pytest.raises(SegtrainError, match="a.png.*one pair is too few"):
        find_pairs(DataConfig(), tmp_path)


def test_stems_match_whatever_the_extension_and_hidden_files_do_not(tmp_path: Path):
    fill(tmp_path, "train", "a.JPG", "b.bmp", "c.d.tif", "._a.jpg", ".hidden.png")
    fill(tmp_path, "trainannot", "a.png", "b.PNG", "c.d.png", "._z.png")
    fill(tmp_path, "val", "v.png")
    fill(tmp_path, "valannot", "v.png")
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"?")
    (tmp_path / "trainannot" / "README.txt").write_text("?")
    found = find_pairs(DataConfig(), tmp_path)
    assert names(found, "train") == [("a.JPG", "a.png"), ("b.bmp", "b.PNG"), ("c.d.tif", "c.d.png")]


def test_two_images_of_one_stem_are_found_and_left_out(tmp_path: Path):
    fill(tmp_path, "train", "a.png", "a.jpg", "b.png", "c.png")
    fill(tmp_path, "trainannot", "a.png", "b.png", "c.png")
    found = find_pairs(DataConfig(val_fraction=0.5), tmp_path)
    assert sorted(stems(found) + stems(found, "val")) == ["b", "c"]
    assert faults(found) == [("stem", ["train/a.jpg and train/a.png"])]
    with pytest.raises(SegtrainError, match=r"a.jpg and train/a.png; .*exclude: \[train/a.png\]"):
        raise_errors(found.findings)
    fixed = find_pairs(DataConfig(**found.findings[0].fix), tmp_path)
    assert fixed.findings == []
    assert sorted(names(fixed, "train") + names(fixed, "val"))[0] == ("a.jpg", "a.png")


def test_orphans_of_both_kinds_are_found_and_left_out(tmp_path: Path):
    fill(tmp_path, "images", *(f"{x}.png" for x in "abcdef"))
    fill(tmp_path, "masks", *(f"{x}.png" for x in "cdefgh"))
    found = find_pairs(DataConfig(), tmp_path)
    assert sorted(stems(found) + stems(found, "val")) == list("cdef")
    assert faults(found) == [
        ("unpaired", ["images/a.png", "images/b.png"]),
        ("unpaired", ["masks/g.png", "masks/h.png"]),
    ]
    text = str(found.findings[0])
    assert text.startswith("2 image(s) without a mask: images/a.png, images/b.png; ")
    assert "add the partner or remove the file" in text
    assert "data.exclude: [images/a.png, images/b.png]" in text
    assert "2 mask(s) without an image: masks/g.png" in str(found.findings[1])
    fixed = find_pairs(DataConfig(exclude=found.findings[0].fix["exclude"]), tmp_path)
    assert faults(fixed) == [("unpaired", ["masks/g.png", "masks/h.png"])]


def test_where_all_is_wrong_the_findings_say_so(tmp_path: Path):
    fill(tmp_path, "images", "a.png", "b.png")
    fill(tmp_path, "masks", "c.png")
    found = find_pairs(DataConfig(), tmp_path)
    assert found.splits == {"train": []}
    assert [len(finding.places) for finding in found.findings] == [2, 1]


def test_an_image_in_two_splits_stays_in_the_first(free: Path):
    (free / "some.txt").write_text("a\nb\n")
    splits = {"train": SplitConfig(images="rgb", masks="ids", list="some.txt"),
              "val": SplitConfig(images="rgb", masks="ids")}  # fmt: skip
    found = find_pairs(DataConfig(splits=splits), free)
    assert (stems(found), stems(found, "val")) == (["a", "b"], ["c", "d"])
    assert faults(found) == [("split", ["rgb/a.jpg (train and val)", "rgb/b.jpg (train and val)"])]


@pytest.mark.parametrize(
    "entries, left, count",
    [
        (["images/b.png"], "acdef", 1),
        (["masks/b.png", "./images/b.png"], "acdef", 1),
        (["images/[a-c]*"], "def", 3),
        (["*/a.png", "masks/f.*"], "bcde", 2),
        (["images/b.png", "images/c.png", "masks/e.png"], "adf", 3),
    ],
)
def test_excluded_pairs_are_left_out(tmp_path: Path, entries: list[str], left: str, count: int):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, *(f"{x}.png" for x in "abcdef"))
    found = find_pairs(DataConfig(exclude=entries), tmp_path)
    assert sorted(stems(found) + stems(found, "val")) == list(left)
    assert found.findings == []
    assert found.layout.endswith(f", {count} excluded")


def test_excluding_an_orphan_fixes_it(tmp_path: Path):
    fill(tmp_path, "images", "a.png", "b.png", "c[1].png", "d.png")
    fill(tmp_path, "masks", "a.png", "b.png", "d.png")
    found = find_pairs(
        DataConfig(exclude=["images/c[1].png"]), tmp_path
    )  # by its name, not as a pattern
    assert sorted(stems(found) + stems(found, "val")) == ["a", "b", "d"]
    assert found.findings == []


@pytest.mark.parametrize("entry", ["images/z.png", "images/z*", "a.png", "../images/a.png"])
def test_an_exclusion_of_nothing_is_refused(tmp_path: Path, entry: str):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, "a.png", "b.png")
    with pytest.raises(UsageError, match="data.exclude: .*matches no file.*images/a.png"):
        find_pairs(DataConfig(exclude=["images/b.png", entry]), tmp_path)


def test_excluding_all_is_refused(tmp_path: Path):
    for folder in ("images", "masks"):
        fill(tmp_path, folder, "a.png", "b.png")
    with pytest.raises(SegtrainError, match="no pairs found for train in .*2 excluded"):
        find_pairs(DataConfig(exclude=["*"]), tmp_path)


def test_ten_thousand_links_are_paired_and_split(tmp_path: Path):
    fill(tmp_path, "", "a.png")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(10_000):  # to a short path: a longer one takes a block of the disk each
            (tmp_path / folder / f"{i:05d}.png").symlink_to("../a.png")
    found = find_pairs(DataConfig(exclude=["images/00007.png", "masks/0999*"]), tmp_path)
    train, val = (stems(found, split) for split in ("train", "val"))
    assert (len(train), len(val), len({*train, *val})) == (7_990, 1_999, 9_989)
    assert train == sorted(train) and "00007" not in train + val
    assert all(p.image.name == p.mask.name for split in found.splits.values() for p in split)


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
        ("c.jpg\n\n# the second\n  a.jpg\nc.jpg\n", "ac"),
        ("rgb/b.jpg ids/b.png\n", "b"),
    ],
)
def test_a_list_chooses_among_the_pairs_of_folders(free: Path, text: str, expected: str):
    (free / "train.txt").write_text(text)
    (free / "val.txt").write_text("d\n")
    splits = {s: SplitConfig(images="rgb", masks="ids", list=f"{s}.txt") for s in ("train", "val")}
    found = find_pairs(DataConfig(splits=splits), free)
    assert (stems(found), stems(found, "val")) == (list(expected), ["d"])
    assert found.findings == []


def test_what_a_list_leaves_out_needs_no_partner(free: Path):
    fill(free, "rgb", "my photo.v2.jpg", "unlabelled.jpg")
    fill(free, "ids", "my photo.v2.png")
    (free / "train.txt").write_text("my photo.v2\na\nb\n")
    splits = {"train": SplitConfig(images="rgb", masks="ids", list="train.txt")}
    found = find_pairs(DataConfig(splits=splits), free)
    assert sorted(stems(found) + stems(found, "val")) == ["a", "b", "my photo.v2"]
    assert found.findings == []


def test_a_chosen_name_without_files_is_found(free: Path):
    (free / "l.txt").write_text("a\nz\nb\n")
    splits = {"train": SplitConfig(images="rgb", masks="ids", list="l.txt")}
    found = find_pairs(DataConfig(splits=splits), free)
    assert sorted(stems(found) + stems(found, "val")) == ["a", "b"]
    assert faults(found) == [("missing", ["z"])]
    assert "l.txt names 1 missing pair(s): z" in str(found.findings[0])
    assert find_pairs(DataConfig(splits=splits, exclude=["z"]), free).findings == []


@pytest.mark.parametrize(
    "split, text, error, words",
    [
        (
            SplitConfig(list="l.txt"),
            "rgb/a.jpg\n",
            SegtrainError,
            "l.txt: expected 'image",
        ),
        (
            SplitConfig(list="l.txt"),
            "a b c d\n",
            SegtrainError,
            "l.txt: expected 'image",
        ),
        (SplitConfig(list="other.txt"), "", UsageError, "other.txt: no such list file"),
        (SplitConfig(list="l.txt"), "", SegtrainError, "no pairs found for train in l.txt"),
        (SplitConfig(images="rgb"), "", UsageError, "give images and masks, or a list"),
        (
            SplitConfig(images="rgb", list="l.txt"),
            "",
            UsageError,
            "give images and masks, or a list",
        ),
        (
            SplitConfig(masks="ids", coco="l.json"),
            "",
            UsageError,
            "give images and masks, or a list",
        ),
        (SplitConfig(images="rgbb", masks="ids"), "", UsageError, "rgbb: no such folder"),
    ],
)
def test_wrong_splits_are_refused(
    free: Path, split: SplitConfig, text: str, error: type, words: str
):
    (free / "l.txt").write_text(text)
    with pytest.raises(SegtrainError, match=words) as raised:
        find_pairs(DataConfig(splits={"train": split}), free)
    assert type(raised.value) is error


def test_a_list_that_is_no_text_is_refused(free: Path):
    (free / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SegtrainError, match="l.txt: not a list that can be read"):
        find_pairs(DataConfig(splits={"train": SplitConfig(list="l.txt")}), free)


def test_splits_and_format_must_agree(free: Path):
    splits = {"train": SplitConfig(images="rgb", masks="ids")}
    assert find_pairs(DataConfig(splits=splits, format="pairs"), free).format == "pairs"
    with pytest.raises(UsageError, match="data.format voc and data.splits contradict"):
        find_pairs(DataConfig(splits=splits, format="voc"), free)
    splits["val"] = SplitConfig(coco="a.json")
    with pytest.raises(UsageError, match="coco in one split needs coco in all"):
        find_pairs(DataConfig(splits=splits), free)


@pytest.mark.parametrize("row", LAYOUTS, ids=lambda row: row.name)
def test_a_format_that_is_not_there_says_what_it_looked_for(tmp_path: Path, row):
    fill(tmp_path, "pictures", "a.png")
    with pytest.raises(SegtrainError, match="no data set found") as raised:
        find_pairs(DataConfig(format=row.name), tmp_path)
    assert f"{row.name}: {row.looks_for}" in str(raised.value)
    others = {other.name for other in LAYOUTS} - {row.name}
    assert not [name for name in others if f"{name}: " in str(raised.value)]


def test_no_folder_at_all(tmp_path: Path):
    with pytest.raises(UsageError, match="gone: no such folder"):
        find_pairs(DataConfig(), tmp_path / "gone")


def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path):
    fill(tmp_path, "", "a.png")
    with pytest.raises(UsageError, match="a.png: expected a folder, a list .*or a COCO"):
        find_pairs(DataConfig(), tmp_path / "a.png")


def test_samples_are_named_by_their_image():
    assert Sample(Path("x/a.b.png"), Path("y/c.png")).name == "a.b"


def test_an_image_with_two_masks_is_refused_and_a_line_said_twice_is_not(tmp_path: Path):
    for name in ("x/0.png", "x/1.png", "x/2.png", "m/0.png", "m/0b.png", "m/1.png", "m/2.png"):
        fill(tmp_path, *name.split("/"))
    lines = ["x/0.png m/0.png", "x/0.png m/0b.png", "x/1.png m/1.png", "x/1.png m/1.png"]
    (tmp_path / "train.txt").write_text("\n".join([*lines, "x/2.png m/2.png"]))
    found = find_pairs(DataConfig(), tmp_path)
    (finding,) = found.findings
    assert (finding.kind, finding.error) == ("twice", True)
    assert finding.places == ["x/0.png (m/0.png and m/0b.png)"]
    assert find_pairs(DataConfig(**finding.fix), tmp_path).findings == []
    assert sum(map(len, found.splits.values())) == 3


def test_lists_beside_a_list_are_its_other_splits(tmp_path: Path):
    for index in range(3):
        fill(tmp_path, "x", f"{index}.png")
        fill(tmp_path, "m", f"{index}.png")
    (tmp_path / "train.txt").write_text("x/0.png m/0.png\nx/1.png m/1.png")
    (tmp_path / "val.txt").write_text("x/2.png m/2.png")
    found = find_pairs(DataConfig(), tmp_path / "train.txt")
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {"train": 2, "val": 1}


def test_the_config_names_the_layouts_of_the_table():
    named = get_args(DataConfig.model_fields["format"].annotation)
    assert set(named) == {"auto"} | {row.name for row in LAYOUTS}
