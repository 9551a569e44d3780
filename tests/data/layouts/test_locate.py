"""Folders that hold a data set in one folder alone, as unpacked archives do."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_detect import fill

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.data_set import DataSource, find_data_source
from segtrain.data.layouts.locate import enter_single_folders


def read(root: Path, **fields) -> DataSource:
    return find_data_source(DataConfig(path=str(root), **fields))


@pytest.mark.parametrize("above", ["archive", "archive/data", "a/b/c"])
def test_a_published_layout_in_an_only_folder_is_read_as_such(tmp_path: Path, above: str):
    for city, split in (("aachen", "train"), ("ulm", "val")):
        fill(tmp_path, f"{above}/leftImg8bit/{split}/{city}", f"{city}_0_leftImg8bit.png")
        fill(tmp_path, f"{above}/gtFine/{split}/{city}", f"{city}_0_gtFine_labelIds.png")
    (tmp_path / "__MACOSX").mkdir()
    for name in ("README.md", "license.txt", ".DS_Store"):
        (tmp_path / name).touch()
    found = read(tmp_path)
    assert (found.format, found.root) == ("cityscapes", tmp_path / above)
    assert found.config.path == str(tmp_path / above)


def test_lists_in_an_only_folder_divide_its_pairs(tmp_path: Path):
    for n in range(4):
        fill(tmp_path, "set/images", f"x{n}.jpg")
        fill(tmp_path, "set/masks", f"x{n}.png")
    (tmp_path / "set/train.txt").write_text("x0\nx1\nx3")
    (tmp_path / "set/val.txt").write_text("x2")
    assert [pair.name for pair in read(tmp_path).splits["val"]] == ["x2"]


@pytest.mark.parametrize("inner", ["train", "images", "masks", "val_images"])
def test_a_part_of_a_data_set_is_not_entered(tmp_path: Path, inner: str):
    for n in range(4):
        fill(tmp_path, f"{inner}/a", f"x{n}.jpg", f"x{n}_mask.png")
    assert enter_single_folders(tmp_path, DataConfig()) == tmp_path


def test_other_files_and_settings_keep_the_folder(tmp_path: Path):
    for n in range(4):
        fill(tmp_path, "set/images", f"x{n}.jpg")
        fill(tmp_path, "set/masks", f"x{n}.png")
    splits = {"train": SplitConfig(images="set/images", masks="set/masks")}
    assert read(tmp_path, splits=splits).root == tmp_path
    assert read(tmp_path, exclude=["set/images/x0.jpg"]).root == tmp_path
    splits = {"train": SplitConfig(images="images", masks="masks")}
    assert read(tmp_path, splits=splits).root == tmp_path / "set"
    (tmp_path / "classes.txt").write_text("sky\nroad")
    assert read(tmp_path).root == tmp_path
