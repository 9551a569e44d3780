"""Published data sets: their layouts and their tables of classes and colours."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.config.types import Colour
from segtrain.data.layouts.folders import Side, list_sides
from segtrain.data.layouts.lists import select_listed
from segtrain.data.layouts.pairing import (
    ClassSource,
    Fault,
    Group,
    Listing,
    files_by_stem,
    group_by_stem,
)
from segtrain.data.masks import class_palette
from segtrain.files.places import relative_path

PUBLISHED = {
    "voc": "Pascal VOC",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "camvid": "CamVid",
    "camvid-rgb": "CamVid",
}  # names by data.format
PUBLISHED_SPLITS = ("train", "val", "test")
# labelme writes the first as images and the second as arrays; the others are names of VOC's
VOC_MASKS = ("SegmentationClassPNG", "SegmentationClass", "SegmentationClassAug")
VOC_LISTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
TABLES = Path(__file__).parent / "classes"
CAMVID_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+")
CAMVID_RGB_FOLDERS = (
    ("701_StillsRaw_full", "LabeledApproved_full"),
    ("images/701_StillsRaw_full", "labels"),
    ("images", "labels"),
)


def load_table(name: str) -> tuple[list[str], list[Colour], dict[int, int | str]]:
    """Return (class names in id order, colours of mask values 0, 1, ..., label map) of a data set.

    Ids number the classes in the order of their first row; a value without a class is ignored. The
    label map leaves out values that are their own id, the colours values after a gap (255).
    """
    with open(TABLES / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = list(dict.fromkeys(row["class"] for row in rows if row["class"]))
    meaning = {
        int(row["value"]): classes.index(row["class"]) if row["class"] else "ignore" for row in rows
    }
    palette = [
        (int(row["red"]), int(row["green"]), int(row["blue"]))
        for value, row in enumerate(rows)
        if int(row["value"]) == value
    ]
    return classes, palette, {value: label for value, label in meaning.items() if value != label}


def drop_unlabelled(
    groups: dict[str, list[Group]], faults: Mapping[str, Fault] = {}
) -> dict[str, list[Group]]:
    """Return the splits that have masks; the test split often has none.

    A split with faulty names stays, so that they are reported.
    """
    return {
        split: files
        for split, files in groups.items()
        if any(masks or not faults.keys().isdisjoint(images) for images, masks in files)
    }


def describe_dropped(groups: dict[str, list[Group]], labelled: dict[str, list[Group]]) -> str:
    """Return the end of a layout's description, about splits with images but without masks."""
    dropped = [split for split, files in groups.items() if files and split not in labelled]
    return f"; {', '.join(dropped)} left out: no masks" if dropped else ""


def find_voc(config: DataConfig, root: Path) -> Listing | None:
    """Find Pascal VOC: JPEGImages, SegmentationClass and the names in ImageSets/Segmentation.

    Root is the year's folder, VOCdevkit, or the folder above either. CVAT and labelme write the
    same folders with other lists or none: they are no evidence of Pascal's classes.
    """
    years = [p for at in (root, root / "VOCdevkit") for p in sorted(at.glob("VOC20*"))]
    folders = (root, *years[::-1])  # the newest year first: it has the most masks
    existing = ((h, m) for h in folders for m in VOC_MASKS if (h / m).is_dir())
    found = next(((h, m) for h, m in existing if (h / "JPEGImages").is_dir()), None)
    if found is None:
        return None
    home, folder = found
    base = "" if home == root else relative_path(home, root)
    sides = (Side(os.path.join(base, "JPEGImages")), Side(os.path.join(base, folder)))
    images, masks = list_sides(root, *sides, ())
    lists = _find_voc_lists(home / "ImageSets" / "Segmentation")
    groups: dict[str, list[Group]] = {}
    faults: dict[str, Fault] = {}
    for split, names in lists.items():
        groups[split] = []
        for name in names:
            listed = select_listed(name, images, masks, root)
            groups[split] += [group for of_split in listed.groups.values() for group in of_split]
            faults |= listed.faults
    if lists and lists["train"][0].stem.lower() == "trainval":
        held_out = {files[0][0] for files in groups.get("val", ()) if files[0]}
        groups["train"] = [g for g in groups["train"] if held_out.isdisjoint(g[0])]
    labelled = drop_unlabelled(groups, faults) if lists else {"train": group_by_stem(images, masks)}
    empty = [f"; {split}.txt is empty" for split, files in groups.items() if not files]
    notes = describe_dropped(groups, labelled) + "".join(empty)
    used = ", ".join(name.name for split in labelled if split in lists for name in lists[split])
    where = os.path.join(base, "ImageSets/Segmentation")
    layout = f"{sides[0]} + {sides[1]}" + (f", {used} of {where}{notes}" if lists else "")
    if config.format != "voc" and not any(p.stem == "train" for p in lists.get("train", ())):
        return Listing(labelled, layout, faults=faults)
    return Listing(labelled, layout, *load_table("voc"), faults, meaning="255 is ignored")


def _find_voc_lists(folder: Path) -> dict[str, list[Path]]:
    """Return the lists of each split; those of other names are all for training, without train."""
    files = {path.stem.lower(): path for path in sorted(folder.glob("*.txt"))}
    lists = {
        split: [next(files[name] for name in names if name in files)]
        for split, names in VOC_LISTS.items()
        if not files.keys().isdisjoint(names)
    }
    others = [path for name, path in files.items() if [path] not in lists.values()]
    if others and "train" not in lists:
        lists = {"train": [files["trainval"]] if "trainval" in files else others} | lists
    return lists if "train" in lists else {}


def find_cityscapes(config: DataConfig, root: Path) -> Listing | None:
    """Find Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY, labelTrainIds or labelIds.

    The train ids are used where every image with a mask has them. CVAT writes imgsFine/leftImg8bit
    without cities, and a split named default.
    """
    homes = ("imgsFine/leftImg8bit", "leftImg8bit")  # of several the last counts
    splits = {"train": ("default", "train"), "val": ("val",), "test": ("test",)}
    folders = {
        split: (f"{home}/{name}", f"gtFine/{name}")
        for home in homes
        for split, names in splits.items()
        for name in names
        if (root / home / name).is_dir()
    }
    if "train" not in folders or not (root / folders["train"][1]).is_dir():
        return None
    ids, train_ids = (
        {
            split: list_sides(root, Side(i, "", "_leftImg8bit"), Side(m, "", f"_gtFine_{kind}"), ())
            for split, (i, m) in folders.items()
        }
        for kind in ("labelIds", "labelTrainIds")
    )
    # the download has no train ids: cityscapesScripts writes them, and may have been cut short
    whole = any(masks for _, masks in train_ids.values()) and all(
        (images.keys() & masks.keys()) <= train_ids[split][1].keys()
        for split, (images, masks) in ids.items()
    )
    chosen = train_ids if whole else ids
    groups = {split: group_by_stem(*sides) for split, sides in chosen.items()}
    labelled = drop_unlabelled(groups)
    if "train" not in labelled:  # masks of another kind, as IDD's, or of the user's own
        return None
    classes, palette, label_map = load_table("cityscapes")
    if whole:
        palette, label_map = class_palette(len(classes), palette, label_map), {255: "ignore"}
        kind, meaning = "labelTrainIds", "as they are, 255 is ignored"
    else:
        kind, meaning = "labelIds", "mapped to the 19 train ids by the published table"
    where = ", ".join(f"{i} + {m}" for split, (i, m) in folders.items() if split in labelled)
    layout = f"{where}, {kind}{describe_dropped(groups, labelled)}"
    return Listing(labelled, layout, classes, palette, label_map, meaning=meaning)


def find_ade20k(config: DataConfig, root: Path) -> Listing | None:
    """Find ADE20K's scene parsing: images and annotations in training and validation.

    Recognised among folders of these names by objectInfo150.txt or by images named ADE_*.
    """
    names = {"train": "training", "val": "validation"}
    images, masks = (
        {split: files_by_stem(root, f"{kind}/{name}") for split, name in names.items()}
        for kind in ("images", "annotations")
    )
    info = root / "objectInfo150.txt"
    recognised = info.is_file() or all(stem.startswith("ADE_") for stem in images["train"])
    if not images["train"] or not masks["train"] or not (recognised or config.format == "ade20k"):
        return None
    classes, palette, label_map = load_table("ade20k")
    groups = {split: group_by_stem(images[split], masks[split]) for split in names}
    labelled = drop_unlabelled(groups)
    layout = "images + annotations" + describe_dropped(groups, labelled)
    meaning = "0 is ignored, classes 1..150 become 0..149"
    listing = Listing(labelled, layout, classes, palette, label_map, meaning=meaning)
    if own := _ade20k_names(info):
        listing.classes, listing.class_source = own, ClassSource(info.name)
    return listing


def _ade20k_names(info: Path) -> list[str] | None:
    """Return the first name of each of the 150 classes; None where the file has other content."""
    if not info.is_file():
        return None
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [re.split(r"\t", line.strip()) for line in lines if line[:1].isdigit()]
    names = [re.split(r"[,;]", row[-1])[0].strip() for row in rows]
    return names if len(set(names)) == len(names) == 150 and all(names) else None


def find_camvid(config: DataConfig, root: Path) -> Listing | None:
    """Find CamVid as SegNet published it: SPLIT + SPLITannot, grey masks of 11 classes and void.

    Recognised among folders of these names by CamVid's frame numbers. The list files beside them
    are not needed.
    """
    groups = {
        split: group_by_stem(files_by_stem(root, split), files_by_stem(root, f"{split}annot"))
        for split in PUBLISHED_SPLITS
        if (root / f"{split}annot").is_dir()
    }
    if "train" not in groups or not (config.format == "camvid" or _camvid_share(groups) > 0.5):
        return None
    labelled = drop_unlabelled(groups)
    layout = ", ".join(f"{split} + {split}annot" for split in labelled)
    layout += describe_dropped(groups, labelled)
    return Listing(labelled, layout, *load_table("camvid"), meaning="11 (void) is ignored")


def find_camvid_rgb(config: DataConfig, root: Path) -> Listing | None:
    """Find CamVid in its 32 colours, masks named X_L.png: in folders of splits, or all in one.

    All in one, CamVid's frames get SegNet's published split; other frames are all for training.
    """
    groups = {
        split: group_by_stem(
            files_by_stem(root, split), files_by_stem(root, f"{split}_labels", "_L")
        )
        for split in PUBLISHED_SPLITS
        if (root / f"{split}_labels").is_dir()
    }
    layout = ", ".join(f"{split} + {split}_labels" for split in groups)
    if "train" not in groups:
        existing = (f for f in CAMVID_RGB_FOLDERS if all((root / x).is_dir() for x in f))
        images, masks = next(existing, ("", ""))
        if not images:
            return None
        groups = {
            "train": group_by_stem(files_by_stem(root, images), files_by_stem(root, masks, "_L"))
        }
        layout = f"{images} + {masks}"
        if _camvid_share(groups) == 1:
            every = groups["train"]
            groups = {
                split: [pair for pair in every if published_split(_stem(pair)) == split]
                for split in PUBLISHED_SPLITS
            }
            layout += " in SegNet's published split by frame"
    if config.format != "camvid-rgb" and _camvid_share(groups) <= 0.5:
        return None
    labelled = drop_unlabelled(groups)
    layout += describe_dropped(groups, labelled)
    meaning = "32 colours to 11 classes by SegNet's table, Void is ignored"
    return Listing(labelled, layout, *load_table("camvid_rgb"), meaning=meaning)


def published_split(frame: str) -> str:
    """Return the split of a CamVid frame in SegNet's published split, by the frame's name."""
    sequence, number = frame[:6], int(re.sub(r"\D", "", frame.rpartition("_")[2]))
    if sequence == "0016E5" and 7959 <= number <= 8159:
        return "val"
    if sequence == "Seq05V" or sequence == "0001TP" and number >= 8550:
        return "test"
    return "train"


def _camvid_share(groups: dict[str, list[Group]]) -> float:
    """Return the share of images and masks that have names of CamVid's frames."""
    named = [bool(CAMVID_FRAME.fullmatch(_stem(g))) for files in groups.values() for g in files]
    return sum(named) / max(1, len(named))


def _stem(pair: Group) -> str:
    """Return the name that the files of a group share, by the first of them."""
    path = str((*pair[0], *pair[1])[0])
    return os.path.splitext(os.path.basename(path))[0].removesuffix("_L")
