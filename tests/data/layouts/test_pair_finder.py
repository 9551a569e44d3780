"""Folders of other tools: what their names say pairs, or what the message says of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_detect import fill

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.inspection.survey import inspect_data_set
from segtrain.data.layouts.detect import find_pairs
from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.pairing import group_by_stem
from segtrain.errors import SegtrainError

TWO = {"train": range(4), "val": range(4, 6)}


def write(root: Path, *paths: str, value: int = 0) -> None:
    for path in paths:
        fill(root, os.path.dirname(path), os.path.basename(path))
        if value:
            pixels = np.array([[0, value], [value, 0]], np.uint8)
            Image.fromarray(pixels).save(root / path)


# image and mask: {s} is train or val, {n} a number
TREES = {
    "mmsegmentation": ("img_dir/{s}/{n}.jpg", "ann_dir/{s}/{n}.png"),
    "its Cityscapes": ("img_dir/{s}/a_{n}_leftImg8bit.png",
                       "ann_dir/{s}/a_{n}_gtFine_labelTrainIds.png"),
    "BDD100K": ("images/10k/{s}/{n}.jpg", "labels/sem_seg/masks/{s}/{n}.png"),
    "LIP": ("{s}_images/{n}.jpg", "{s}_segmentations/{n}.png"),
    "Kaggle": ("{s}_images/{n}.jpg", "{s}_masks/{n}.png"),
    "Massachusetts": ("tiff/{s}/{n}.tiff", "tiff/{s}_labels/{n}.tif"),
    "Roboflow": ("{s}/{n}_jpg.rf.1a{n}.jpg", "{s}/{n}_jpg.rf.1a{n}_mask.png"),
    "KITTI": ("{s}/image_2/{n}.png", "{s}/semantic/{n}.png"),
    "input and target": ("{s}/input/{n}.jpg", "{s}/target/{n}.png"),
    "cities": ("images/{s}/c1/{n}.jpg", "masks/{s}/c1/{n}.png"),
    "capitals": ("Images/{S}/{n}.JPG", "Masks/{S}/{n}.PNG"),
    "one word": ("{S}Images/{n}.jpg", "{S}Masks/{n}.png"),
    "split last": ("images-{s}/{n}.jpg", "labels-{s}/{n}.png"),
    "long names": ("dataset/{l}_data/photos/{n}.jpg", "dataset/{l}_data/ground_truth/{n}.png"),
    "masks below images": ("{s}/{n}.jpg", "{s}/masks/{n}.png"),
    "subfolders of images alone": ("images/{s}/a/{n}.jpg", "masks/{s}/{n}.png"),
    "masks in one folder": ("images/{s}/{n}.jpg", "masks/{n}.png"),
    "images in one folder": ("images/{n}.jpg", "masks/{s}/{n}.png"),
    "other words": ("{s}/rgb/{n}.jpg", "{s}/gt/{n}.png"),
    "patients": ("{s}/p{n}/images/{n}.png", "{s}/p{n}/masks/{n}.png"),
    "several data sets": ("ds{n}/{s}/img/{n}.png", "ds{n}/{s}/masks_machine/{n}.png"),
    "ends": ("{s}/images/{n}_sat.jpg", "{s}/masks/{n}_mask.png"),
}  # fmt: skip


@pytest.mark.parametrize("image, mask", TREES.values(), ids=TREES)
def test_trees_with_splits(tmp_path: Path, image: str, mask: str):
    long, expected = {"train": "training", "val": "validation"}, {}
    for split, numbers in TWO.items():
        fields = [{"s": split, "S": split.title(), "l": long[split], "n": n} for n in numbers]
        expected[split] = sorted((image.format(**f), mask.format(**f)) for f in fields)
        write(tmp_path, *(path for pair in expected[split] for path in pair))
    found = find_pairs(DataConfig(), tmp_path)
    assert found.findings == [] and found.format == "pairs"
    assert {
        split: sorted((str(p.image.relative_to(tmp_path)), str(p.mask.relative_to(tmp_path)))
                      for p in pairs)
        for split, pairs in found.splits.items()
    } == expected  # fmt: skip


UNSPLIT = {
    "one folder": ("{n}.jpg", "{n}.png"),
    "one folder, ends": ("{n}.png", "{n}_mask.png"),
    "one folder, both end": ("{n}_img.png", "{n}_seg.png"),
    "one too high": ("roads/images/{n}.jpg", "roads/masks/{n}.png"),
    "words in common": ("segmentation/images/{n}.jpg", "segmentation/masks/{n}.png"),
    "Supervisely": ("ds/img/{n}.png", "ds/masks_machine/{n}.png"),
    "VOC's folders": ("JPEGImages/{n}.jpg", "SegmentationClass/{n}.png"),
    "pets": ("images/{n}.jpg", "annotations/trimaps/{n}.png"),
    "nnU-Net": ("imagesTr/x_{n:03}_0000.png", "labelsTr/x_{n:03}.png"),
    "mask": ("images/x{n}.jpg", "masks/x{n}_mask.png"),
    "beginnings": ("images/image_{n}.jpg", "masks/mask_{n}.png"),
    "beginning and ending": ("images/top_M_{n}.tif", "labels/map_noGeo_{n}_1.tif"),
    "two extensions": ("images/{n}.jpg", "masks/{n}.jpg.png"),
    "case": ("images/IMG_{n}.jpg", "masks/img_{n}.png"),
    "neutral folders, file types": ("a/{n}.jpg", "b/{n}.png"),
    "one name in each folder": ("scene{n}/rgb.png", "scene{n}/mask.png"),
    "one name on each side": ("s{n}/images/img.png", "s{n}/masks/mask.png"),
    "ISIC": ("ISIC-2017_Training_Data/ISIC_{n:07}.jpg",
             "ISIC-2017_Training_Part1_GroundTruth/ISIC_{n:07}_segmentation.png"),
    "Potsdam": ("2_Ortho_RGB/top_potsdam_{n}_10_RGB.tif",
                "5_Labels_all/top_potsdam_{n}_10_label.tif"),
    "BUSI": ("benign/benign ({n}).png", "benign/benign ({n})_mask.png"),
    "the mask in the name": ("a/{n}.png", "b/{n}_mask.png"),
}  # fmt: skip


@pytest.mark.parametrize("count", [3, 12, 25])
@pytest.mark.parametrize("image, mask", UNSPLIT.values(), ids=UNSPLIT)
def test_trees_without_splits(tmp_path: Path, image: str, mask: str, count: int):
    pairs = [(image.format(n=n), mask.format(n=n)) for n in range(count)]
    write(tmp_path, *(path for pair in pairs for path in pair))
    found = find_pairs(DataConfig(), tmp_path)
    assert found.findings == []
    both = found.splits["train"] + found.splits["val"]
    assert sorted((p.image, p.mask) for p in both) == sorted(
        (tmp_path / i, tmp_path / m) for i, m in pairs
    )


def test_a_test_split_without_masks_is_left_out(tmp_path: Path):
    write(tmp_path, *(f"{s}/{n}.png" for n in range(3) for s in ("imagesTr", "labelsTr")),
          "imagesTs/7.png")  # fmt: skip
    found = find_pairs(DataConfig(), tmp_path)
    assert list(found.splits) == ["train", "val"] and "test left out: no masks" in found.layout


def test_a_val_split_without_masks_among_images_is_left_out(tmp_path: Path):
    write(tmp_path, *(f"train/{n}_{end}.png" for n in range(4) for end in ("sat", "mask")))
    write(tmp_path, *(f"valid/{n}_sat.png" for n in range(4)))
    found = find_pairs(DataConfig(), tmp_path)
    assert found.findings == [] and "val left out: no masks" in found.layout
    assert (len(found.splits["train"]), len(found.splits["val"])) == (3, 1)


def choices(root: Path) -> str:
    with pytest.raises(SegtrainError) as raised:
        find_pairs(DataConfig(), root)
    return str(raised.value)


def test_two_folders_of_masks_are_a_choice(tmp_path: Path):
    for n in range(3):
        write(tmp_path, f"images/{n}.png", f"labels/{n}.png", f"annotations/{n}.png")
    text = choices(tmp_path)
    for folder in ("labels", "annotations"):
        assert f"data.splits: {{train: {{images: images, masks: {folder}}}}}" in text


def test_the_field_of_view_is_not_taken_for_the_truth(tmp_path: Path):
    """DRIVE has both under names that agree with those of images."""
    for n in range(3):
        write(tmp_path, f"training/images/{n}_training.tif", f"training/mask/{n}_training_mask.gif",
              f"training/1st_manual/{n}_manual1.gif")  # fmt: skip
    text = choices(tmp_path)
    assert "masks: training/1st_manual, image_end: _training, mask_end: _manual1" in text
    assert "masks: training/mask, mask_end: _mask" in text


def test_images_and_depth_are_no_pairs(tmp_path: Path):
    write(tmp_path, *(path for n in range(3) for path in (f"images/{n}.jpg", f"depth/{n}.png")))
    assert "depth holds 3 .png" in choices(tmp_path)


def test_augmented_copies_are_a_choice(tmp_path: Path):
    folders = ("images", "images_aug", "masks", "masks_aug")
    write(tmp_path, *(f"{folder}/{n}.png" for n in range(3) for folder in folders))
    text = choices(tmp_path)
    assert "{images: images_aug, masks: masks_aug}" in text and text.count("train:") == 2


def test_parts_of_masks_are_no_classes(tmp_path: Path):
    for n in range(6):
        write(tmp_path, f"images/{n}.png", f"masks/part{n % 2}/{n}.png", value=255)
    assert "part0, part1" in (text := choices(tmp_path))
    assert "{images: images, masks: masks}" in text
    splits = {"train": SplitConfig(images="images", masks="masks")}
    assert len(find_pairs(DataConfig(splits=splits), tmp_path).splits["train"]) == 5


def test_masks_of_one_object_each_are_refused(tmp_path: Path):
    for n in range(4):
        write(tmp_path, f"{n}/images/{n}.png", f"{n}/masks/a{n}.png", f"{n}/masks/b{n}.png")
    assert "several masks an image?" in choices(tmp_path)


@pytest.mark.parametrize("above", ["", "train/"])
def test_masks_of_objects_of_any_name_are_refused(tmp_path: Path, above: str):
    for n, name in enumerate(("3fa", "b7c", "e91")):
        masks = (f"{above}{name}/masks/{n}{other}f.png" for other in ("c", "d", "e")[: n + 1])
        write(tmp_path, f"{above}{name}/images/{name}.png", *masks)
    assert "3 masks of one image" in choices(tmp_path)


def test_one_image_and_one_mask_of_any_name_in_each_folder_are_a_pair(tmp_path: Path):
    for image, mask in (("3fa", "k"), ("b7c", "mm"), ("e91", "zq")):
        write(tmp_path, f"train/{image}/images/{image}.png", f"train/{image}/masks/{mask}.png")
    splits = find_pairs(DataConfig(), tmp_path).splits
    pairs = {(p.image.stem, p.mask.stem) for pairs in splits.values() for p in pairs}
    assert pairs == {("3fa", "k"), ("b7c", "mm"), ("e91", "zq")}


@pytest.mark.parametrize("names", ["image.jpg mask.png", "image.png mask.png depth.png"])
def test_the_same_two_names_in_each_folder(tmp_path: Path, names: str):
    for n in range(4):
        write(tmp_path, *(f"x{n}/{name}" for name in names.split()))
    pairs = sum(find_pairs(DataConfig(), tmp_path).splits.values(), [])
    assert {(p.image.stem, p.mask.stem) for p in pairs} == {("image", "mask")} and len(pairs) == 4


@pytest.mark.parametrize("image, mask", [("{}.jpg", "{:05}_mask.png"), ("{:03}.jpg", "{}.png")])
def test_names_may_differ_by_leading_zeros(tmp_path: Path, image: str, mask: str):
    for n in range(12):
        write(tmp_path, f"photos/{image.format(n)}", f"truth/{mask.format(n)}")
    pairs = sum(find_pairs(DataConfig(), tmp_path).splits.values(), [])
    numbers = [(int(p.image.stem), int(p.mask.stem.removesuffix("_mask"))) for p in pairs]
    assert len(numbers) == 12 and all(one == other for one, other in numbers)


@pytest.mark.parametrize("other", ["masks_color", "masks_human", "mask_overlay", "vis/masks"])
def test_masks_painted_for_the_eye_are_none(tmp_path: Path, other: str):
    for n in range(3):
        write(tmp_path, f"images/{n}.png", f"masks/{n}.png", f"{other}/{n}.png")
    assert find_pairs(DataConfig(), tmp_path).layout.startswith("images + masks ")


@pytest.mark.parametrize("other", ["depth", "points"])
def test_other_folders_beside_images_and_masks_change_nothing(tmp_path: Path, other: str):
    for n in range(3):
        write(tmp_path, f"images/{n}.png", f"masks/{n}.png", f"{other}/{n}.png")
    assert find_pairs(DataConfig(), tmp_path).layout.startswith("images + masks ")


def test_several_kinds_of_masks_by_ending(tmp_path: Path):
    for n in range(3):
        write(tmp_path, f"images/{n}.png", f"masks/{n}_labelIds.png", f"masks/{n}_color.png")
    found = find_pairs(DataConfig(), tmp_path)
    assert "masks/*_labelIds" in found.layout and "3 other file(s) in masks not" in found.layout
    for n in range(3):
        write(tmp_path, f"masks/{n}_labelTrainIds.png")
    assert "*_labelTrainIds" in find_pairs(DataConfig(), tmp_path).layout


def test_channels_of_an_image_are_named(tmp_path: Path):
    for n in range(3):
        channels = (f"imagesTr/x_{n}_000{channel}.png" for channel in range(4))
        write(tmp_path, *channels, f"labelsTr/x_{n}.png")
    text = choices(tmp_path)
    assert "4 files an image, one a channel (_0000" in text and "image_end: _0000" in text


def test_neutral_names_of_one_type_are_offered_both_ways(tmp_path: Path):
    for n in range(3):
        write(tmp_path, f"a/{n}.png", f"b/{n}.png")
    text = choices(tmp_path)
    assert "{images: a, masks: b}" in text and "{images: b, masks: a}" in text
    assert "a holds 3 .png" in text


@pytest.mark.parametrize(
    "file, words",
    [
        ("masks/{}.mat", "masks holds 3 .mat (MATLAB"),
        ("labels/{}.nii.gz", "labels holds 3 .nii.gz (volumes"),
        ("all/{}.zip", "all holds 3 .zip (archives; unpack"),
        ("annotations/{}.xml", "annotations holds 3 .xml"),
        ("images/{}.mp4", "3 .mp4 (videos"),
    ],
)
def test_files_that_are_no_masks_are_counted(tmp_path: Path, file: str, words: str):
    write(tmp_path, *(f"images/{n}.jpg" for n in range(3)))
    for n in range(3):
        path = tmp_path / file.format(n)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    text = choices(tmp_path)
    assert words in text and "3 .jpg" in text and "data.splits" in text


def test_labels_that_are_no_images_leave_the_annotations(tmp_path: Path):
    write(tmp_path, *(f"{s}/{n}.png" for n in range(3) for s in ("images", "annotations")))
    fill(tmp_path, "labels")
    for n in range(3):
        (tmp_path / f"labels/{n}.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert find_pairs(DataConfig(), tmp_path).layout.startswith("images + annotations ")


def test_texts_that_are_dangling_links_are_no_polygons(tmp_path: Path):
    write(tmp_path, "a/x.png")
    (tmp_path / "a/x.txt").symlink_to("gone")
    assert "a holds 1" in choices(tmp_path)


def test_the_lines_of_a_choice_read(tmp_path: Path):
    write(tmp_path, *(f"{folder}/{n}.png" for n in range(3) for folder in "ab"))
    splits = {"train": SplitConfig(images="a", masks="b")}
    assert len(find_pairs(DataConfig(splits=splits), tmp_path).splits["train"]) == 2


# ---- one mask a class


def write_classes(root: Path, mask: str, count: int = 4) -> None:
    """Write masks of car (255), tree (1) and road (7), of which road lacks in the first image."""
    for n in range(count):
        write(root, f"images/x{n}.jpg")
        for place, (name, value) in enumerate({"car": 255, "tree": 1, "road": 7}.items()):
            if n or name != "road":
                path = root / mask.format(name=name, n=n)
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.zeros((4, 4), np.uint8)
                pixels[place] = value
                Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    "mask",
    ["masks/x{n}_{name}.png", "masks/{name}/x{n}.png", "masks/x{n}_mask_{name}.png",
     "masks/{name}_mask/x{n}.png", "images/x{n}_{name}.png", "masks/{n}/x0{n}_{name}.png"],
)  # fmt: skip
def test_one_binary_mask_a_class_is_merged(tmp_path: Path, mask: str):
    write_classes(tmp_path, mask)
    found = find_pairs(DataConfig(), tmp_path)
    assert found.classes == ["background", "car", "road", "tree"] and found.findings == []
    pairs = sorted(sum(found.splits.values(), []), key=lambda pair: pair.name)
    rows = [[pair.mask.values(99)[:, 0].tolist()] for pair in pairs]
    assert rows == [[[1, 3, 0, 0]], *[[[1, 3, 2, 0]]] * 3]
    assert len(pairs[1].mask.files) == 3 and len({str(pair.mask) for pair in pairs}) == 4
    assert "car, road, tree" in found.layout


def test_a_split_without_masks_of_its_classes_is_left_out_aloud(tmp_path: Path):
    write_classes(tmp_path, "masks/{name}/x{n}.png")
    for side in ("images", "masks"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / side).rename(tmp_path / "train" / side)
    write(tmp_path, "val/images/y.jpg", "test/masks/car/z.png")
    layout = find_pairs(DataConfig(), tmp_path).layout
    assert "val left out: no masks" in layout and "test left out: no images" in layout


def test_pixels_of_two_classes_are_ignored(tmp_path: Path):
    write_classes(tmp_path, "masks/x{n}_{name}.png")
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0] = pixels[1, 0] = 255
    for n in range(4):
        Image.fromarray(pixels).save(tmp_path / f"masks/x{n}_car.png")
    found = find_pairs(DataConfig(), tmp_path)
    pair = next(p for pairs in found.splits.values() for p in pairs if p.name == "x1")
    values = pair.mask.values(99)[:, 0].tolist()
    assert [found.label_map.get(v, v) for v in values] == [1, "ignore", 2, 0]
    assert "several classes are ignored" in found.layout
    assert "car, road, tree" in found.class_source.name
    findings = inspect_data_set(DataConfig(path=str(tmp_path))).findings
    (note,) = [finding for finding in findings if finding.kind == "overlap"]
    assert "4 pixels, 9.1% of" in note.text and "4 images" in note.text and not note.error


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize(
    "masks",
    ["x{n}_{who}.png", "masks/x{n}_{who}.png", "masks/{who}/x{n}.png", "{who}_mask/x{n}.png"],
)
def test_drawings_of_the_same_by_two_people_are_no_classes(tmp_path: Path, masks: str, shift: int):
    images = "images/x{n}.jpg" if "/" in masks else "x{n}.jpg"
    for n in range(4):
        write(tmp_path, images.format(n=n))
        for place, who in enumerate(("anna", "ben")):
            path = masks.format(n=n, who=who)
            fill(tmp_path, os.path.dirname(path), os.path.basename(path))
            pixels = np.zeros((12, 12), np.uint8)
            pixels[2 + shift * place : 8, 2:8] = 255
            Image.fromarray(pixels).save(tmp_path / path)
    text = choices(tmp_path)
    assert "100%" in text and "anna" in text and "ben" in text and text.count("{train:") == 2


def test_a_mask_of_a_class_must_be_binary(tmp_path: Path):
    write_classes(tmp_path, "masks/x{n}_{name}.png", 9)
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(tmp_path / "masks/x8_car.png")
    Image.new("L", (3, 3)).save(tmp_path / "masks/x7_car.png")
    found = find_pairs(DataConfig(), tmp_path)
    masks = {p.name: p.mask for pairs in found.splits.values() for p in pairs}
    with pytest.raises(SegtrainError, match="x8_car.png: a mask of one class has 0 and one"):
        masks["x8"].values(99)
    with pytest.raises(SegtrainError, match="x7_.*size differs"):
        masks["x7"].values(99)


def test_masks_of_objects_are_refused(tmp_path: Path):
    for n in range(3):
        write(tmp_path, f"images/x{n}.png", f"masks/x{n}_1.png", f"masks/x{n}_2.png", value=9)
    assert "several masks an image" in choices(tmp_path)


@pytest.mark.parametrize(
    "name, template, split, side",
    [
        ("train_images", "*_images", "train", "image"),
        ("TrainImages", "*images", "train", "image"),
        ("trainannot", "*annot", "train", "mask"),
        ("imagesTr", "images*", "train", "image"),
        ("labelsTs", "labels*", "test", "mask"),
        ("VALID", "*", "val", ""),
        ("labelTrainIds", "labelids", None, "mask"),
        ("contest", "contest", None, ""),
        ("latest_trains", "latest_trains", None, ""),
        ("1st_manual", "1st_manual", None, "mask"),
    ],
)
def test_words_of_names(name: str, template: str, split: str | None, side: str):
    meaning = read_name(name)
    assert (meaning.template, meaning.split) == (template, split)
    assert (meaning.is_image, meaning.is_mask) == (side == "image", side == "mask")


# names of images, names of masks, those that pair
PADDED = {
    "one side": ("1 2 12", "01 02 12", ["1 01", "12 12", "2 02"]),
    "either side": ("a01_1 a02_1", "a1_01 a2_01", ["a01_1 a1_01", "a02_1 a2_01"]),
    "two of one number": ("1 01 2", "001 2", ["2 2"]),
    "others without a partner": ("1 2 3", "01 02 4", []),
    "a single one": ("7 x", "07 x", ["x x"]),
}


@pytest.mark.parametrize("images, masks, pairs", PADDED.values(), ids=PADDED)
def test_zeros_before_numbers_count_unless_all_pair_without(images: str, masks: str, pairs: list):
    groups = group_by_stem(*({name: [name] for name in side.split()} for side in (images, masks)))
    assert [f"{i[0]} {m[0]}" for i, m in groups if i and m] == pairs


def test_numbers_may_be_padded_in_names_that_begin_otherwise(tmp_path: Path):
    write(tmp_path, *(f"images/image-{n}.png" for n in range(1, 13)))
    write(tmp_path, *(f"masks/mask-{n:02}.png" for n in range(1, 13)))
    found = find_pairs(DataConfig(), tmp_path)
    pairs = [(pair.image.stem, pair.mask.stem) for s in found.splits.values() for pair in s]
    assert sorted(pairs) == sorted((f"image-{n}", f"mask-{n:02}") for n in range(1, 13))


def test_one_of_several_endings_in_numbered_subfolders(tmp_path: Path):
    """Parts that cover each other are no classes: the line reads one kind of all subfolders."""
    write(tmp_path, *(f"photos/{n}.png" for n in range(6)))
    for part in ("hair", "skin"):
        names = (f"masks/{n // 3}/{n:05}_{part}.png" for n in range(6))
        write(tmp_path, *names, value=255)
    with pytest.raises(SegtrainError, match="mask_end: _skin"):
        find_pairs(DataConfig(), tmp_path)
    split = SplitConfig(images="photos", masks="masks", mask_end="_skin")
    found = find_pairs(DataConfig(splits={"train": split}), tmp_path)
    pairs = [(pair.image.stem, pair.mask.stem) for s in found.splits.values() for pair in s]
    assert sorted(pairs) == [(f"{n}", f"{n:05}_skin") for n in range(6)]


def test_types_of_files_make_no_rival_of_endings_that_name_masks(tmp_path: Path):
    """One split has its own types of files."""
    write(tmp_path, *(f"train/p{n}{end}" for n in range(2) for end in (".webp", "_mask.png")))
    write(tmp_path, "test/p2.tif", "test/p2_mask.bmp")
    splits = find_pairs(DataConfig(), tmp_path).splits
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 1, "val": 1, "test": 1}
