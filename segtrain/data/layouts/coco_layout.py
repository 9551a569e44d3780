"""COCO folders: the JSON of each split, the folder of its images, and its classes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from segtrain.data.coco import Coco, background_value
from segtrain.errors import SegtrainError, shorten

SPLIT_IN_NAME = re.compile(
    r"(?:^|[^a-z])(?:(train)(?:ing)?|(val)(?:id(?:ation)?)?|(test)(?:ing)?)(?![a-z])"
)


def number_categories(categories: Mapping[int, str]) -> tuple[list[str], dict[int, int | str]]:
    """Return (class names, label map): the background, then the categories in id order."""
    names = list(categories.values())
    unique = [
        f"{name} ({key})" if names.count(name) > 1 or name == "background" else name
        for key, name in categories.items()
    ]
    ids = {category: class_id for class_id, category in enumerate(categories, 1)}
    return ["background", *unique], {background_value(categories): 0, **ids}


def find_jsons(root: Path) -> dict[str, tuple[Path, list[Path]]]:
    """Return {split: (JSON, folders that may hold its images)} by COCO's or Roboflow's layout.

    Empty where neither is found. Raises SegtrainError where a split has two JSON files.
    """
    beside = {
        split: (root / folder / "_annotations.coco.json", [root / folder])
        for split, names in (("train", ("train",)), ("val", ("valid", "val")), ("test", ("test",)))
        for folder in names[::-1]
        if (root / folder / "_annotations.coco.json").is_file()
    }
    if beside or not (root / "annotations").is_dir():
        return beside
    files = sorted((root / "annotations").glob("*.json"))
    # COCO keeps captions_*.json and person_keypoints_*.json in the same folder
    files = [f for f in files if f.name.startswith("instances")] or files
    found: dict[str, tuple[Path, list[Path]]] = {}
    for file in files:
        match = SPLIT_IN_NAME.search(file.stem.lower())
        if match is None and len(files) > 1:
            continue
        split = match[match.lastindex or 0] if match else "train"
        if split in found:
            raise SegtrainError(
                f"{found[split][0]} and {file.name} are both for {split}; choose with "
                f"data.splits: {{{split}: {{coco: annotations/{file.name}, images: ...}}}}"
            )
        year = re.split(r"[_.]", file.stem)[-1]  # train2017 of instances_train2017
        folders = [below / name for name in (year, split) for below in (root, root / "images")]
        found[split] = file, [*folders, root / "images", root]
    return found


def image_folder(coco: Coco, folders: list[Path]) -> Path:
    """Return the first of the folders that holds the first image, else the first that exists."""
    first = coco.images[0][0] if coco.images else ""
    existing = [folder for folder in folders if folder.is_dir()] or [coco.file.parent]
    return next((f for f in existing if os.path.isfile(f / first)), existing[0])


def check_same_categories(cocos: list[Coco]) -> None:
    """Raise SegtrainError where the JSON files of the splits have different categories."""
    for other in cocos[1:]:
        differing = sorted(set(cocos[0].categories.items()) ^ set(other.categories.items()))
        if differing:
            raise SegtrainError(
                f"{cocos[0].file} and {other.file} have different categories: "
                + shorten(f"{key} {name!r}" for key, name in differing)
            )
