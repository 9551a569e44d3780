"""The data section as given -> what is there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image

from segtrain.config import Data
from segtrain.data import demo
from segtrain.data.prepare import demo_folder, locate, prepare
from segtrain.errors import SegtrainError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and working folder, and a demo of few scenes, which are soon painted."""
    small = partial(demo.write_demo, train=3, val=2)
    monkeypatch.setattr("segtrain.data.prepare.write_demo", small)
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_what_is_found_is_filled_in_and_said(tmp_path: Path):
    prepared = prepare(Data(path=str(write_pairs(tmp_path / "set"))))
    assert prepared.data.classes == ["0", "1", "2"]
    assert len(set(prepared.palette)) == 3
    assert prepared.median_size == (48, 40)
    assert {split: len(pairs) for split, pairs in prepared.splits.items()} == {"train": 5, "val": 1}
    text = "\n".join(prepared.summary)
    for words in (str(tmp_path / "set"), "5 train, 1 val", "images + masks", "ids 0..2 found"):
        assert words in text


@pytest.mark.parametrize(
    "values, label_map, said",
    [
        ([0, 1, 255], {}, "ids 0..1 found in the training masks, 255 ignored"),
        ([0, 255], {255: 1}, "ids 0..1 found in the training masks"),
        (
            [0, 1, 7, 255],
            {7: "ignore"},
            "ids 0..1 found in the training masks, 7 ignored, 255 ignored",
        ),
    ],
)
def test_the_ids_found_are_said_with_what_is_ignored(tmp_path: Path, values, label_map, said):
    root = write_pairs(tmp_path / "set", 2)
    for path in (root / "masks").iterdir():
        Image.fromarray(np.resize(values, (48, 40)).astype(np.uint8)).save(path)
    summary = prepare(Data(path=str(root), label_map=label_map)).summary
    assert f"classes: {said}" in summary


def test_shares_of_training_pixels_are_said(tmp_path: Path):
    for split, value in (("train", 1), ("val", 0)):
        root = tmp_path / "set"
        write_pairs(root, 2, f"images/{split}", f"masks/{split}")
        for path in (root / "masks" / split).iterdir():
            mask = np.full((48, 40), value, np.uint8)
            mask[:12] = 0
            Image.fromarray(mask).save(path)
    summary = prepare(Data(path=str(root), classes=["out", "in"])).summary
    assert summary[-1] == "training pixels: out 25.00%, in 75.00%"


def test_without_a_path_the_demo_is_taken_and_made_once(cache: Path):
    data, why = locate(Data())
    assert data.path == "demo" and "no data set in data/" in why and str(cache) in why
    assert (data.classes, data.palette) == (list(demo.CLASSES), list(demo.PALETTE))
    first = {path: path.stat().st_mtime_ns for path in demo_folder().rglob("*.png")}
    assert len(first) == 10
    assert {path: path.stat().st_mtime_ns for path in demo_folder().rglob("*.png")} == first
    assert [path.name for path in cache.iterdir()] == [demo_folder().name]


def test_a_data_set_in_data_comes_before_the_demo(cache: Path, tmp_path: Path):
    write_pairs(tmp_path / "data")
    assert Path(locate(Data())[0].path).resolve() == (tmp_path / "data").resolve()
    assert not cache.exists()
    assert locate(Data(path="demo"))[0].path == "demo"


def test_the_demo_can_be_prepared(cache: Path):
    prepared = prepare(Data(path="demo"))
    assert prepared.data.classes == list(demo.CLASSES)
    assert [tuple(c) for c in prepared.palette] == list(demo.PALETTE)
    assert {split: len(pairs) for split, pairs in prepared.splits.items()} == {"train": 3, "val": 2}


def test_a_demo_that_fails_to_be_written_leaves_nothing(cache: Path, monkeypatch):
    def full(folder: Path) -> None:
        folder.mkdir()
        (folder / "half.png").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segtrain.data.prepare.write_demo", full)
    with pytest.raises(SegtrainError, match="cannot write the demo data .*No space left"):
        demo_folder()
    assert list(cache.iterdir()) == []


def test_ids_named_by_label_map_become_classes(tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    label_map = {0: "ignore", 1: 0, 2: 1}
    prepared = prepare(Data(path=str(root), label_map=label_map))
    assert prepared.data.classes == ["0", "1"]


def test_a_class_has_its_mask_values_colour(tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    palette = [(1, 1, 1), (200, 0, 0), (0, 0, 200)]
    data = Data(path=str(root), label_map={0: "ignore", 1: 0, 2: 1}, palette=palette)
    prepared = prepare(data)
    assert [tuple(colour) for colour in prepared.palette] == palette[1:]
    assert [tuple(colour) for colour in prepared.data.palette] == palette  # still reads masks


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"classes": ["a", "b"]}, r"value 2 \(\d+ px\), but classes are 0..1"),
        ({"classes": ["a", "b"], "label_map": {0: "ignore", 1: "ignore", 2: "ignore"}},
         "all are ignored"),
        ({"splits": {"test": {"images": "images", "masks": "masks"}}}, "no train split.* test"),
    ],
)  # fmt: skip
def test_what_cannot_train_is_refused(tmp_path: Path, fields: dict, words: str):
    root = write_pairs(tmp_path / "set")
    with pytest.raises(SegtrainError, match=words):
        prepare(Data.model_validate({"path": str(root), **fields}))


def test_a_value_unknown_in_val_alone_is_refused(tmp_path: Path):
    root = tmp_path / "set"
    for split in ("train", "val"):
        write_pairs(root, 3, f"images/{split}", f"masks/{split}")
    mask = np.asarray(Image.open(root / "masks" / "val" / "001.png")).copy()
    mask[0, :4] = 9
    Image.fromarray(mask).save(root / "masks" / "val" / "001.png")
    with pytest.raises(SegtrainError, match=r"val/001.png has value 9 \(4 px\)"):
        prepare(Data(path=str(root)))
