"""Published data sets in their publishers' layouts, with their tables of classes and colours."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.data.layouts.lists import choose
from segtrain.data.layouts.pairing import Fault, Group, Listing, files_by_stem, group
from segtrain.data.masks import class_palette

PUBLISHED_SPLITS = ("train", "val", "test")
TABLES = Path(__file__).parent / "classes"
CAMVID_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+")
CAMVID_RGB_FOLDERS = (
    ("701_StillsRaw_full", "LabeledApproved_full"),
    ("images/701_StillsRaw_full", "labels"),
    ("images", "labels"),
)

Palette = list[tuple[int, int, int]]


def load_table(name: str) -> tuple[list[str], Palette, dict[int, int | str]]:
    """(class names in id order, colours of the mask values 0, 1, ..., label map) of a data set.

    Ids count the classes in the order in which the table first names them; a value without a class
    is ignored. Values that are their own id are left out of the label map, and a value after a gap
    (255) out of the colours.
    """
    with open(TABLES / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = list(dict.fromkeys(row["class"] for row in rows if row["class"]))
    meaning = {
        int(row["value"]): classes.index(row["class"]) if row["class"] else "ignore" for row in rows
    }
    palette = [
        (int(row["red"]), int(row["green"]), int(row["blue"]))
        for place, row in enumerate(rows)
        if int(row["value"]) == place
    ]
    return classes, palette, {value: label for value, label in meaning.items() if value != label}


def labelled(
    groups: dict[str, list[Group]], faults: Mapping[str, Fault] = {}
) -> tuple[dict[str, list[Group]], str]:
    """The splits that have a mask, and what to say of those that have none (often test).

    A split with faulty names stays: they are to be told.
    """
    without = [
        split
        for split, of in groups.items()
        if of and not any(masks or not faults.keys().isdisjoint(images) for images, masks in of)
    ]
    note = f"; {', '.join(without)} left out: no masks" if without else ""
    return {s: of for s, of in groups.items() if of and s not in without}, note


def find_voc(data: DataConfig, root: Path) -> Listing | None:
    """Pascal VOC: JPEGImages, SegmentationClass and the names in ImageSets/Segmentation.

    Root is the year's folder, or one level or VOCdevkit above it.
    """
    years = [p for at in (root, root / "VOCdevkit") for p in sorted(at.glob("VOC20*"))]
    parts = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation/train.txt")
    home = next((p for p in (root, *years[::-1]) if all((p / x).exists() for x in parts)), None)
    if home is None:
        return None
    base = "" if home == root else os.path.relpath(home, root)
    images, masks = (files_by_stem(root, os.path.join(base, part)) for part in parts[:2])
    groups: dict[str, list[Group]] = {}
    faults: dict[str, Fault] = {}
    for split in ("train", "val", "test"):
        names = home / "ImageSets" / "Segmentation" / f"{split}.txt"
        if names.is_file():
            groups[split], wrong = choose(names, images, masks, root)
            faults |= wrong
    empty = [f"; {split}.txt names nothing" for split, of in groups.items() if not of]
    groups, note = labelled(groups, faults)
    note += "".join(empty)
    layout = f"splits of {os.path.join(base, 'ImageSets/Segmentation')}; 255 is ignored{note}"
    return Listing(groups, layout, *load_table("voc"), faults)


def find_cityscapes(data: DataConfig, root: Path) -> Listing | None:
    """Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY, labelTrainIds or labelIds.

    The train ids are taken where every image with a mask has them.
    """
    if not all((root / part / "train").is_dir() for part in ("leftImg8bit", "gtFine")):
        return None
    images = {s: _of_cities(root, f"leftImg8bit/{s}", "_leftImg8bit") for s in PUBLISHED_SPLITS}
    ids, train_ids = (
        {split: _of_cities(root, f"gtFine/{split}", f"_gtFine_{kind}") for split in images}
        for kind in ("labelIds", "labelTrainIds")
    )
    whole = any(train_ids.values()) and all(
        (of.keys() & ids[split].keys()) <= train_ids[split].keys() for split, of in images.items()
    )
    masks = train_ids if whole else ids
    groups, note = labelled({split: group(images[split], masks[split]) for split in images})
    classes, palette, label_map = load_table("cityscapes")
    if whole:
        palette, label_map = class_palette(len(classes), palette, label_map), {255: "ignore"}
        kind = "gtFine labelTrainIds as they are, 255 is ignored"
    else:
        kind = "gtFine labelIds, mapped to the 19 train ids by the published table"
    return Listing(groups, kind + note, classes, palette, label_map)


def _of_cities(root: Path, folder: str, ending: str) -> dict[str, list[str]]:
    """{city/stem without `ending`: paths} of the files in a split's folders of cities."""
    cities = sorted(p.name for p in (root / folder).glob("*") if p.is_dir())
    return {
        f"{city}/{stem}": files
        for city in cities
        for stem, files in files_by_stem(root, f"{folder}/{city}", ending).items()
    }


def find_ade20k(data: DataConfig, root: Path) -> Listing | None:
    """ADE20K's scene parsing: images and annotations in training and validation.

    Told from other folders of these names by objectInfo150.txt or by images named ADE_*.
    """
    names = {"train": "training", "val": "validation"}
    images, masks = (
        {split: files_by_stem(root, f"{kind}/{name}") for split, name in names.items()}
        for kind in ("images", "annotations")
    )
    info = root / "objectInfo150.txt"
    told = info.is_file() or all(stem.startswith("ADE_") for stem in images["train"])
    if not images["train"] or not masks["train"] or not (told or data.format == "ade20k"):
        return None
    classes, palette, label_map = load_table("ade20k")
    groups, note = labelled({split: group(images[split], masks[split]) for split in names})
    layout = f"images + annotations; 0 is ignored, classes 1..150 become 0..149{note}"
    return Listing(groups, layout, _ade20k_names(info) or classes, palette, label_map)


def _ade20k_names(info: Path) -> list[str] | None:
    """The first name of each of 150 classes in objectInfo150.txt; None where it is none such."""
    if not info.is_file():
        return None
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [re.split(r"\t", line.strip()) for line in lines if line[:1].isdigit()]
    names = [re.split(r"[,;]", row[-1])[0].strip() for row in rows]
    return names if len(set(names)) == len(names) == 150 and all(names) else None


def find_camvid(data: DataConfig, root: Path) -> Listing | None:
    """CamVid as SegNet published it: SPLIT + SPLITannot with grey masks of 11 classes and void.

    Told from other folders of these names by CamVid's frame numbers. The list files beside them
    are not needed.
    """
    groups = {
        split: group(files_by_stem(root, split), files_by_stem(root, f"{split}annot"))
        for split in PUBLISHED_SPLITS
        if (root / f"{split}annot").is_dir()
    }
    if "train" not in groups or not (data.format == "camvid" or _frames(groups) > 0.5):
        return None
    groups, note = labelled(groups)
    folders = ", ".join(f"{split} + {split}annot" for split in groups)
    return Listing(groups, f"{folders}; 11 (void) is ignored{note}", *load_table("camvid"))


def find_camvid_rgb(data: DataConfig, root: Path) -> Listing | None:
    """CamVid in its own 32 colours, masks named X_L.png: in folders of splits, or all in one.

    All in one, CamVid's frames are split as SegNet published it; other frames are all for training.
    """
    groups = {
        split: group(files_by_stem(root, split), files_by_stem(root, f"{split}_labels", "_L"))
        for split in PUBLISHED_SPLITS
        if (root / f"{split}_labels").is_dir()
    }
    layout = ", ".join(f"{split} + {split}_labels" for split in groups)
    if "train" not in groups:
        there = (f for f in CAMVID_RGB_FOLDERS if all((root / x).is_dir() for x in f))
        found = next(there, None)
        if found is None:
            return None
        images, masks = found
        groups = {"train": group(files_by_stem(root, images), files_by_stem(root, masks, "_L"))}
        layout = f"{images} + {masks}"
        if _frames(groups) == 1:
            every = groups["train"]
            groups = {
                split: [pair for pair in every if published_split(_stem(pair)) == split]
                for split in PUBLISHED_SPLITS
            }
            layout += " in SegNet's published split by frame"
    if data.format != "camvid-rgb" and _frames(groups) <= 0.5:
        return None
    groups, note = labelled(groups)
    layout += f"; 32 colours to 11 classes by SegNet's table, Void is ignored{note}"
    return Listing(groups, layout, *load_table("camvid_rgb"))


def published_split(frame: str) -> str:
    """The split that SegNet published of a CamVid frame, by the frame's name."""
    sequence, number = frame[:6], int(re.sub(r"\D", "", frame.rpartition("_")[2]))
    if sequence == "0016E5" and 7959 <= number <= 8159:
        return "val"
    if sequence == "Seq05V" or sequence == "0001TP" and number >= 8550:
        return "test"
    return "train"


def _frames(groups: dict[str, list[Group]]) -> float:
    """The share of images and masks that are named as CamVid's frames."""
    named = [bool(CAMVID_FRAME.fullmatch(_stem(pair))) for of in groups.values() for pair in of]
    return sum(named) / max(1, len(named))


def _stem(pair: Group) -> str:
    """The name that a group's files share, by its first."""
    path = str((*pair[0], *pair[1])[0])
    return os.path.splitext(os.path.basename(path))[0].removesuffix("_L")
