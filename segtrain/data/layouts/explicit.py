"""Splits that the config names: their files as a listing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.findings import Finding
from segtrain.data.layouts.coco_layout import image_folders, list_coco
from segtrain.data.layouts.folders import Side, list_sides
from segtrain.data.layouts.lists import read_pairs, select_listed
from segtrain.data.layouts.name_ends import find_agreement
from segtrain.data.layouts.pairing import (
    Fault,
    Group,
    Listing,
    group_by_stem,
)
from segtrain.data.layouts.polygon_layout import list_named_polygons, refuse_polygons
from segtrain.data.layouts.run_length_tables import is_run_table, list_run_lengths
from segtrain.errors import UsageError

AFFIXES = ("image_start", "image_end", "mask_start", "mask_end")
SPLIT_KEYS = [key for key in SplitConfig.model_fields if key not in AFFIXES]
# keys that one split may have together
COMBINATIONS = (
    ("images", "masks"),
    ("images", "masks", "list"),
    ("list",),
    ("coco",),
    ("images", "coco"),
)


def named_format(config: DataConfig, root: Path) -> str:
    """Return the format of data.splits, by their keys. Raises UsageError for a mixture."""
    splits = config.splits.values()
    has_coco = [bool(split.coco) for split in splits]
    if any(has_coco) and not all(has_coco):
        raise UsageError(
            "data.splits: coco in one split needs coco in all: the classes come from the JSON"
        )
    lists = all(split.list and not split.images for split in splits)
    name = "coco" if all(has_coco) else "lists" if lists else "pairs"
    if lists and all(is_run_table(root / str(split.list)) for split in splits):
        name = "rle"
    if name == "pairs" and config.format == "polygons":
        name = "polygons"
    if config.format not in ("auto", name):
        raise UsageError(
            f"data.format {config.format} and data.splits contradict: the splits are {name}; "
            "leave out one of the two"
        )
    return name


def find_splits(config: DataConfig, root: Path) -> Listing:
    """List the files that data.splits names. Raises UsageError, SegtrainError."""
    for name, split in config.splits.items():
        keys = tuple(key for key in SPLIT_KEYS if getattr(split, key))
        if keys not in COMBINATIONS:
            raise UsageError(
                f"data.splits.{name}: give images and masks, or a list, or all three, or coco"
            )
    if any(split.coco for split in config.splits.values()):
        files = {
            name: (
                root / split.coco,
                [root / split.images]
                if split.images
                else image_folders(root, root / split.coco, name),
            )
            for name, split in config.splits.items()
            if split.coco  # all have one, or named_format refuses them
        }
        return list_coco(config, root, files)
    if config.format == "polygons":
        return list_named_polygons(config, root)
    if named_format(config.model_copy(update={"format": "auto"}), root) == "rle":
        tables = {name: root / str(split.list) for name, split in config.splits.items()}
        return list_run_lengths(config, root, tables)
    sides = {name: split_sides(split) for name, split in config.splits.items() if split.images}
    named = {os.path.normpath(side.folder) for pair in sides.values() for side in pair}
    groups: dict[str, list[Group]] = {}
    faults: dict[str, Fault] = {}
    notes: dict[str, str] = {}
    for name, split in config.splits.items():
        if name in sides:
            if sides[name][0] == sides[name][1]:
                raise UsageError(
                    f"data.splits.{name}: images and masks are both {split.images}; tell them "
                    "apart by image_end and mask_end, such as mask_end: _mask"
                )
            for side in sides[name]:
                if not side.find_folders(root):
                    raise UsageError(f"data.splits.{name}: {root / side.folder}: no such folder")
            found = list_sides(root, *sides[name], named)
            if found[0] and not found[1]:
                refuse_polygons(root, name, str(split.masks))
            if not split.list:
                groups[name] = group_by_stem(*found)
                continue
            listed = select_listed(root / split.list, *found, root)
        else:  # as all have that lack images
            listed = read_pairs(root / str(split.list), root, config.allow_outside)
        groups |= listed.of_split(name, alone=len(config.splits) == 1)
        faults |= listed.faults
        notes[name] = f" ({listed.note})" if listed.note else ""
    layout = ", ".join(
        describe_split(split) + notes.get(name, "") for name, split in config.splits.items()
    )
    by_name = {name: groups[name] for name in sides if not config.splits[name].list}
    findings = drop_lone(by_name, named) + suggest_ends(by_name, config)
    return Listing(groups | by_name, layout, faults=faults, findings=findings)


def describe_split(split: SplitConfig) -> str:
    """Return the folders or the list of a split, in a few words."""
    return " + ".join(map(str, split_sides(split))) if split.images else str(split.list)


def split_sides(split: SplitConfig) -> tuple[Side, Side]:
    """Return the images and the masks that a split names."""
    return (
        Side(split.images or "", split.image_start, split.image_end),
        Side(split.masks or "", split.mask_start, split.mask_end),
    )


def suggest_ends(groups: dict[str, list[Group]], config: DataConfig) -> list[Finding]:
    """Return a finding with the splits by what names end with, where no names of a split agree."""
    fixed = {}
    for name, files in groups.items():
        split = config.splits[name]
        stems = [
            [os.path.split(str(path)) for group in files for path in group[side]] for side in (0, 1)
        ]
        flat = all(len({where for where, _ in side}) < 2 for side in stems)
        if any(all(group) for group in files) or not all(stems) or not flat:
            continue
        found = find_agreement(*([("", Path(file).stem) for _, file in side] for side in stems))
        if found:
            (image_start, image_end), (mask_start, mask_end) = found.image, found.mask
            ends = (image_start, image_end, mask_start, mask_end)
            fixed[name] = split.model_copy(update=dict(zip(AFFIXES, ends, strict=True)))
    if not fixed:
        return []
    splits = {
        name: split.model_dump(exclude_defaults=True)
        for name, split in (config.splits | fixed).items()
    }
    text = f"{', '.join(fixed)}: names of images and masks differ by what they begin or end with"
    return [Finding("ends", True, text, fix={"splits": splits})]


def drop_lone(groups: dict[str, list[Group]], named: Collection[str]) -> list[Finding]:
    """Remove, in place, the files without a partner that need none; return notes about them.

    These are files that pair in another split, which names their folder, too, and those of
    subfolders, not `named` themselves, in which no file has a partner, if others of the split have.
    """
    if all(images and masks for files in groups.values() for images, masks in files):
        return []
    paired = {
        str(path) for files in groups.values() for i, m in files if i and m for path in (*i, *m)
    }
    pairing = {os.path.dirname(path) for path in paired}
    alone: Counter[str] = Counter()
    for split, files in groups.items():
        kept, some = [], any(map(all, files))
        for group in files:
            paths = [str(path) for side in group for path in side]
            folder = os.path.dirname(paths[0])
            if not all(group) and some and folder not in pairing and folder not in named:
                alone[folder] += len(paths)
            elif all(group) or paired.isdisjoint(paths):
                kept.append(group)
        groups[split] = kept
    return [
        Finding("alone", False, f"{folder}: {count} file(s) left out: none has a partner")
        for folder, count in sorted(alone.items())
    ]
