"""The one pair of folders that is meant: endings by split, several masks an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pair_finder import write

from segtrain.config import DataConfig
from segtrain.data.layouts.detect import find_pairs
from segtrain.errors import SegtrainError

BY_SPLIT = {
    "DRIVE": ("{split}/images/{n:02}_{split}.tif", "{split}/1st_manual/{n:02}_manual1.gif"),
    "folders of splits below": ("images/{split}/{n}_{split}.png", "masks/{split}/{n}_lab.png"),
    "masks of the core's name": ("{split}/images/{n}_{split}.png", "{split}/masks/{n}.png"),
}


@pytest.mark.parametrize("same_numbers", [False, True])
@pytest.mark.parametrize(
    "counts", [dict(training=4, test=4), dict(training=12, test=1), dict(train=3, val=3, test=3)]
)
@pytest.mark.parametrize("image, mask", BY_SPLIT.values(), ids=BY_SPLIT)
def test_images_may_end_otherwise_in_each_split(
    tmp_path: Path, image: str, mask: str, counts: dict[str, int], same_numbers: bool
):
    for place, (split, count) in enumerate(counts.items()):
        for n in range(count):
            number = n + (0 if same_numbers else 20 * place)
            for path in (image, mask):
                write(tmp_path, path.format(split=split, n=number))
    source = find_pairs(DataConfig(), tmp_path)
    assert not source.findings and "not read" not in source.layout
    found = {split: len(pairs) for split, pairs in source.splits.items()}
    if "val" not in counts:
        found["training"] = found.pop("train") + found.pop("val")  # held out
    assert found == counts


def test_endings_of_parts_are_no_channels(tmp_path: Path):
    for part in ("A", "B"):
        for n in range(4):
            write(
                tmp_path,
                f"images/part{part}/{part}{n}_cam{part}.png",
                f"labels/part{part}/{part}{n}.png",
            )
    with pytest.raises(SegtrainError) as caught:
        find_pairs(DataConfig(), tmp_path)
    assert "_camA, _camB" in str(caught.value) and "files an image" not in str(caught.value)


@pytest.mark.parametrize("several", [1, 4, 6])
@pytest.mark.parametrize(
    "mask, other",
    [
        ("masks/{n}_mask.png", "masks/{n}_mask_1.png"),
        ("masks/{n}_mask.png", "masks/{n}_mask (1).png"),
        ("images/{n}_mask.png", "images/{n}_mask_1.png"),
        ("masks/{n}_mask1.png", "masks/{n}_mask2.png"),
        ("masks/x{n}.png", "masks/x{n}_1.png"),
        ("masks/mask_{n}_a.png", "masks/mask_{n}_b.png"),
    ],
)
def test_second_masks_of_some_images_are_refused(
    tmp_path: Path, mask: str, other: str, several: int
):
    for n in range(6):
        name = f"x{n}" if "/x" in mask else n
        write(tmp_path, f"images/{name}.jpg" if "masks/" in mask else f"images/{n}.png")
        write(tmp_path, mask.format(n=n), value=255)
        if n < several:
            write(tmp_path, other.format(n=n), value=255)
    with pytest.raises(SegtrainError) as caught:
        find_pairs(DataConfig(), tmp_path)
    assert "several masks" in str(caught.value)


def test_rare_renderings_are_no_second_masks(tmp_path: Path):
    for n in range(6):
        write(tmp_path, f"images/{n}.jpg", f"masks/{n}_mask.png")
    write(tmp_path, "masks/1_color.png", "masks/2_depth.png")
    assert find_pairs(DataConfig(), tmp_path).findings == []


def write_objects(root: Path, names: list[str]) -> None:
    for n in range(3):
        write(root, f"images/x{n}.jpg")
        for row, name in enumerate(names):
            path = root / f"masks/x{n}_{name}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = np.zeros((8, 8), np.uint8)
            pixels[row] = 255
            Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("names", ["road_0 road_1 car_0", "car1 car2 road1 road2"])
def test_numbered_objects_of_classes_are_merged(tmp_path: Path, names: str):
    write_objects(tmp_path, names.split())
    found = find_pairs(DataConfig(), tmp_path)
    assert found.classes == ["background", "car", "road"] and "of objects" in found.layout
    rows = found.splits["train"][0].mask.values(99)[:, 0].tolist()
    assert rows[: len(names.split())] == [
        1 if name.startswith("car") else 2 for name in names.split()
    ]


@pytest.mark.parametrize("names", ["nucleus1 nucleus2", "grade_3 grade_4 benign"])
def test_numbers_of_one_word_may_be_objects_or_classes(tmp_path: Path, names: str):
    write_objects(tmp_path, names.split())
    with pytest.raises(SegtrainError, match="objects"):
        find_pairs(DataConfig(), tmp_path)


def test_classes_may_have_numbers(tmp_path: Path):
    write_objects(tmp_path, ["class1", "class2", "b2"])
    assert find_pairs(DataConfig(), tmp_path).classes == ["background", "b2", "class1", "class2"]


def test_objects_of_a_class_may_share_pixels(tmp_path: Path):
    write_objects(tmp_path, ["car_0", "car_1", "road_0"])
    pixels = np.zeros((8, 8), np.uint8)
    pixels[1], pixels[0, 0] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "masks/x0_car_1.png")
    found = find_pairs(DataConfig(), tmp_path)
    pair = next(p for pairs in found.splits.values() for p in pairs if p.name == "x0")
    assert pair.mask.values(99)[:4, 0].tolist() == [1, 1, 2, 0]
