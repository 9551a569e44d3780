"""COCO JSON: detection, checks, and masks drawn to pixels computed by hand."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.coco import read_coco
from segtrain.data.layouts.coco_layout import number_categories
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.data.masks import MaskReader
from segtrain.data.regions import RegionMask, unpack_runs
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
    assert (mask.size, mask.values().dtype) == ((4, 6), np.uint8)
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
    "no categories": ({"categories": []}, "an empty list of categories"),
    "an id twice": ({"categories": [*CATEGORIES, CATEGORIES[0]]}, "two categories have the id 7"),
    "no id": ({"categories": [{"name": "x"}]}, "an id and a name, got id None"),
    "no category name": ({"categories": [{"id": 3}]}, "got id 3, name None"),
    "an image twice": ({"images": [IMAGE, IMAGE]}, "two images have one id"),
    "an image twice, as a float": ({"images": [IMAGE, IMAGE | {"id": 11.0}]}, "have one id"),
    "no name": ({"images": [IMAGE | {"file_name": 5}]}, "an image has id 11 and file_name 5"),
    "unknown images alone": ({"annotations": [annotation(99, 3, RUNS)]}, "no region .*but 1 of"),
    "slivers alone": ({"annotations": [annotation(11, 3, [[0, 0, 3, 3]])]}, "no region to learn"),
    "no annotations": ({"annotations": []}, "no region to learn in 4 image"),
    "fractions": (
        {"annotations": [annotation(11, 3, [[0, 0, 0.5, 0, 1.0, 1]])]}, "are fractions of the"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_refused(tmp_path: Path, case: str):
    changed, words = WRONG[case]
    write(tmp_path / "annotations/train.json", tmp_path / "images", **changed)
    with pytest.raises(SegtrainError, match=f"(?s)train.json.*{words}"):
        find_pairs(DataConfig(), tmp_path)


# what is wrong with image 11 alone: a segmentation, or an annotation
NAN, SHORT = float("nan"), [23]
WRONG_REGIONS = {
    "half a point": ([[0, 0, 1, 1, 2]], "half a point"),
    "a point far away": ([[0, 0, 1, 1, 2, 1e9]], "far outside"),
    "another size's": ([[0, 0, 100, 1, 2, 40]], "far outside"),
    "text": ([[0, 0, 1, 1, 2, "x"]], "wrong segmentation"),
    "text alone": ("polygon", "wrong segmentation"),
    "null": ([[0, 0, 1, 1, None, 2]], "wrong segmentation"),
    "nowhere": ([[0, 0, 1, 1, 2, NAN]], "far outside"),
    "infinite": ([[0, 0, 1, 1, 2, float("inf")]], "far outside"),
    "a long outline": ([[0, 0, 12, 12] * 400_000], "outline of a polygon is longer"),
    "runs of another size": (RUNS | {"size": [6, 4]}, r"size \[6, 4\].*of \[4, 6\]"),
    "text of cut bytes": (RUNS | {"counts": "b'4220<"}, "wrong segmentation"),
    "runs without size": ({"counts": [24]}, "wrong segmentation"),
    "no runs": (RUNS | {"counts": ""}, "no counts"),
    "broken runs": (RUNS | {"counts": [1.5]}, "a run of length 1.5"),
    "huge runs": (RUNS | {"counts": [2**62, 2**62]}, "cover 9223372036854775808 of 24"),
    "runs beyond 64 bits": (RUNS | {"counts": [2**70]}, "wrong segmentation"),
    "an endless number": (RUNS | {"counts": "o" * 100_000}, "cover -1 of 24"),
    "short runs": (RUNS | {"counts": SHORT}, "cover 23 of 24"),
    "long runs": (RUNS | {"counts": [25]}, "cover 25 of 24"),
    "negative runs": (RUNS | {"counts": [30, -6]}, "cover 24 of 24"),
    "cut text": (RUNS | {"counts": "4220"}, "the run lengths"),
    "text in excess": (RUNS | {"counts": "4220<0"}, "the run lengths"),
    "text within a number": (RUNS | {"counts": "4220<P"}, "the run lengths"),
    "no text of runs": (RUNS | {"counts": "~~~~"}, "the run lengths"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_REGIONS)
def test_a_wrong_region_is_its_image_s_fault(tmp_path: Path, case: str):
    segmentation, words = WRONG_REGIONS[case]
    annotations = [*ANNOTATIONS[2:], annotation(11, 3, segmentation)]
    write(tmp_path / "annotations/train.json", tmp_path / "images", annotations=annotations)
    check_only_image_11_fails(tmp_path, words)


@pytest.mark.parametrize("counts", ["4220<", r"4220\\P"])
def test_run_lengths_may_be_the_text_of_bytes(tmp_path: Path, counts: str):
    """str() of pycocotools' bytes has quotation marks, and each backslash twice."""
    shapes = []
    for text in (counts, str(counts.encode())):
        runs = annotation(11, 3, {"size": [4, 6], "counts": text})
        write(tmp_path / "a.json", None, annotations=[runs])
        mask = dict(read_coco(tmp_path / "a.json").images)["000000000011.png"]
        shapes.append(mask.regions)
    assert shapes[0] == shapes[1] and shapes[0][0][1] == counts.encode()


WRONG_ENTRIES = {
    "an unknown category": ({"annotations": [annotation(11, 4, RUNS)]}, "category 4, which"),
    "no category": ({"annotations": [annotation(11, None, RUNS)]}, "category None, which"),
    "a category of text": ({"annotations": [annotation(11, "cat", RUNS)]}, "category 'cat'"),
    "half a height": ({"images": [IMAGE | {"height": 4.5}]}, "height and width, got 4.5 and 6"),
    "no width": ({"images": [IMAGE | {"width": None}]}, "height and width, got 4 and None"),
    "a size of text": ({"images": [IMAGE | {"width": "wide"}]}, "height and width"),
    "below 0": ({"images": [IMAGE | {"width": -6}]}, "height and width"),
    "too large": ({"images": [IMAGE | {"width": 2**40}]}, "says 1099511627776x4, and .* is 6x4"),
}


@pytest.mark.parametrize("case", WRONG_ENTRIES)
def test_a_wrong_entry_is_its_image_s_fault(tmp_path: Path, case: str):
    changed, words = WRONG_ENTRIES[case]
    content = write(tmp_path / "annotations/train.json", tmp_path / "images")
    first = changed.get("images", content["images"][:1])
    first = [entry | {"file_name": f"{11:012d}.png"} for entry in first]
    annotations = [*content["annotations"], *changed.get("annotations", [])]
    changed = {"images": [*first, *content["images"][1:]], "annotations": annotations}
    write(tmp_path / "annotations/train.json", None, **changed)
    check_only_image_11_fails(tmp_path, words)


def check_only_image_11_fails(root: Path, words: str) -> None:
    found = find_pairs(DataConfig(val_fraction=0.1), root)
    assert found.findings == []
    for pair in [pair for split in found.splits.values() for pair in split]:
        if pair.mask.image_id == 11:
            with pytest.raises(SegtrainError, match=f"train.json.*{words}"):
                pair.mask.values()
        else:
            assert pair.mask.values().shape == (4, 6)


def test_check_excludes_the_image_of_a_wrong_region(cli, tmp_path: Path):
    annotations = [*ANNOTATIONS, annotation(11, 3, [[0, 0, 100, 1, 2, 40]])]
    write(tmp_path / "set/annotations/train.json", tmp_path / "set/images", annotations=annotations)
    done = cli("check", "set", "--write-config", "fixed.yaml")
    assert done.code == 1 and "train.json (image 11): a polygon" in done.stdout
    assert "image 12" not in done.stdout
    done = cli("check", "--config", "fixed.yaml")
    assert "1 excluded" in done.stdout and "image 11" not in done.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"images"', "[" * 100_000, "\xff\xfe"])
def test_other_json_files_are_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SegtrainError, match="a.json: not a (COCO )?JSON"):
        find_pairs(DataConfig(), tmp_path / "a.json")


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
            mask = RegionMask(Path("a.json"), 1, size, 0, ((5, packed["counts"]),))
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


# the JSON as other tools write it: changes of it, and of the files beside it
def write_floats(root: Path, content: dict) -> None:
    """pandas turns whole numbers into floats where a column has gaps."""

    def float_of(value):
        if isinstance(value, dict):
            return {key: float_of(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [float_of(entry) for entry in value]
        return float(value) if isinstance(value, int) else value

    (root / "annotations/train.json").write_text(json.dumps(float_of(content)))


def write_texts(root: Path, content: dict) -> None:
    for entry in content["images"]:
        entry |= {"id": str(entry["id"]), "height": "4"}
    content["annotations"][0]["category_id"] = "3"
    (root / "annotations/train.json").write_text(json.dumps(content))


def write_names(root: Path, content: dict, form: str) -> None:
    for entry in content["images"]:
        entry["file_name"] = form.format(entry["file_name"])
    (root / "annotations/train.json").write_text(json.dumps(content))


def write_pairs_of_points(root: Path, content: dict) -> None:
    annotations = content["annotations"]
    annotations[0]["segmentation"] = rectangle(1, 1, 3, 3)
    whole = rectangle(0, 0, 5, 4)
    pairs = zip(whole[::2], whole[1::2], strict=True)
    annotations[1]["segmentation"] = [list(pair) for pair in pairs]
    (root / "annotations/train.json").write_text(json.dumps(content))


def write_without_sizes(root: Path, content: dict) -> None:
    for entry, value in zip(content["images"], (None, 0, None, 0), strict=True):
        entry |= {"height": value, "width": value}
    del content["images"][2]["height"], content["images"][2]["width"]
    (root / "annotations/train.json").write_text(json.dumps(content))


def move_json(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "annotations/train.json").rename(root / name)
    (root / "annotations").rmdir()


def add_others(root: Path) -> None:
    """Add the files of a Mac's zip and of other tasks."""
    (root / "annotations/._train.json").write_bytes(b"\0\5\x16\7")
    (root / "annotations/labelme_train.json").write_text('{"version": "5", "shapes": [], "x": 1}')


LOOSE = {
    "floats": write_floats,
    "texts": write_texts,
    "backslashes": lambda root, content: write_names(root, content, "images\\{}"),
    "a Windows path": lambda root, content: write_names(root, content, "C:\\me\\images\\{}"),
    "foreign folders": lambda root, content: write_names(root, content, "/gone/pictures/{}"),
    "addresses": lambda root, content: write_names(root, content, "http://x.org/train2017/{}"),
    "points": write_pairs_of_points,
    "no sizes": write_without_sizes,
    "hidden files": lambda root, content: add_others(root),
    "in the root": lambda root, content: move_json(root, "result.json"),
    "beside the images": lambda root, content: move_json(root, "images/instances.json"),
    "below labels": lambda root, content: move_json(root, "labels/coco.json"),
    "in a folder of its own": lambda root, content: move_json(root, "export/coco.json"),
    "with a mark": lambda root, content: (root / "annotations/train.json").write_text(
        json.dumps(content), encoding="utf-8-sig"
    ),
    "elsewhere": lambda root, content: (root / "images").rename(root / "pictures of today"),
}


@pytest.mark.parametrize("case", LOOSE)
def test_other_tools_variants_read_alike(tmp_path: Path, case: str):
    content = write(tmp_path / "annotations/train.json", tmp_path / "images")
    LOOSE[case](tmp_path, content)
    found = find_pairs(DataConfig(val_fraction=0.1), tmp_path)
    assert (found.format, found.findings, found.classes) == ("coco", [], NAMES)
    assert read(found, "train") | read(found, "val") == DRAWN


def split_jsons_in(root: Path, train: str, val: str, **changed) -> FoundPairs:
    write(root / train, root / "images")
    content = write(root / val, None)
    entries = [entry | {"file_name": f"v{entry['id']}.png"} for entry in content["images"]]
    for entry in entries:
        Image.new("RGB", (6, 4)).save(root / "images" / entry["file_name"])
    write(root / val, None, **{"images": entries, **changed})
    return find_pairs(DataConfig(), root)


@pytest.mark.parametrize(
    "train, val",
    [("train.json", "val.json"), ("train/labels.json", "validation/labels.json"),
     ("Train/annotations/a.json", "Valid/annotations/a.json"), ("x_train.json", "x_valid.json")],
)  # fmt: skip
def test_splits_by_names_of_files_and_folders(tmp_path: Path, train: str, val: str):
    found = split_jsons_in(tmp_path, train, val)
    assert (len(found.splits["train"]), len(found.splits["val"])) == (4, 4)
    assert read(found, "val") == DRAWN


@pytest.mark.parametrize("annotations", [None, [], [annotation(11, 3, [[0, 0, 1, 1]])],
                                         [annotation(99, 3, RUNS)]])  # fmt: skip
def test_a_split_without_regions_is_left_out_with_a_note(tmp_path: Path, annotations):
    changed = {} if annotations is None else {"annotations": annotations}
    split_jsons_in(tmp_path, "annotations/train.json", "annotations/test.json", **changed)
    file = tmp_path / "annotations/test.json"
    if annotations is None:
        content = json.loads(file.read_text())
        del content["annotations"]
        file.write_text(json.dumps(content))
    found = find_pairs(DataConfig(), tmp_path)
    assert list(found.splits) == ["train", "val"]
    assert not any(finding.error for finding in found.findings)
    (note,) = [finding for finding in found.findings if finding.kind == "unlabelled"]
    assert "test.json" in note.text and "test is left out" in note.text


def test_annotations_of_unknown_images_are_counted(tmp_path: Path):
    annotations = [*ANNOTATIONS, annotation(99, 3, RUNS), annotation(None, 3, RUNS)]
    write(tmp_path / "annotations/train.json", tmp_path / "images", annotations=annotations)
    found = find_pairs(DataConfig(), tmp_path)
    assert [(f.kind, f.error) for f in found.findings] == [("stray", False)]
    assert "2 annotation" in found.findings[0].text
    assert read(found, "train") | read(found, "val") == DRAWN


ROBOFLOW = [
    {"id": 0, "name": "street", "supercategory": "none"},
    {"id": 3, "name": "cat", "supercategory": "street"},
    {"id": 7, "name": "dog", "supercategory": "street"},
]


def test_the_group_of_all_categories_is_no_class(tmp_path: Path):
    write(tmp_path / "train/_annotations.coco.json", tmp_path / "train", categories=ROBOFLOW,
          annotations=ANNOTATIONS[:2])  # fmt: skip
    found = find_pairs(DataConfig(), tmp_path)
    assert found.classes == ["background", "cat", "dog"]
    assert [(f.kind, "'street'" in f.text) for f in found.findings] == [("group", True)]
    assert (read(found, "train") | read(found, "val"))[11] == DRAWN[11]
    # a group with a region of its own is a class, and so is an unused category beside the others
    for changed in (
        {"annotations": [*ANNOTATIONS[:2], annotation(13, 0, COMPRESSED)]},
        {"categories": [*ROBOFLOW, {"id": 8, "name": "x", "supercategory": "none"}]},
    ):
        changed = {"categories": ROBOFLOW, "annotations": ANNOTATIONS[:2], **changed}
        write(tmp_path / "train/_annotations.coco.json", tmp_path / "train", **changed)
        found = find_pairs(DataConfig(), tmp_path)
        assert found.classes[:2] == ["background", "street"] and not found.findings


def test_an_unused_background_is_no_class_beside_the_other(tmp_path: Path):
    categories = [{"id": 0, "name": "_background_"}, {"id": 3, "name": "cat"}]
    write(tmp_path / "a.json", tmp_path, categories=categories, annotations=ANNOTATIONS[:1])
    found = find_pairs(DataConfig(val_fraction=0.1), tmp_path / "a.json")
    assert found.classes == ["background", "cat"]
    ids = read(found, "train") | read(found, "val")
    assert ids[11] == (np.array(DRAWN[11]) == 1).astype(int).tolist()


def test_categories_that_one_split_lacks(tmp_path: Path):
    few = {"categories": [CATEGORIES[1]], "annotations": ANNOTATIONS[:1]}
    found = split_jsons_in(tmp_path, "annotations/train.json", "annotations/val.json", **few)
    assert found.classes == NAMES
    assert read(found, "val")[11] == (np.array(DRAWN[11]) == 1).astype(int).tolist()
    for wrong in ({"id": 90, "name": "cat"}, {"id": 5, "name": "cat"}):
        annotations = [annotation(11, wrong["id"], RUNS)]
        with pytest.raises(SegtrainError, match="different categories"):
            split_jsons_in(tmp_path, "annotations/train.json", "annotations/val.json",
                           categories=[wrong], annotations=annotations)  # fmt: skip


@pytest.mark.parametrize(
    "ids", [["d1", "c", "d2"], [-1, 0, 1], [10**9, 5, 10**9 + 1], ["7", "c", 9]]
)
def test_ids_that_no_mask_can_have_are_numbered(tmp_path: Path, ids: list):
    categories = [c | {"id": key} for c, key in zip(CATEGORIES, ids, strict=True)]
    new = dict(zip((7, 3, 90), ids, strict=True))
    annotations = [a | {"category_id": new[a["category_id"]]} for a in ANNOTATIONS]
    write(tmp_path / "a.json", tmp_path, categories=categories, annotations=annotations)
    found = find_pairs(DataConfig(val_fraction=0.1), tmp_path / "a.json")
    assert found.classes == ["background", "dog (1)", "cat", "dog (3)"]
    assert [(f.kind, f.error) for f in found.findings] == [("renumbered", False)]
    swapped = np.array([0, 2, 1, 3])  # dog is before cat in the file
    drawn = {key: swapped[np.array(rows)].tolist() for key, rows in DRAWN.items()}
    assert read(found, "train") | read(found, "val") == drawn


OTHER_JSONS = {
    "captions": ({"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "captions"),
    "detections": ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], "detections"),
    "labelme": ({"imagePath": "a.png"}, "labelme"),
    "VIA's project": ({"_via_img_metadata": {}}, "VIA"),
    "VIA": ({"a.png1": {"filename": "a.png", "regions": []}}, "VIA"),
    "Label Studio": ([{"id": 1, "data": {"image": "a.png"}}], "Label Studio"),
    "numbers": ([1, 2], "no images"),
}


@pytest.mark.parametrize("case", OTHER_JSONS)
def test_other_json_files_are_named(tmp_path: Path, case: str):
    content, words = OTHER_JSONS[case]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SegtrainError, match=f"a.json: .*{words}"):
        find_pairs(DataConfig(), tmp_path / "a.json")


def test_a_json_alone_whose_images_are_beside_its_folder(tmp_path: Path):
    file = tmp_path / "annotations/instances_train2017.json"
    write(file, tmp_path / "train2017")
    with pytest.raises(SegtrainError, match=f"images are in .*train2017, .*give {tmp_path} as"):
        find_pairs(DataConfig(), file)


def test_jsons_of_which_none_is_for_training_are_named(tmp_path: Path):
    for name in ("first.json", "second.json"):
        write(tmp_path / name, tmp_path / "images")
    with pytest.raises(SegtrainError, match="first.json, second.json; .*data.splits: {train"):
        find_pairs(DataConfig(), tmp_path)


def write_panoptic(root: Path, ids: list[list[int]], void: int = 0) -> None:
    """Panoptic PNG files beside their JSON; segment 70000 is of category 3, 5 and 300 are of 7."""
    segments = [{"id": 70_000, "category_id": 3}, {"id": 5, "category_id": 7.0},
                {"id": 300, "category_id": 7, "iscrowd": 1}]  # fmt: skip
    pixels = np.array(ids)
    colours = np.stack([pixels % 256, pixels // 256 % 256, pixels // 65536], 2).astype(np.uint8)
    annotations = []
    for n in (11, 12):
        name = f"{n:012d}.png"
        (root / "annotations/panoptic_train2017").mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(root / "annotations/panoptic_train2017" / name)
        annotations.append({"image_id": n, "file_name": name, "segments_info": segments})
    categories = [{"id": 7, "name": "sky", "isthing": 0}, {"id": 3, "name": "cat", "isthing": 1}]
    images = [
        {"id": n, "file_name": f"{n:012d}.png", "height": 4, "width": 6} for n in range(11, 13)
    ]
    write(root / "annotations/panoptic_train2017.json", root / "train2017", annotations=annotations,
          images=images, categories=[*categories, *([{"id": 0, "name": "x"}] * void)])  # fmt: skip


@pytest.mark.parametrize("void", [0, 1])
def test_panoptic_masks_are_read(tmp_path: Path, void: int):
    ids = [[70_000, 5, 0, 0, 300, 300], [70_000, 5, 0, 0, 300, 300]] * 2
    write_panoptic(tmp_path, ids, void)
    for n in (13, 14):
        (tmp_path / f"train2017/{n:012d}.png").unlink()
    found = find_pairs(DataConfig(), tmp_path)
    assert found.findings == [] and "panoptic" in found.layout
    assert found.classes == ["x"] * void + ["cat", "sky"]
    row = [void, 1 + void, 255, 255, 1 + void, 1 + void]
    pairs = [pair for split in found.splits.values() for pair in split]
    reader = MaskReader(2 + void, found.label_map, 255)
    assert [reader(pair.mask).tolist() for pair in pairs] == [[row] * 4] * 2
    assert [len(pair.mask_files) for pair in pairs] == [2, 2]


@pytest.mark.parametrize("file, masks, images", [
    ("panoptic.json", "panoptic", "images"),
    ("train/panoptic.json", "train/panoptic", "train/images"),
])  # fmt: skip
def test_a_panoptic_json_is_found_beside_folders_of_pairs(tmp_path: Path, file, masks, images):
    write_panoptic(tmp_path, [[70_000, 5, 0, 0, 300, 300]] * 4)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / "annotations/panoptic_train2017.json").rename(tmp_path / file)
    (tmp_path / "annotations/panoptic_train2017").rename(tmp_path / masks)
    (tmp_path / "train2017").rename(tmp_path / images)
    for n in (13, 14):
        (tmp_path / images / f"{n:012d}.png").unlink()
    found = find_pairs(DataConfig(), tmp_path)
    assert found.format == "coco" and found.findings == [] and found.classes == ["cat", "sky"]
    masks = [pair.mask for split in found.splits.values() for pair in split]
    assert [np.unique(mask.values()).tolist() for mask in masks] == [[0, 3, 7]] * 2


def test_a_name_of_two_categories_is_named(tmp_path: Path):
    write(tmp_path / "annotations/train.json", tmp_path / "images")
    assert find_pairs(DataConfig(), tmp_path).layout.count("each id of 'dog'") == 1


def test_any_number_of_categories_is_named_in_time():
    categories = {value: f"name {value // 2}" for value in range(1, 60_000)}
    began = time.process_time()
    classes, label_map = number_categories(categories, 0)
    assert time.process_time() - began < 2  # it took minutes, by the square of the number
    assert classes[:4] == ["background", "name 0", "name 1 (2)", "name 1 (3)"]
    assert len(set(classes)) == len(label_map) == 60_000


def test_a_panoptic_json_without_its_masks_leaves_those_that_are_there(tmp_path: Path):
    write_panoptic(tmp_path, [[70_000, 5, 0, 0, 300, 300]] * 4)
    (tmp_path / "annotations/panoptic_train2017.json").rename(tmp_path / "panoptic.json")
    shutil.rmtree(tmp_path / "annotations")
    (tmp_path / "train2017").rename(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for image in (tmp_path / "images").iterdir():
        Image.new("L", (6, 4)).save(tmp_path / "masks" / f"{image.stem}.png")
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, found.findings) == ("pairs", [])


def test_a_wrong_panoptic_mask_is_its_image_s_fault(tmp_path: Path):
    write_panoptic(tmp_path, [[70_000, 5, 0, 9, 301, 300]] * 4)
    (tmp_path / f"annotations/panoptic_train2017/{12:012d}.png").unlink()
    found = find_pairs(DataConfig(), tmp_path)
    assert [(f.kind, f.places) for f in found.findings] == [
        ("unpaired", [f"train2017/{12:012d}.png"])
    ]
    with pytest.raises(SegtrainError, match="segment 9, 301 has no entry in segments_info"):
        found.splits["train"][0].mask.values()
