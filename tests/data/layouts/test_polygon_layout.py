"""Folders of YOLO's and labelme's polygons: found by content, drawn as their tools show them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.data.masks import MaskReader
from segtrain.data.polygons import YoloMask, read_labelme
from segtrain.errors import SegtrainError, UsageError

WIDTH, HEIGHT = 8, 4
# a rectangle of class 0 and, on it, a square of class 2
LINES = "0 0 0 0.5 0 0.5 1 0 1\n2 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n"
DRAWN = [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 3, 3, 0, 0, 0, 0]]
DRAWN = [DRAWN[0], DRAWN[1], DRAWN[1], DRAWN[0]]


def write_image(file: Path, **options) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, file.name))
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(file, **options)


def write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def read(found: FoundPairs) -> dict[str, list]:
    reader = MaskReader(len(found.classes), found.label_map)
    pairs = [pair for split in found.splits.values() for pair in split]
    return {pair.name: reader(pair.mask).tolist() for pair in pairs}


FOLDERS = {  # (images, labels) of train and val
    "by kind": ("images/train", "labels/train", "images/val", "labels/val"),
    "by split": ("train/images", "train/labels", "valid/images", "valid/labels"),
    "beside": ("train", "train", "val", "val"),
    "darknet": ("obj_train_data", "obj_train_data", "obj_valid_data", "obj_valid_data"),
    "one folder too high": ("my/images/train", "my/labels/train", "my/images/val", "my/labels/val"),
    "capitals": ("Images/Train", "Labels/Train", "Images/Validation", "Labels/Validation"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_yolo_layouts(tmp_path: Path, case: str):
    images, labels, val_images, val_labels = FOLDERS[case]
    for folder, other, names in ((images, labels, "ab"), (val_images, val_labels, "c")):
        for name in names:
            write_image(tmp_path / folder / f"{name}.jpg")
            write_text(tmp_path / other / f"{name}.txt", LINES)
    write_text(tmp_path / "data.yaml", "train: ../train/images\nnames: [cat, cow, dog]\n")
    write_text(tmp_path / "README.txt", "made with care\n")
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, found.findings) == ("polygons", [])
    assert found.classes == ["background", "cat", "cow", "dog"]
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {"train": 2, "val": 1}
    assert read(found) == {"a": DRAWN, "b": DRAWN, "c": DRAWN}
    assert "data.yaml" in found.layout and "background is class 0" in found.layout


def write_yolo(root: Path, names: str = "abcd", lines: str = LINES) -> None:
    for name in names:
        write_image(root / "images" / f"{name}.png")
        write_text(root / "labels" / f"{name}.txt", lines)


@pytest.mark.parametrize(
    "file, text, classes",
    [
        ("data.yaml", "names:\n  0: cat\n  2: dog\n", ["cat", "1", "dog"]),
        ("my-seg.yml", "nc: 3\nnames: ['cat', 'cow', 'dog']\n", ["cat", "cow", "dog"]),
        ("labels/classes.txt", "cat\ncow\ndog\n", ["cat", "cow", "dog"]),
        ("obj.names", "cat\ncow\nbackground\n", ["cat", "cow", "background (3)"]),
        ("notes.txt", "nothing", ["class 0", "class 1", "class 2"]),
    ],
)
def test_class_names(tmp_path: Path, file: str, text: str, classes: list[str]):
    write_yolo(tmp_path)
    write_text(tmp_path / file, text)
    found = find_pairs(DataConfig(), tmp_path)
    assert found.classes == ["background", *classes]
    assert read(found)["a"] == DRAWN
    noted = [f for f in found.findings if f.kind == "classes"]
    assert bool(noted) == (file == "notes.txt") and not any(f.error for f in noted)


def test_images_without_objects(tmp_path: Path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/a.txt", "")
    (tmp_path / "labels/b.txt").unlink()
    found = find_pairs(DataConfig(), tmp_path)
    ids = read(found)
    assert ids["a"] == ids["b"] == [[0] * WIDTH] * HEIGHT and ids["c"] == DRAWN
    (note,) = [f for f in found.findings if f.kind == "unlabelled"]
    assert (note.error, note.places) == (False, ["images/b.png"]) and "1 of 4" in note.text
    (tmp_path / "labels/a.txt").unlink()
    (tmp_path / "labels/d.txt").unlink()
    (error,) = [f for f in find_pairs(DataConfig(), tmp_path).findings if f.kind == "unlabelled"]
    assert error.error and len(error.fix["exclude"]) == 3  # most of them: who says so?


def test_a_split_without_polygons_is_named(tmp_path: Path):
    write_yolo(tmp_path / "train")
    write_image(tmp_path / "test/images/z.png")
    found = find_pairs(DataConfig(), tmp_path)
    assert list(found.splits) == ["train", "val"]
    assert any("test/images: 1 image(s) without polygons" in f.text for f in found.findings)


def test_polygons_without_an_image_are_an_error(tmp_path: Path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/z.txt", LINES)
    found = find_pairs(DataConfig(), tmp_path)
    assert [(f.kind, f.places) for f in found.findings if f.error] == [
        ("unpaired", ["labels/z.txt"])
    ]


def test_a_folder_of_polygons_or_boxes_beside_others_is_an_error(tmp_path: Path):
    write_yolo(tmp_path / "train")
    write_text(tmp_path / "val/labels/z.txt", LINES)
    write_image(tmp_path / "test/images/y.png")
    write_text(tmp_path / "test/labels/y.txt", "0 0.5 0.5 0.2 0.2\n")
    found = find_pairs(DataConfig(), tmp_path)
    (error,) = [f for f in found.findings if f.error]
    assert (error.kind, error.places) == ("unpaired", ["val/labels/z.txt"])
    with pytest.raises(SegtrainError, match="y.txt: line 1 is a box"):
        found.splits["test"][0].mask.values()


WRONG_LINES = {
    "a box": ("0 0.5 0.5 0.2 0.2", "line 2 is a box"),
    "half a point": ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "got 8 numbers"),
    "two points": ("0 0.1 0.1", "got 3 numbers"),
    "an unknown class": ("3 0.1 0.1 0.5 0.1 0.5 0.5", "class 3, expected 0..2"),
    "half a class": ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "class 0.5, expected"),
    "a class below 0": ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "class -1, expected"),
    "pixels": ("0 1 1 7 1 7 3", "expected fractions"),
    "percent": ("0 10 10 50 10 50 50", "expected fractions"),
    "no number": ("0 0.1 0.1 0.5 nan 0.5 0.5", "expected fractions"),
    "text": ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "could not convert"),
}


@pytest.mark.parametrize("case", WRONG_LINES)
def test_a_wrong_line_is_its_image_s_fault(cli, tmp_path: Path, case: str):
    line, words = WRONG_LINES[case]
    write_yolo(tmp_path / "set")
    write_text(tmp_path / "set/data.yaml", "names: [cat, cow, dog]\n")
    write_text(tmp_path / "set/labels/b.txt", f"{LINES.splitlines()[0]}\n{line}\n")
    done = cli("check", "set", "--write-config", "fixed.yaml")
    assert done.code == 1 and "1 file cannot be read" in done.stdout
    assert f"labels/b.txt: {'' if 'convert' in words else 'line 2'}" in done.stdout
    assert words in done.stdout and "images/b.png" in done.stdout
    assert "1 excluded" in cli("check", "--config", "fixed.yaml").stdout


def test_boxes_and_key_points_are_named(tmp_path: Path):
    write_yolo(tmp_path, lines="0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(SegtrainError, match="labels: YOLO's boxes"):
        find_pairs(DataConfig(), tmp_path)
    write_yolo(tmp_path, lines="0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.2 0.2\n")
    write_text(tmp_path / "data.yaml", "kpt_shape: [2, 3]\nnames: [cat]\n")
    with pytest.raises(SegtrainError, match="data.yaml: kpt_shape"):
        find_pairs(DataConfig(), tmp_path)


def test_fractions_are_of_the_upright_image(tmp_path: Path):
    for name in "ab":
        exif = Image.Exif()
        exif[0x0112] = 6  # stored 8 wide and 4 high, shown 4 wide and 8 high
        write_image(tmp_path / f"{name}.jpg", exif=exif)
        write_text(tmp_path / f"{name}.txt", "0 0 0 1 0 1 0.25 0 0.25\n")
    ids = read(find_pairs(DataConfig(), tmp_path))
    assert ids["a"] == [[1] * 4] * 2 + [[0] * 4] * 6
    ids = read(find_pairs(DataConfig(format="polygons", exif=False), tmp_path))
    assert ids["a"] == [[1] * 8] + [[0] * 8] * 3  # as stored


def crop(rows: list[list[int]]) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.array(rows, bool)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def shape(label: str, points: list, kind: str | None = "polygon", **more) -> dict:
    return (
        {"label": label, "points": points, "group_id": None, "flags": {}}
        | ({"shape_type": kind} if kind else {} | more)
        | more
    )


WHOLE = [[0, 0], [4, 0], [4, 4], [0, 4]]
SHAPES = [
    shape("dog", [[2, 1], [4, 3]], "rectangle"),  # lies on the larger one, though it comes first
    shape("cat", WHOLE, None),
    shape("__ignore__", [[6, 0], [8, 0], [8, 1], [6, 1]]),
    shape("_background_", [[0, 3], [1, 3], [1, 4], [0, 4]]),
    shape("bird", [[5, 2], [6, 3]], "mask", mask=crop([[1, 0], [1, 1]])),
    shape("tail", [[2, 1]], "point"),
    shape("tail", [[2, 1], [3, 1], [3, 2]], "linestrip"),
    shape("dog", [[2, 1], [3, 1]]),
]
LABELME = [
    [2, 2, 2, 2, 0, 0, 255, 255], [2, 2, 3, 3, 0, 0, 0, 0],
    [2, 2, 3, 3, 0, 1, 0, 0], [0, 2, 2, 2, 0, 1, 1, 0],
]  # fmt: skip


def write_labelme(file: Path, shapes: list = SHAPES, **changed) -> None:
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "x.png",
               "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}  # fmt: skip
    write_text(file, json.dumps(content | changed))


@pytest.mark.parametrize(
    "images, labels", [(".", "."), ("images", "annotations"), ("img", "ann"), ("images", "images"),
                       ("train", "train"), ("data/photos", "data/json")],
)  # fmt: skip
def test_labelme_layouts(tmp_path: Path, images: str, labels: str):
    for name in "abc":
        write_image(tmp_path / images / f"{name}.png")
        write_labelme(tmp_path / labels / f"{name}.json")
    found = find_pairs(DataConfig(), tmp_path)
    assert found.format == "polygons" and not any(f.error for f in found.findings)
    assert found.classes == ["background", "bird", "cat", "dog"]
    assert read(found) == {name: LABELME for name in "abc"}
    (note,) = [f.text for f in found.findings if f.kind == "undrawn"]
    assert "3 linestrip" in note and "3 point" in note and "3 polygon of fewer" in note


def test_labelme_s_masks_are_those_of_their_boxes(tmp_path: Path):
    rng, drawn = np.random.default_rng(0), {}
    for name in "abcdef":
        write_image(tmp_path / f"{name}.png")
        whole = rng.random((HEIGHT, WIDTH)) < rng.choice([0.2, 0.9, 1])
        top, left = rng.integers(HEIGHT), rng.integers(WIDTH)
        whole[:top], whole[:, :left] = False, False
        corners = [[int(left), int(top)], [WIDTH - 1, HEIGHT - 1]]
        mask = crop(whole[top:, left:].tolist())
        write_labelme(tmp_path / f"{name}.json", [shape("a", corners, "mask", mask=mask)])
        drawn[name] = whole.astype(int).tolist()
    assert read(find_pairs(DataConfig(), tmp_path)) == drawn


def test_labelme_s_circle_and_image_s_own_size(tmp_path: Path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
        circle = shape("sun", [[4, 2], [6, 2]], "circle")
        write_labelme(tmp_path / f"{name}.json", [circle], imageHeight=None, imageWidth=None)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    round_ = np.hypot(columns - 4, rows - 2) < 2
    assert read(find_pairs(DataConfig(), tmp_path))["a"] == round_.astype(int).tolist()


def test_labelme_s_own_list_of_labels_comes_first(tmp_path: Path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
        write_labelme(tmp_path / f"{name}.json", SHAPES[:2])
    write_text(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncow\ncat\n")
    found = find_pairs(DataConfig(), tmp_path)
    assert found.classes == ["background", "dog", "cow", "cat"]
    assert np.unique(read(found)["a"]).tolist() == [0, 1, 3]
    write_text(tmp_path / "labels.txt", "dog\n")
    pairs = find_pairs(DataConfig(), tmp_path).splits["train"]
    with pytest.raises(SegtrainError, match="label 'cat' is none of the classes"):
        pairs[0].mask.values()


def test_labels_that_differ_in_case_are_noted(tmp_path: Path):
    for name, label in (("a", "Cat"), ("b", "cat ")):
        write_image(tmp_path / f"{name}.png")
        write_labelme(tmp_path / f"{name}.json", [shape(label, WHOLE)])
    found = find_pairs(DataConfig(), tmp_path)
    assert found.classes == ["background", "Cat", "cat"]
    assert any("differ in upper and lower case alone: Cat, cat" in f.text for f in found.findings)


WRONG_SHAPES = {
    "no points": ({"label": "cat"}, "'points'"),
    "half a point": (shape("cat", [[0, 0], [1], [2, 2]]), "ValueError"),
    "text": (shape("cat", [["a", "b"], [1, 1], [2, 2]]), "TypeError"),
    "far away": (shape("cat", [[0, 0], [99, 1], [2, 2]]), "far outside"),
    "no label": (shape(None, WHOLE), "AttributeError"),
    "an empty label": (shape(" ", WHOLE), "without a label"),
    "an unknown kind": (shape("cat", WHOLE, "cuboid"), "type cuboid"),
    "a mask of another size": (shape("cat", [[0, 0], [3, 3]], "mask", mask=crop([[1]])), "a mask"),
    "a mask outside": (shape("cat", [[8, 0], [8, 0]], "mask", mask=crop([[1]])), "a mask"),
    "no image in a mask": (shape("cat", [[0, 0], [0, 0]], "mask", mask="AAAA"), "Unidentified"),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_a_wrong_shape_is_its_image_s_fault(tmp_path: Path, case: str):
    wrong, words = WRONG_SHAPES[case]
    for name in "abcd":
        write_image(tmp_path / f"{name}.png")
        write_labelme(tmp_path / f"{name}.json", [SHAPES[0], *([wrong] if name == "b" else [])])
    pairs = [p for split in find_pairs(DataConfig(), tmp_path).splits.values() for p in split]
    assert len(pairs) == 4
    for pair in pairs:
        if pair.name == "b":
            with pytest.raises(SegtrainError, match=f"b.json: .*{words}"):
                pair.mask.values()
        else:
            assert (pair.mask.values() > 0).sum() == 4


part = st.recursive(
    st.none() | st.integers(-3, 9) | st.sampled_from([2**70, 1e308, "x", "", True]) | st.floats(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=9,
)
point = st.lists(st.floats(-2, 9) | st.integers(0, 8), min_size=2, max_size=2)
entry = st.fixed_dictionaries(
    {}, optional={
        "label": st.sampled_from(["cat", "", " dog ", None, 7]),
        "points": st.lists(point, max_size=5) | part,
        "shape_type": st.sampled_from([None, "rectangle", "circle", "mask", "line", "x"]),
        "mask": st.sampled_from([None, "", "AAAA", crop([[1, 0], [1, 1]])]),
    },
)  # fmt: skip
sides = st.sampled_from([None, 0, HEIGHT, WIDTH, float(WIDTH), 2**40, "x"])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(entry | part, max_size=3) | part, sides, sides)
def test_any_labelme_json_is_drawn_or_refused(tmp_path: Path, shapes, height, width):
    image = tmp_path / "a.png"
    if not image.exists():
        write_image(image)
    write_labelme(tmp_path / "a.json", shapes, imageHeight=height, imageWidth=width)
    found = read_labelme(tmp_path / "a.json")
    values = {label: i for i, (label, _) in enumerate(found.shapes, 1)}
    try:
        drawn = found.draw(values, image, True).values(10_000)
    except SegtrainError as error:
        assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
        return
    assert set(np.unique(drawn)) <= {0, *values.values()} and drawn.size <= 10_000


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text("0123456789.- \nenaf+_x", max_size=60) | st.binary(max_size=40))
def test_any_text_is_drawn_or_refused(tmp_path: Path, text: str | bytes):
    image, file = tmp_path / "a.png", tmp_path / "a.txt"
    if not image.exists():
        write_image(image)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        drawn = YoloMask(image, file, 3).values()
    except SegtrainError as error:
        assert str(error).startswith(f"{file}: ") and "\n" not in str(error)
        return
    assert drawn.shape == (HEIGHT, WIDTH) and drawn.max() <= 3


def test_an_image_that_labelme_did_not_save_is_an_error(tmp_path: Path):
    for name in "abc":
        write_image(tmp_path / f"{name}.png")
        write_labelme(tmp_path / f"{name}.json")
    write_image(tmp_path / "d.png")
    (error,) = [f for f in find_pairs(DataConfig(), tmp_path).findings if f.error]
    assert (error.kind, error.places, error.fix) == ("unpaired", ["d.png"], {"exclude": ["d.png"]})


def test_named_in_splits(tmp_path: Path):
    for split in ("train", "val"):
        for name in ("day/a", "night/a", "b"):
            write_image(tmp_path / "photos" / split / f"{name}.png")
            write_text(tmp_path / "outlines" / split / f"{name}.txt", LINES)
    splits = {s: SplitConfig(images=f"photos/{s}", masks=f"outlines/{s}") for s in ("train", "val")}
    found = find_pairs(DataConfig(splits=splits, format="polygons"), tmp_path)
    assert (found.format, [len(pairs) for pairs in found.splits.values()]) == ("polygons", [3, 3])
    assert all(mask == DRAWN for mask in read(found).values())


def test_splits_without_the_format_are_refused(tmp_path: Path):
    write_yolo(tmp_path)
    splits = {"train": SplitConfig(images="images", masks="labels")}
    with pytest.raises(UsageError, match="labels has no masks but 4 .txt; .*data.format: polygons"):
        find_pairs(DataConfig(splits=splits), tmp_path)
    write_text(tmp_path / "train.txt", "a\n")
    splits = {"train": SplitConfig(images="images", masks="labels", list="train.txt")}
    with pytest.raises(UsageError, match="give images and masks alone"):
        find_pairs(DataConfig(splits=splits, format="polygons"), tmp_path)


def test_lists_of_names_divide_polygons(tmp_path: Path):
    write_yolo(tmp_path)
    write_text(tmp_path / "train.txt", "./images/a.png\n./images/b.png\n./images/c.png\n")
    write_text(tmp_path / "val.txt", "./images/d.png\n")
    found = find_pairs(DataConfig(), tmp_path)
    assert [pair.name for pair in found.splits["val"]] == ["d"]
    assert read(found) == dict.fromkeys("abcd", DRAWN)


def test_mask_images_come_before_polygons(tmp_path: Path):
    write_yolo(tmp_path)
    for name in "abcd":
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / f"masks/{name}.png")
    assert find_pairs(DataConfig(), tmp_path).format == "pairs"
