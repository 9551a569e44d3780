"""Splits that the config names: their files as a listing."""

from __future__ import annotations

import os
from pathlib import Path

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.coco import read_coco
from segtrain.data.findings import Finding
from segtrain.data.layouts.coco_layout import (
    check_same_categories,
    image_folder,
    number_categories,
)
from segtrain.data.layouts.lists import read_pairs, select_listed
from segtrain.data.layouts.pairing import (
    Fault,
    Group,
    Listing,
    files_by_stem,
    group_by_stem,
    relative_to_root,
    root_prefixes,
)
from segtrain.errors import UsageError

# keys that one split may have together
COMBINATIONS = (
    ("images", "masks"),
    ("images", "masks", "list"),
    ("list",),
    ("coco",),
    ("images", "coco"),
)


def named_format(config: DataConfig) -> str:
    """Return the format of data.splits, by their keys. Raises UsageError for a mixture."""
    splits = config.splits.values()
    has_coco = [bool(split.coco) for split in splits]
    if any(has_coco) and not all(has_coco):
        raise UsageError(
            "data.splits: coco in one split needs coco in all: the classes come from the JSON"
        )
    lists = all(split.list and not split.images for split in splits)
    name = "coco" if all(has_coco) else "lists" if lists else "pairs"
    if config.format not in ("auto", name):
        raise UsageError(
            f"data.format {config.format} and data.splits contradict: the splits are {name}; "
            "leave out one of the two"
        )
    return name


def find_splits(config: DataConfig, root: Path) -> Listing:
    """List the files that data.splits names. Raises UsageError, SegtrainError."""
    for name, split in config.splits.items():
        keys = tuple(key for key in SplitConfig.model_fields if getattr(split, key))
        if keys not in COMBINATIONS:
            raise UsageError(
                f"data.splits.{name}: give images and masks, or a list, or all three, or coco"
            )
    if any(split.coco for split in config.splits.values()):
        files = {
            name: (root / split.coco, [root / (split.images or Path(split.coco).parent)])
            for name, split in config.splits.items()
            if split.coco  # all have one, or named_format refuses them
        }
        return list_coco(config, root, files)
    groups: dict[str, list[Group]] = {}
    faults: dict[str, Fault] = {}
    for name, split in config.splits.items():
        if split.images and split.masks:
            for folder in (split.images, split.masks):
                if not (root / folder).is_dir():
                    raise UsageError(f"data.splits.{name}: {root / folder}: no such folder")
            sides = files_by_stem(root, split.images), files_by_stem(root, split.masks)
            if split.list:
                groups[name], wrong = select_listed(root / split.list, *sides, root)
            else:
                groups[name], wrong = group_by_stem(*sides), {}
        elif split.list:  # as all have that lack images
            groups[name], wrong = read_pairs(root / split.list, root, config.allow_outside)
        faults |= wrong
    layout = ", ".join(
        f"{split.images} + {split.masks}" if split.images else str(split.list)
        for split in config.splits.values()
    )
    return Listing(groups, layout, faults=faults)


def list_coco(config: DataConfig, root: Path, files: dict[str, tuple[Path, list[Path]]]) -> Listing:
    """List the images and masks of the COCO JSON of each split.

    `files` has the JSON and the folders that may hold its images, by split.
    """
    cocos = {split: read_coco(file) for split, (file, _) in files.items()}
    check_same_categories(list(cocos.values()))
    prefixes = root_prefixes(root)
    classes, label_map = number_categories(next(iter(cocos.values())).categories)
    listing = Listing({}, "", classes, None, label_map)
    named = []
    for split, coco in cocos.items():
        source = os.path.relpath(coco.file, root)
        folder = image_folder(coco, files[split][1])
        boxes = set(coco.boxes)
        listing.groups[split] = groups = []
        for name, mask in coco.images:
            file = os.path.join(folder, name)
            path = relative_to_root(file, prefixes)
            # a downloaded JSON must not make training read any file of the disk
            if os.path.isabs(path) and not config.allow_outside:
                listing.faults[path] = ("outside", source)
            elif not os.path.isfile(file):
                listing.faults[path] = ("missing", source, "file")
            elif name in boxes:
                listing.faults[path] = ("box", source)
            groups.append(([path], [mask]))
        groups.sort(key=lambda pair: (Path(pair[0][0]).stem, pair[0][0]))
        named.append(f"{source} + {os.path.relpath(folder, root)}")
        if coco.slivers:
            text = f"{source}: {coco.slivers} annotation(s) with fewer than three points, not drawn"
            listing.findings.append(Finding("sliver", False, text))
    listing.layout = ", ".join(named) + (
        "; masks are drawn, smaller objects over larger ones, background is class 0"
    )
    return listing
