"""The layouts of published data sets and list files, read to pixels worked out by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import shared_data
from PIL import Image

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.data.layouts.published import TABLES, load_table, published_split
from segtrain.data.masks import MaskReader, class_palette
from segtrain.errors import SegtrainError, UsageError

VOID = 255


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (9, 9, 9)).save(path)


def grey(path: Path, *rows: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def read(found: FoundPairs, split: str = "train", place: int = 0) -> list[list[int]]:
    """Return the class ids of a pair's mask, as training reads them."""
    reader = MaskReader(len(found.classes), found.label_map, VOID, found.palette)
    return reader(found.splits[split][place].mask).tolist()


def stems(found: FoundPairs) -> dict[str, list[str]]:
    return {split: [pair.name for pair in pairs] for split, pairs in found.splits.items()}


# ---- Pascal VOC


def voc(root: Path) -> Path:
    for stem in ("2007_000032", "2007_000033", "2007_000039", "2008_000001", "2008_000007"):
        image(root / f"JPEGImages/{stem}.jpg")
    for stem in ("2007_000032", "2007_000033", "2007_000039"):
        mask = Image.fromarray(np.array([[0, 15, 255], [1, 20, 255]], np.uint8), "P")
        mask.putpalette([0, 0, 0, 128, 0, 0] + [7] * 762)  # colours play no part
        (root / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        mask.save(root / f"SegmentationClass/{stem}.png")
    sets = root / "ImageSets/Segmentation"
    text(sets / "train.txt", "2007_000039", "2007_000032")
    text(sets / "val.txt", "2007_000033")
    text(sets / "trainval.txt", "2007_000032", "2007_000033", "2007_000039")
    text(sets / "test.txt", "2008_000001")
    return root


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path: Path, inside: str):
    voc(tmp_path / inside)
    found = find_pairs(DataConfig(), tmp_path)
    assert found.format == "voc" and found.findings == []
    assert stems(found) == {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    assert found.splits["val"][0].image == tmp_path / inside / "JPEGImages/2007_000033.jpg"
    assert "test left out: no masks" in found.layout and "255 is ignored" in found.layout
    assert len(found.classes) == 21 and found.label_map == {255: "ignore"}
    assert [found.classes[i] for i in (0, 1, 15, 20)] == [
        "background", "aeroplane", "person", "tvmonitor"
    ]  # fmt: skip
    assert read(found) == [[0, 15, VOID], [1, 20, VOID]]


def test_voc_names_what_is_missing(tmp_path: Path):
    voc(tmp_path)
    (tmp_path / "SegmentationClass/2007_000032.png").unlink()
    text(tmp_path / "ImageSets/Segmentation/val.txt", "2007_000033", "2009_000001")
    found = find_pairs(DataConfig(format="voc"), tmp_path)
    assert stems(found) == {"train": ["2007_000039"], "val": ["2007_000033"]}
    assert [(f.kind, f.places) for f in found.findings] == [
        ("unpaired", ["JPEGImages/2007_000032.jpg"]),
        ("missing", ["2009_000001"]),
    ]


# ---- Cityscapes


def cityscapes(root: Path, train_ids: list[str]) -> Path:
    cities = {"train": ["aachen", "zurich"], "val": ["munster"], "test": ["berlin"]}
    for split, names in cities.items():
        for city in names:
            stem = f"{city}_000000_000019"
            image(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
            fine = root / f"gtFine/{split}/{city}/{stem}_gtFine"
            if split != "test":
                grey(Path(f"{fine}_labelIds.png"), [7, 8, 26], [0, 33, 9])
                grey(Path(f"{fine}_instanceIds.png"), [1, 1, 1], [1, 1, 1])
                grey(Path(f"{fine}_color.png"), [2, 2, 2], [2, 2, 2])
                text(Path(f"{fine}_polygons.json"), "{}")
            if city in train_ids:
                grey(Path(f"{fine}_labelTrainIds.png"), [0, 1, 13], [255, 18, 255])
    return root


@pytest.mark.parametrize("train_ids", [[], ["aachen"], ["aachen", "zurich", "munster"]])
def test_cityscapes(tmp_path: Path, train_ids: list[str]):
    found = find_pairs(DataConfig(), cityscapes(tmp_path, train_ids))
    assert found.format == "cityscapes" and found.findings == []
    ids = "labelTrainIds" if len(train_ids) == 3 else "labelIds"
    assert found.splits["train"][0].mask.name == f"aachen_000000_000019_gtFine_{ids}.png"
    assert [len(found.splits[split]) for split in found.splits] == [2, 1]
    assert (
        f"gtFine/train, leftImg8bit/val + gtFine/val, {ids}" in found.layout
        and "test left out" in found.layout
    )
    assert ("published table" in found.layout) == (ids == "labelIds")
    assert len(found.classes) == 19
    assert found.classes[::6] == ["road", "traffic light", "rider", "bicycle"]
    # 7 road 0, 8 sidewalk 1, 26 car 13, 33 bicycle 18; unlabeled and parking count nowhere
    assert read(found) == [[0, 1, 13], [VOID, 18, VOID]]
    painted = class_palette(19, found.palette, found.label_map)
    assert [painted[i] for i in (0, 13, 18)] == [(128, 64, 128), (0, 0, 142), (119, 11, 32)]


# ---- ADE20K


def ade20k(root: Path, prefix: str = "ADE_") -> Path:
    for split, kind in (("training", "train"), ("validation", "val")):
        for i in (1, 2):
            image(root / f"images/{split}/{prefix}{kind}_{i:08d}.jpg")
            grey(root / f"annotations/{split}/{prefix}{kind}_{i:08d}.png", [0, 1, 150], [13, 2, 0])
    return root


def test_ade20k(tmp_path: Path):
    found = find_pairs(DataConfig(), ade20k(tmp_path))
    assert found.format == "ade20k" and found.findings == []
    assert stems(found)["val"] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert "0 is ignored, classes 1..150 become 0..149" in found.layout
    assert [found.classes[i] for i in (0, 1, 12, 149)] == ["wall", "building", "person", "flag"]
    assert read(found) == [[VOID, 0, 149], [12, 1, VOID]]
    assert class_palette(150, found.palette, found.label_map)[12] == (150, 5, 61)


def test_ade20k_takes_the_names_that_lie_there(tmp_path: Path):
    ade20k(tmp_path, prefix="")
    rows = [f"{i}\t0.1\t10\t1\tthing {i}, object {i}" for i in range(1, 151)]
    text(tmp_path / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", *rows)
    found = find_pairs(DataConfig(), tmp_path)
    assert found.format == "ade20k" and found.classes[::149] == ["thing 1", "thing 150"]
    text(tmp_path / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", *rows[:149])
    assert find_pairs(DataConfig(), tmp_path).classes[0] == "wall"


def test_folders_like_ade20k_are_not_taken_for_it(tmp_path: Path):
    ade20k(tmp_path, prefix="")
    assert find_pairs(DataConfig(), tmp_path).format == "pairs"
    assert find_pairs(DataConfig(format="ade20k"), tmp_path).classes[0] == "wall"


# ---- CamVid


def camvid(root: Path) -> Path:
    frames = {"train": ["0001TP_006690", "0006R0_f00930"], "val": ["0016E5_07959"],
              "test": ["Seq05VD_f00000", "0001TP_008550"]}  # fmt: skip
    for split, names in frames.items():
        for name in names:
            image(root / split / f"{name}.png")
            grey(root / f"{split}annot" / f"{name}.png", [0, 10, 11], [3, 8, 11])
        text(root / f"{split}.txt", *(
            f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in names
        ))  # fmt: skip
    return root


def test_camvid(tmp_path: Path):
    found = find_pairs(DataConfig(), camvid(tmp_path))
    assert found.format == "camvid" and found.findings == []
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {
        "train": 2, "val": 1, "test": 2
    }  # fmt: skip
    assert found.label_map == {11: "ignore"} and "11 (void) is ignored" in found.layout
    assert read(found) == [[0, 10, VOID], [3, 8, VOID]]
    config = yaml.safe_load(Path("configs/camvid.yaml").read_text())["data"]
    assert found.classes == config["classes"]
    painted = class_palette(11, found.palette, found.label_map)
    assert painted == [tuple(colour) for colour in config["palette"]]


def test_other_frames_are_not_camvid(tmp_path: Path):
    camvid(tmp_path)
    for path in [*tmp_path.glob("*/*.png")]:
        path.rename(path.with_name(f"holiday_{path.name}"))
    assert find_pairs(DataConfig(), tmp_path).format == "pairs"
    assert find_pairs(DataConfig(format="camvid"), tmp_path).label_map == {11: "ignore"}


def test_camvid_as_given():
    found = find_pairs(DataConfig(), shared_data("camvid"))
    assert (found.format, found.findings) == ("camvid", [])
    assert [len(found.splits[split]) for split in ("train", "val")] == [367, 101]
    for split, pairs in found.splits.items():
        assert {published_split(pair.name) for pair in pairs} == {split}


RGB = {"Road": (128, 64, 128), "LaneMkgsDriv": (128, 0, 192), "Car": (64, 0, 128),
       "Truck_Bus": (192, 128, 192), "Void": (0, 0, 0), "Child": (192, 128, 64)}  # fmt: skip


def camvid_rgb(root: Path, folders: dict[tuple[str, str], list[str]]) -> Path:
    for (images, masks), frames in folders.items():
        for frame in frames:
            image(root / images / f"{frame}.png")
            (root / masks).mkdir(parents=True, exist_ok=True)
            colours = np.array(list(RGB.values()), np.uint8).reshape(2, 3, 3)
            Image.fromarray(colours).save(root / masks / f"{frame}_L.png")
    return root


def test_camvid_in_colours_is_split_as_published(tmp_path: Path):
    frames = {
        "train": ["0001TP_006690", "0001TP_008520", "0006R0_f03930", "0016E5_07920",
                  "0016E5_08190"],
        "val": ["0016E5_07959", "0016E5_08159"],
        "test": ["0001TP_008550", "0001TP_010380", "Seq05VD_f00000", "Seq05VD_f05100"],
    }  # fmt: skip
    folders = ("701_StillsRaw_full", "LabeledApproved_full")
    camvid_rgb(tmp_path, {folders: sum(frames.values(), [])})
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, found.findings, stems(found)) == ("camvid-rgb", [], frames)
    assert "published split" in found.layout and "32 colours to 11 classes" in found.layout
    # road and its markings 3, cars and trucks 8, void, and a child, which is a pedestrian: 9
    assert read(found) == [[3, 3, 8], [8, VOID, 9]]
    assert found.classes == load_table("camvid")[0]
    assert class_palette(11, found.palette, found.label_map) == load_table("camvid")[1][:11]


def test_camvid_in_colours_with_folders_of_splits(tmp_path: Path):
    frames = {"train": ["0016E5_07959"], "val": ["0001TP_006690"], "test": ["0006R0_f00930"]}
    camvid_rgb(tmp_path, {(s, f"{s}_labels"): names for s, names in frames.items()})
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, stems(found)) == ("camvid-rgb", frames)  # the folders' splits count
    assert read(found, "test") == [[3, 3, 8], [8, VOID, 9]]


def test_camvid_in_colours_with_other_frames_holds_some_out(tmp_path: Path):
    camvid_rgb(tmp_path, {("701_StillsRaw_full", "LabeledApproved_full"): list("abcde")})
    found = find_pairs(DataConfig(format="camvid-rgb"), tmp_path)
    assert [len(found.splits[split]) for split in ("train", "val")] == [4, 1]
    assert "held out" in found.layout and "published split" not in found.layout


# ---- the tables


def test_the_colours_of_voc_are_those_of_its_formula():
    def colour(value: int) -> tuple[int, ...]:
        """Bits 0, 3, 6 of the value are the highest of red, bits 1, 4, 7 of green, 2, 5 of blue."""
        bits = f"{value:09b}"[::-1]
        return tuple(int(bits[c] + bits[c + 3] + bits[c + 6] + "00000", 2) for c in range(3))

    assert load_table("voc")[1] == [colour(value) for value in range(21)]


def test_the_tables_are_whole():
    for name, values, classes, ignored in (
        ("voc", 22, 21, 1),
        ("cityscapes", 34, 19, 15),
        ("ade20k", 151, 150, 1),
        ("camvid", 12, 11, 1),
        ("camvid_rgb", 32, 11, 1),
    ):
        with open(TABLES / f"{name}.csv") as file:
            rows = list(csv.DictReader(file))
        names, palette, label_map = load_table(name)
        assert (len(rows), len(names), list(label_map.values()).count("ignore")) == (
            values, classes, ignored
        )  # fmt: skip
        assert len(palette) in (values, values - 1)
    colours = load_table("camvid_rgb")[1]
    assert len(set(colours)) == 32  # each means one thing


# ---- list files


def listed(root: Path, names: str = "abc") -> Path:
    for name in names:
        image(root / f"rgb/{name}.jpg")
        grey(root / f"ids/{name}.png", [0, 1, 2], [ord(name), 0, 0])
    return root


@pytest.mark.parametrize(
    "file, lines",
    [
        ("train.txt", "rgb/{0}.jpg ids/{0}.png"),
        ("train.txt", "rgb/{0}.jpg\tids/{0}.png"),
        ("train.txt", "rgb/{0}.jpg, ids/{0}.png"),
        ("training.csv", "rgb/{0}.jpg,ids/{0}.png,0.5"),
        ("train.tsv", "rgb/{0}.jpg\tids/{0}.png\tsunny day"),
        ("train.txt", "/SegNet/CamVid/rgb/{0}.jpg /SegNet/CamVid/ids/{0}.png"),
        ("train.txt", "C:\\data\\rgb\\{0}.jpg,C:\\data\\ids\\{0}.png"),
        ("train.txt", "{root}/rgb/{0}.jpg {root}/ids/{0}.png"),
    ],
)
def test_lists(tmp_path: Path, file: str, lines: str):
    root = listed(tmp_path)
    text(root / file, "# the pairs", *(lines.format(x, root=root) for x in "cab"), "")
    found = find_pairs(DataConfig(val_fraction=0.1), root)
    assert found.format == "lists" and found.findings == []
    pairs = sorted(found.splits["train"] + found.splits["val"], key=lambda pair: pair.name)
    assert [pair.image for pair in pairs] == [root / f"rgb/{x}.jpg" for x in "abc"]
    assert [pair.mask for pair in pairs] == [root / f"ids/{x}.png" for x in "abc"]
    reader = MaskReader(3, {ord(x): 2 for x in "abc"})
    assert reader(pairs[0].mask).tolist() == [[0, 1, 2], [2, 0, 0]]


@pytest.mark.parametrize("header", ["image,mask", ",label_path,image_path", "id,Mask,Image"])
def test_a_header_names_the_columns(tmp_path: Path, header: str):
    root = listed(tmp_path)
    row = "rgb/{0}.jpg,ids/{0}.png" if header == "image,mask" else "7,ids/{0}.png,rgb/{0}.jpg"
    text(root / "train.csv", header, *(row.format(x) for x in "ab"))
    text(root / "val.csv", header, row.format("c"))
    found = find_pairs(DataConfig(), root)
    assert found.findings == [] and stems(found) == {"train": ["a", "b"], "val": ["c"]}
    assert found.splits["val"][0].mask == root / "ids/c.png"


def test_paths_with_spaces(tmp_path: Path):
    root = listed(tmp_path)
    image(root / "my photos/one two.jpg")
    grey(root / "my masks/one two.png", [0, 0, 0])
    lines = ["my photos/one two.jpg my masks/one two.png", "rgb/a.jpg ids/a.png"]
    text(root / "train.txt", *lines)
    text(root / "val.txt", "my photos/one two 3.jpg my masks/one two 3.png", "rgb/b.jpg\tids/b.png")
    found = find_pairs(DataConfig(), root)
    assert stems(found) == {"train": ["a", "one two"], "val": ["b"]}
    assert found.splits["train"][1].mask == root / "my masks/one two.png"
    assert [f.places for f in found.findings] == [
        ["my photos/one two 3.jpg", "my masks/one two 3.png"]
    ]


def test_a_path_with_spaces_that_could_end_earlier(tmp_path: Path):
    root = listed(tmp_path)
    image(root / "rgb/a.jpg copy.jpg")
    text(root / "train.txt", "rgb/a.jpg copy.jpg ids/a.png", "rgb/b.jpg ids/b.png")
    pairs = sum(find_pairs(DataConfig(), root).splits.values(), [])
    assert {pair.image.name for pair in pairs} == {"a.jpg copy.jpg", "b.jpg"}


def test_the_longest_end_of_a_foreign_path_counts(tmp_path: Path):
    root = listed(tmp_path)
    for name in "ab":
        image(root / f"{name}.jpg")
        image(root / f"old/rgb/{name}.jpg")
    text(root / "train.txt", "/set/rgb/a.jpg ids/a.png", "/set/old/rgb/b.jpg /set/ids/b.png")
    pairs = sum(find_pairs(DataConfig(), root).splits.values(), [])
    assert {pair.image for pair in pairs} == {root / "rgb/a.jpg", root / "old/rgb/b.jpg"}


def test_a_list_below_the_data_set_names_its_neighbours(tmp_path: Path):
    root = listed(tmp_path / "set")
    text(root / "lists/train.txt", "../rgb/a.jpg ../ids/a.png", "rgb/b.jpg ids/b.png")
    found = find_pairs(DataConfig(splits={"train": SplitConfig(list="lists/train.txt")}), root)
    both = found.splits["train"] + found.splits["val"]
    assert {pair.mask for pair in both} == {root / "ids/a.png", root / "ids/b.png"}
    assert found.findings == []


def test_missing_files_are_found(tmp_path: Path):
    root = listed(tmp_path)
    image(root / "d.jpg")
    lines = [f"rgb/{x}.jpg ids/{x}.png" for x in "ab"]
    lines += ["rgb/z.jpg ids/a.png", "rgb/c.jpg ids/z.png", "x/d.jpg y/d.jpg"]
    text(root / "train.txt", *lines)
    found = find_pairs(DataConfig(), root)
    assert sorted(stems(found)["train"] + stems(found)["val"]) == ["a", "b"]
    (finding,) = found.findings
    assert (finding.kind, finding.places) == ("missing", ["ids/z.png", "y/d.jpg", "rgb/z.jpg"])
    assert str(finding).startswith("train.txt names 3 missing file(s): ids/z.png")
    assert find_pairs(DataConfig(**finding.fix), root).findings == []


def test_files_outside_are_refused(tmp_path: Path):
    root = listed(tmp_path / "set")
    listed(tmp_path, "xy")
    (root / "linked.jpg").symlink_to(tmp_path / "rgb/y.jpg")
    text(root / "train.txt", "rgb/a.jpg ids/a.png", f"{tmp_path}/rgb/x.jpg ids/b.png",
         "rgb/c.jpg ../ids/x.png", "linked.jpg ids/c.png")  # fmt: skip
    found = find_pairs(DataConfig(), root)
    assert sorted(stems(found)["train"] + stems(found)["val"]) == ["a", "linked"]
    (finding,) = found.findings
    outside = [f"{tmp_path}/ids/x.png", f"{tmp_path}/rgb/x.jpg"]
    assert (finding.kind, finding.error, finding.places) == ("outside", True, outside)
    assert "data.allow_outside" in str(finding)
    allowed = find_pairs(DataConfig(allow_outside=True), root)
    assert allowed.findings == []
    names = sorted(stems(allowed)["train"] + stems(allowed)["val"])
    assert names == ["a", "c", "linked", "x"]


def test_a_data_set_behind_a_link_is_inside_by_both_of_its_names(tmp_path: Path):
    root = listed(tmp_path / "set")
    (tmp_path / "link").symlink_to(root)
    text(root / "train.txt", *(f"{root}/rgb/{x}.jpg {root}/ids/{x}.png" for x in "ab"))
    found = find_pairs(DataConfig(), tmp_path / "link")
    assert found.findings == []
    assert found.splits["train"][0].image.parent == tmp_path / "link" / "rgb"


def test_a_list_alone_is_the_training_data(tmp_path: Path):
    root = listed(tmp_path)
    text(root / "some.csv", *(f"rgb/{x}.jpg,ids/{x}.png" for x in "abc"))
    found = find_pairs(DataConfig(val_fraction=0.3), root / "some.csv")
    assert (found.format, len(found.splits["train"]), len(found.splits["val"])) == ("lists", 2, 1)
    with pytest.raises(UsageError, match="some.csv is a file"):
        find_pairs(DataConfig(splits={"train": SplitConfig(list="some.csv")}), root / "some.csv")
    with pytest.raises(UsageError, match="data.format voc"):
        find_pairs(DataConfig(format="voc"), root / "some.csv")


def test_lists_split_folders_that_have_no_splits(tmp_path: Path):
    for x in "abcd":
        image(tmp_path / f"images/{x}.png")
        grey(tmp_path / f"masks/{x}.png", [0, 1, 2])
    text(tmp_path / "train.txt", *(f"images/{x}.png masks/{x}.png" for x in "abd"))
    text(tmp_path / "val.txt", "images/c.png masks/c.png")
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, stems(found)) == ("lists", {"train": ["a", "b", "d"], "val": ["c"]})
    assert find_pairs(DataConfig(format="pairs"), tmp_path).format == "pairs"
    text(tmp_path / "train.txt", "a", "b")  # names alone: no list of pairs
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, stems(found)) == ("pairs", {"train": ["a", "b"], "val": ["c"]})
    assert "1 that no list names" in found.layout
    with pytest.raises(SegtrainError, match="train.txt: expected 'image mask'.*got 'a'"):
        find_pairs(DataConfig(format="lists"), tmp_path)


@pytest.mark.parametrize("folder", ["train", "valid"])
def test_a_split_without_masks_in_a_table_is_left_out(tmp_path: Path, folder: str):
    rows = ["id,split,image,mask"]
    for n in range(3):
        image(tmp_path / f"train/x{n}_sat.jpg")
        grey(tmp_path / f"train/x{n}_mask.png", [0, 1])
        rows.append(f"x{n},train,train/x{n}_sat.jpg,train/x{n}_mask.png")
        image(tmp_path / f"{folder}/y{n}_sat.jpg")
        rows.append(f"y{n},valid,{folder}/y{n}_sat.jpg,")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    found = find_pairs(DataConfig(), tmp_path)
    assert found.findings == [] and "val left out: no masks" in found.layout
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {"train": 2, "val": 1}


def test_folders_with_splits_come_before_lists(tmp_path: Path):
    for split in ("train", "val"):
        image(tmp_path / f"images/{split}/{split}.png")
        grey(tmp_path / f"masks/{split}/{split}.png", [0, 1, 2])
    text(tmp_path / "train.txt", "images/val/val.png masks/val/val.png")
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, stems(found)) == ("pairs", {"train": ["train"], "val": ["val"]})
