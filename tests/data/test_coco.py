"""COCO JSON: detection, checks, and masks drawn to pixels computed by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.coco import CocoMask, unpack_runs
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.data.masks import MaskReader
from segtrain.errors import SegtrainError, UsageError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}]
NAMES = ["background", "cat", "dog (7)", "dog (90)"]


def annotation(image: int, category: int, segmentation, **more) -> dict:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


def rectangle(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A polygon of the pixels left..right-1 and top..bottom-1."""
    return [left, top, right, top, right, bottom, left, bottom]


# 6 wide, 4 high; runs go down the columns: 4 outside, 2 inside, 2 outside, 2 inside, 14 outside
RUNS = {"size": [4, 6], "counts": [4, 2, 2, 2, 14]}
COMPRESSED = {"size": [4, 6], "counts": "4220<"}  # the same: 4, 2, 2, then 2 - 2 and 14 - 2
ANNOTATIONS = [
    annotation(11, 3, [rectangle(1, 1, 3, 3)]),  # lies on the larger one, though it comes first
    annotation(11, 7, [rectangle(0, 0, 5, 4)]),
    annotation(12, 90, RUNS, iscrowd=1),
    annotation(13, 7, COMPRESSED),
    annotation(13, 3, [rectangle(4, 0, 5, 1), rectangle(5, 3, 6, 4), [0, 0, 6, 0]]),
]
DRAWN = {
    11: [[2, 2, 2, 2, 2, 0], [2, 1, 1, 2, 2, 0], [2, 1, 1, 2, 2, 0], [2, 2, 2, 2, 2, 0]],
    12: [[0, 3, 3, 0, 0, 0], [0, 3, 3, 0, 0, 0], [0] * 6, [0] * 6],
    13: [[0, 2, 2, 0, 1, 0], [0, 2, 2, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]],
    14: [[0] * 6] * 4,  # without annotations
}


def write(file: Path, folder: Path | None, first: int = 11, **changed) -> dict:
    """A JSON of images 11..14 (or others), and the images."""
    numbers = [number for number in (11, 12, 13, 14) if number >= first]
    content = {
        "info": {"year": 2026},
        "images": [
            {"id": n, "file_name": f"{n:012d}.png", "height": 4, "width": 6} for n in numbers
        ],
        "annotations": [a | {"id": i} for i, a in enumerate(ANNOTATIONS) if a["image_id"] >= first],
        "categories": CATEGORIES,
    } | changed
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    for n in numbers if folder else ():
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(folder / f"{n:012d}.png")
    return content


def read(found: FoundPairs, split: str) -> dict[int, list]:
    reader = MaskReader(len(found.classes), found.label_map, 255, found.palette)
    return {pair.mask.image_id: reader(pair.mask).tolist() for pair in found.splits[split]}


# folders of the JSON and the images of train and val
LAYOUTS = {
    "as published": ("annotations/instances_train2017.json", "train2017",
                     "annotations/instances_val2017.json", "val2017"),
    "below images": ("annotations/instances_train2017.json", "images/train2017",
                     "annotations/instances_val2017.json", "images/val2017"),
    "one folder": ("annotations/train.json", "images", "annotations/val.json", "images"),
    "by split": ("annotations/my_train.json", "train", "annotations/my_val.json", "val"),
    "roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(tmp_path: Path, case: str):
    train, images, val, val_images = LAYOUTS[case]
    write(tmp_path / train, tmp_path / images)
    content = write(tmp_path / val, None)
    entries = [entry | {"file_name": f"v{entry['id']}.png"} for entry in content["images"][:1]]
    write(tmp_path / val, None, images=entries, annotations=ANNOTATIONS[:2])
    (tmp_path / val_images).mkdir(exist_ok=True)
    Image.new("RGB", (6, 4)).save(tmp_path / val_images / "v11.png")
    if case == "as published":
        (tmp_path / "annotations/captions_train2017.json").write_text("[]")
    found = find_pairs(DataConfig(), tmp_path)
    assert found.format == "coco"
    assert [finding.error for finding in found.findings] == []
    assert (found.classes, found.palette) == (NAMES, None)
    assert found.label_map == {0: 0, 3: 1, 7: 2, 90: 3}
    assert read(found, "train") == DRAWN
    assert read(found, "val") == {11: DRAWN[11]}
    assert found.splits["train"][0].image == tmp_path / images / "000000000011.png"
    assert "smaller objects over larger ones" in found.layout


def test_a_mask_names_its_json_and_image(tmp_path: Path):
    write(tmp_path / "a.json", tmp_path)
    pair = find_pairs(DataConfig(), tmp_path / "a.json").splits["train"][0]
    mask = pickle.loads(pickle.dumps(pair.mask))
    assert mask == pair.mask and hash(mask) == hash(pair.mask) and pair.name == "000000000011"
    assert str(mask) == f"{tmp_path}/a.json (image 11)"
    assert (mask.size, mask.values().dtype) == ((4, 6), np.int32)
    assert np.unique(mask.values()).tolist() == [0, 3, 7]


def test_a_json_alone_is_the_training_data(tmp_path: Path):
    write(tmp_path / "set/labels.json", tmp_path / "set")
    found = find_pairs(DataConfig(val_fraction=0.3), tmp_path / "set/labels.json")
    assert (found.format, [len(found.splits[s]) for s in found.splits]) == ("coco", [3, 1])
    assert read(found, "train") | read(found, "val") == DRAWN
    with pytest.raises(UsageError, match="data.format lists"):
        find_pairs(DataConfig(format="lists"), tmp_path / "set/labels.json")


def test_named_in_splits(tmp_path: Path):
    write(tmp_path / "x/one.json", tmp_path / "pictures")
    write(tmp_path / "x/two.json", tmp_path / "x", first=13)
    splits = {
        "train": SplitConfig(coco="x/one.json", images="pictures"),
        "val": SplitConfig(coco="x/two.json"),
    }
    found = find_pairs(DataConfig(splits=splits), tmp_path)
    assert read(found, "train") == DRAWN
    assert read(found, "val") == {n: DRAWN[n] for n in (13, 14)}
    with pytest.raises(SegtrainError, match="gone.json: not a JSON that can be read"):
        find_pairs(DataConfig(splits={"train": SplitConfig(coco="gone.json")}), tmp_path)


def test_a_category_with_id_0_leaves_the_background_another_value(tmp_path: Path):
    categories = [{"id": 0, "name": "background"}, {"id": 2, "name": "cat"}]
    annotations = [annotation(13, 0, [rectangle(0, 0, 2, 1)]), annotation(14, 2, RUNS)]
    write(tmp_path / "a.json", tmp_path, 13, categories=categories, annotations=annotations)
    found = find_pairs(DataConfig(val_fraction=0.5), tmp_path / "a.json")
    assert found.classes == ["background", "background (0)", "cat"]
    assert found.label_map == {3: 0, 0: 1, 2: 2}
    ids = read(found, "train") | read(found, "val")
    assert ids[13] == [[1, 1, 0, 0, 0, 0], *[[0] * 6] * 3]
    assert ids[14] == [[0, 2, 2, 0, 0, 0], [0, 2, 2, 0, 0, 0], [0] * 6, [0] * 6]


def test_missing_outside_and_box_only_images_are_reported_and_left_out(tmp_path: Path):
    root = tmp_path / "set"
    content = write(root / "a.json", root)
    Image.new("RGB", (6, 4)).save(tmp_path / "secret.png")
    content["images"][0]["file_name"] = "../secret.png"
    content["images"][1]["file_name"] = "gone.png"
    content["annotations"] += [annotation(13, 3, []), annotation(14, 3, [[0, 0, 3, 3]])]
    (root / "a.json").write_text(json.dumps(content))
    found = find_pairs(DataConfig(), root / "a.json")
    assert [pair.mask.image_id for split in found.splits.values() for pair in split] == [14]
    assert [(f.kind, f.error, f.places) for f in found.findings] == [
        ("sliver", False, []),
        ("box", True, ["000000000013.png"]),
        ("missing", True, ["gone.png"]),
        ("outside", True, [f"{tmp_path}/secret.png"]),
    ]
    assert all("a.json" in str(finding) for finding in found.findings)
    kinds = [f.kind for f in find_pairs(DataConfig(allow_outside=True), root / "a.json").findings]
    assert sorted(kinds) == ["box", "missing", "sliver"]


def test_images_can_be_excluded(tmp_path: Path):
    write(tmp_path / "a.json", tmp_path / "images")
    splits = {"train": SplitConfig(coco="a.json", images="images")}
    found = find_pairs(DataConfig(splits=splits, exclude=["images/*13.png"]), tmp_path)
    both = found.splits["train"] + found.splits["val"]
    assert sorted(pair.mask.image_id for pair in both) == [11, 12, 14]
    assert "1 excluded" in found.layout


IMAGE = {"id": 11, "file_name": "a.png", "height": 4, "width": 6}
# what is changed in the JSON, words of the error beside the file's name
WRONG = {
    "no images": ({"images": None}, "images is not a list"),
    "images of strings": ({"images": ["a.png"]}, "images is not a list of objects"),
    "no categories": ({"categories": []}, "categories is empty"),
    "an id twice": ({"categories": [*CATEGORIES, CATEGORIES[0]]}, "two categories have the id 7"),
    "an id below 0": ({"categories": [{"id": -1, "name": "x"}]}, "id of 0 to .*got id -1"),
    "a huge id": ({"categories": [{"id": 10**9, "name": "x"}]}, "id of 0 to .*got id 1000000000"),
    "an image twice": ({"images": [IMAGE, IMAGE]}, "two images have one id"),
    "no height": ({"images": [IMAGE | {"height": None}]}, "a.png needs its height and width"),
    "no pixels": ({"images": [IMAGE | {"width": 0}]}, "a.png needs its height and width"),
    "too large": ({"images": [IMAGE | {"width": 2**40}]}, "a.png of .* is too large"),
    "no name": ({"images": [IMAGE | {"file_name": 5}]}, "an image has id 11 and file_name 5"),
    "an unknown image": ({"annotations": [annotation(99, 3, RUNS)]}, "of image 99, which images"),
    "an unknown category": ({"annotations": [annotation(11, 4, RUNS)]}, "of category 4, which"),
    "half a point": ({"annotations": [annotation(11, 3, [[0, 0, 1, 1, 2]])]}, "11.png .*half a"),
    "a point far away": ({"annotations": [annotation(11, 3, [[0, 0, 1, 1, 2, 1e9]])]}, "far out"),
    "not a number": ({"annotations": [annotation(11, 3, [[0, 0, 1, 1, 2, "x"]])]}, "neither poly"),
    "nowhere": ({"annotations": [annotation(11, 3, [[0, 0, 1, 1, 2, float("nan")]])]}, "far out"),
    "numbers alone": ({"annotations": [annotation(11, 3, [0, 0, 1, 1, 2, 2])]}, "neither polygons"),
    "runs of another size": (
        {"annotations": [annotation(11, 3, RUNS | {"size": [6, 4]})]}, "neither polygons nor run"),
    "runs without size": ({"annotations": [annotation(11, 3, {"counts": [24]})]}, "neither poly"),
    "no runs": (
        {"annotations": [annotation(11, 3, RUNS | {"counts": ""})]}, "neither .*no counts"),
    "broken runs": (
        {"annotations": [annotation(11, 3, RUNS | {"counts": [1.5]})]}, "neither polygons nor"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_refused(tmp_path: Path, case: str):
    changed, words = WRONG[case]
    write(tmp_path / "annotations/train.json", tmp_path / "images", **changed)
    with pytest.raises(SegtrainError, match=f"(?s)train.json.*{words}"):
        find_pairs(DataConfig(), tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"images"', "[" * 100_000, "\xff\xfe"])
def test_other_json_files_are_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SegtrainError, match="a.json: not a (COCO )?JSON"):
        find_pairs(DataConfig(), tmp_path / "a.json")


@pytest.mark.parametrize("counts", [[23], [25], [30, -6], "4220", "4220<0", "4220<P", "~~~~"])
def test_runs_that_do_not_fill_the_image_are_refused(tmp_path: Path, counts):
    annotations = [annotation(11, 3, {"size": [4, 6], "counts": counts})]
    write(tmp_path / "a.json", tmp_path, annotations=annotations)
    found = find_pairs(DataConfig(val_fraction=0.1), tmp_path / "a.json")
    masks = [pair.mask for split in found.splits.values() for pair in split]
    (mask,) = [mask for mask in masks if mask.image_id == 11]
    with pytest.raises(SegtrainError, match=r"a.json \(image 11\): the run lengths"):
        mask.values()


def test_unpacking_agrees_with_pycocotools():
    from pycocotools import mask as rle

    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 0.99, 1):
        for size in ((1, 1), (37, 53), (200, 300)):
            pixels = np.asfortranarray((rng.random(size) < share).astype(np.uint8))
            packed = rle.encode(pixels)
            runs = unpack_runs(packed["counts"])
            flat = np.repeat(np.arange(len(runs)) % 2, runs)
            assert (flat.reshape(size, order="F") == pixels).all()
            mask = CocoMask(Path("a.json"), 1, *size, 0, ((5, packed["counts"]),))
            assert (mask.values() == pixels * 5).all()


def test_splits_must_have_the_same_categories(tmp_path: Path):
    write(tmp_path / "annotations/train.json", tmp_path / "images")
    other = [*CATEGORIES[:2], {"id": 90, "name": "bird"}]
    write(tmp_path / "annotations/val.json", tmp_path / "images", 13, categories=other)
    with pytest.raises(SegtrainError, match="train.json and .*val.json have different.*90 'bird'"):
        find_pairs(DataConfig(), tmp_path)


def test_two_jsons_of_one_split_are_refused(tmp_path: Path):
    for name in ("cats_train.json", "dogs_train.json"):
        write(tmp_path / "annotations" / name, tmp_path / "images")
    with pytest.raises(SegtrainError, match="cats_train.json and dogs_train.json are both"):
        find_pairs(DataConfig(), tmp_path)


def test_an_image_in_two_jsons_is_in_two_splits(tmp_path: Path):
    write(tmp_path / "annotations/train.json", tmp_path / "images", 13)
    write(tmp_path / "annotations/val.json", tmp_path / "images", 12)
    found = find_pairs(DataConfig(), tmp_path)
    assert [pair.mask.image_id for pair in found.splits["val"]] == [12]
    assert [(f.kind, len(f.places)) for f in found.findings] == [("split", 2)]
