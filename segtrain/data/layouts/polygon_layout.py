"""Folders of polygons: YOLO's text files or labelme's JSON files, one for each image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from segtrain.config import DataConfig
from segtrain.data.decoding import SUFFIXES
from segtrain.data.findings import Finding
from segtrain.data.layouts.class_files import read_rows
from segtrain.data.layouts.coco_layout import SPLIT_IN_NAME, number_categories
from segtrain.data.layouts.folders import Files, walk_folder
from segtrain.data.layouts.pairing import Group, Listing
from segtrain.data.polygons import BACKGROUND, IGNORED, YoloMask, is_yolo, read_labelme
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.files.places import relative_path

TOOLS = {".json": "labelme", ".txt": "YOLO"}
PROBED = 20  # files of a folder whose content is looked at
MOST_CLASSES = 4096  # where no file names them
FIRST_NUMBER = re.compile(rb"^\s*(\d{1,9})", re.MULTILINE)  # of a line
KEY_POINTS = re.compile(rb"^kpt_shape", re.MULTILINE)
NAME_FILES = ("classes.txt", "class_names.txt", "labels.txt", "obj.names")  # of classes


class PolygonFolders(NamedTuple):
    """A folder of images, and one of their polygons: paths relative to root."""

    images: str
    labels: str
    suffix: str  # of the polygons' files

    def __str__(self) -> str:
        where = "" if self.images == self.labels else f"{self.images} + "
        return f"{where}{self.labels}/*{self.suffix}"


def find_polygons(config: DataConfig, root: Path) -> Listing | None:
    """Find folders with a text file or JSON of polygons for each image.

    For the end of all layouts. Raises SegtrainError where they have boxes and no polygons.
    """
    if not root.is_dir():
        return None
    tree = dict(walk_folder(root))
    splits: dict[str, list[PolygonFolders]] = {}
    for folders in _match_folders(root, tree):
        parts = (*Path(folders.labels).parts[::-1], *Path(folders.images).parts[::-1])
        matches = (SPLIT_IN_NAME.search(part.lower()) for part in parts)
        match = next(filter(None, matches), None)
        splits.setdefault(match[match.lastindex or 0] if match else "train", []).append(folders)
    if "train" not in splits:
        return None
    listing = list_polygons(config, root, splits, tree)
    read = {pair.images for pairs in splits.values() for pair in pairs}
    for folder in tree.keys() - read:
        if images := _by_stem(folder, tree[folder], SUFFIXES):
            text = f"{folder}: {len(images)} image(s) without polygons are left out"
            listing.findings.append(Finding("unlabelled", False, text))
    return listing


def list_named_polygons(config: DataConfig, root: Path) -> Listing:
    """List the polygons of data.splits: folders of images and masks, and their subfolders."""
    tree: dict[str, list[str]] = {}
    splits: dict[str, list[PolygonFolders]] = {}
    for name, split in config.splits.items():
        if set(split.model_dump(exclude_defaults=True)) != {"images", "masks"}:
            raise UsageError(
                f"data.splits.{name}: polygons are matched to images by stem; give images and "
                "masks alone"
            )
        images, labels = (os.path.normpath(folder or "") for folder in (split.images, split.masks))
        for folder in (images, labels):
            if not (root / folder).is_dir():
                raise UsageError(f"data.splits.{name}: {root / folder}: no such folder")
        below = [dict(walk_folder(root, folder)) for folder in (images, labels)]
        tree |= below[0] | below[1]
        kinds = Counter(
            os.path.splitext(file)[1].lower() for files in below[1].values() for file in files
        )
        suffix = max(TOOLS, key=kinds.__getitem__)
        for folder in below[0]:
            other = os.path.normpath(os.path.join(labels, relative_path(folder, images)))
            if other in tree:
                splits.setdefault(name, []).append(PolygonFolders(folder, other, suffix))
    return list_polygons(config, root, splits, tree)


def refuse_polygons(root: Path, split: str, masks: str) -> None:
    """Raise UsageError where a split's folder of masks has files of polygons instead."""
    found = Counter(
        os.path.splitext(name)[1].lower() for _, names in walk_folder(root, masks) for name in names
    )
    for suffix, tool in TOOLS.items():
        if found[suffix]:
            raise UsageError(
                f"data.splits.{split}: {masks} has no masks but {found[suffix]} {suffix}; if they "
                f"are {tool}'s polygons, add data.format: polygons"
            )


def _match_folders(root: Path, tree: dict[str, list[str]]) -> list[PolygonFolders]:
    """Return the folders of images, each with the one of its polygons, which may be the same."""
    homes: dict[str, list[str]] = {}  # of images, by stem
    for folder, names in tree.items():
        for stem in _by_stem(folder, names, SUFFIXES):
            homes.setdefault(stem, []).append(folder)
    found: dict[str, PolygonFolders] = {}
    for suffix in TOOLS:  # labelme's files count before a conversion of them
        matched: list[tuple[bool, PolygonFolders]] = []
        alone: list[PolygonFolders] = []
        counts: list[tuple[int, int]] = []
        for folder, names in sorted(tree.items()):
            stems = [stem for stem in _by_stem(folder, names, {suffix}) if stem in homes]
            probed = stems[:: len(stems) // PROBED + 1]
            if hits := Counter(home for stem in probed for home in homes[stem]):
                near = {home: len({*Path(home).parts} ^ {*Path(folder).parts}) for home in hits}
                images = max(sorted(hits), key=lambda home: (hits[home], -near[home]))
                counts.append(_count_probed(root, folder, probed, suffix))
                matched.append((counts[-1][0] > 0, PolygonFolders(images, folder, suffix)))
            elif names_alone := [*_by_stem(folder, names, {suffix})][:PROBED]:
                if _count_probed(root, folder, names_alone, suffix)[0]:  # without any image
                    alone.append(PolygonFolders(folder, folder, suffix))
        # beside folders that hold some, others are of the same kind: empty, or damaged
        if any(holds for holds, _ in matched):
            for _, folders in sorted(matched, key=lambda match: not match[0]):
                found.setdefault(folders.images, folders)
            for folders in alone:
                found.setdefault(folders.images, folders)
        elif any(boxes for _, boxes in counts):
            raise SegtrainError(
                f"{root / matched[0][1].labels}: YOLO's boxes (class x y width height), not "
                "polygons (class x y x y ...): segmentation needs outlines or masks"
            )
    return sorted(found.values())


def _by_stem(folder: str, names: Sequence[str], suffixes: set[str]) -> Files:
    found: Files = {}
    for name in sorted(names):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes:
            found.setdefault(stem, []).append(os.path.normpath(os.path.join(folder, name)))
    return found


def _count_probed(root: Path, folder: str, stems: Sequence[str], suffix: str) -> tuple[int, int]:
    """Return the polygons and the boxes in files, for labelme the files that are its own."""
    files = [root / folder / f"{stem}{suffix}" for stem in stems]
    if suffix == ".json":
        return sum(read_labelme(file).is_labelme for file in files), 0
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files if f.is_file()]
    counts = [is_yolo(text) for text in texts]  # a dangling link is none
    return sum(polygons for polygons, _ in counts), sum(boxes for _, boxes in counts)


def list_polygons(
    config: DataConfig,
    root: Path,
    splits: dict[str, list[PolygonFolders]],
    tree: dict[str, list[str]],
) -> Listing:
    """List the images and polygons of each split; `tree` has the files of each folder.

    Raises SegtrainError where the files of classes can't be read.
    """
    folders = [pair for pairs in splits.values() for pair in pairs]
    names, source = read_names(root, [pair.labels for pair in folders])
    sides = {
        split: [
            (_by_stem(i, tree[i], SUFFIXES), _by_stem(m, tree[m], {suffix}))
            for i, m, suffix in pairs
        ]
        for split, pairs in splits.items()
    }
    tools = sorted({TOOLS[pair.suffix] for pair in folders})
    if len(tools) > 1:
        raise SegtrainError(
            f"{root}: polygons of {' and '.join(tools)} in {shorten(folders)}; name the folders of "
            "one with data.splits and data.format: polygons"
        )
    list_tool = _list_labelme if tools == ["labelme"] else _list_yolo
    listing = list_tool(root, sides, names, config.exif is not False)
    listing.layout = (
        f"{', '.join(map(str, folders))}: {tools[0]} polygons"
        + (f", classes of {source}" if source else "")
        + "; masks are drawn, smaller objects over larger ones, background is class 0"
    )
    return listing


Sides = dict[str, list[tuple[Files, Files]]]  # by split: images and polygons of each folder


def _list_yolo(root: Path, sides: Sides, names: list[str] | None, upright: bool) -> Listing:
    listing = Listing({}, "")
    if names is None:
        names = _number_classes(root, sides)
        text = f"no file names the classes: they are YOLO's numbers 0..{len(names) - 1}"
        listing.findings.append(Finding("classes", False, text))
    listing.classes, listing.label_map = number_categories(dict(enumerate(names, 1)), 0)
    for split, pairs in sides.items():
        groups: list[Group] = []
        lacking = []
        for images, labels in pairs:
            for stem in sorted(images.keys() | labels.keys()):
                files = labels.get(stem, [])
                if stem in images:
                    image = images[stem][0]
                    lacking += [image] if not files else []
                    file = root / files[0] if files else None
                    mask = YoloMask(root / image, file, len(names), upright)
                    groups.append((images[stem], [mask]))
                elif any(is_yolo((root / files[0]).read_text(errors="replace"))):
                    groups.append(([], files))  # else it is no file of polygons
        written = (path for _, labels in pairs for paths in labels.values() for path in paths)
        if not any(os.path.getsize(root / path) for path in written):
            text = f"no polygon in the {len(groups)} image(s) of {split}, which is left out"
            listing.findings.append(Finding("unlabelled", False, text))
            continue
        listing.groups[split] = groups
        if lacking:
            many = 2 * len(lacking) > len(groups)
            text = f"{len(lacking)} of {len(groups)} images in {split} have no file of polygons"
            listing.findings.append(
                Finding(
                    "unlabelled",
                    many,
                    text if many else f"{text}: background alone, by YOLO's convention",
                    lacking,
                    "write an empty file for each image without objects" if many else "",
                    {"exclude": lacking} if many else {},
                )
            )
    return listing


def _number_classes(root: Path, sides: Sides) -> list[str]:
    """Return the class numbers up to the highest in the files of polygons."""
    stems = (paths for pairs in sides.values() for _, labels in pairs for paths in labels.values())
    files = (file for paths in stems for file in paths)
    numbers = (
        int(number) for file in files for number in FIRST_NUMBER.findall((root / file).read_bytes())
    )
    highest = max((number for number in numbers if number < MOST_CLASSES), default=0)
    return [f"class {number}" for number in range(highest + 1)]


def _list_labelme(root: Path, sides: Sides, names: list[str] | None, upright: bool) -> Listing:
    read = {
        file: read_labelme(root / file)
        for pairs in sides.values()
        for _, labels in pairs
        for files in labels.values()
        for file in files
    }
    labels = {label for file in read.values() for label, _ in file.shapes}
    undrawn = sum((file.undrawn for file in read.values()), Counter[str]())
    listing = Listing({}, "")
    if names is None:
        names = sorted(labels - {BACKGROUND, IGNORED})
        text = f"classes are labelme's {len(names)} labels in alphabetical order"
        listing.findings.append(Finding("classes", False, text))
    names = [name for name in names if name not in (BACKGROUND, IGNORED)]
    values = {name: value for value, name in enumerate(names, 1)}
    values |= {BACKGROUND: 0, IGNORED: len(names) + 1}
    listing.classes, listing.label_map = number_categories(dict(enumerate(names, 1)), 0)
    listing.label_map[values[IGNORED]] = "ignore"
    folded = Counter(name.lower() for name in names)
    if alike := [name for name in names if folded[name.lower()] > 1]:
        text = f"classes whose names differ in upper and lower case alone: {shorten(alike, 8)}"
        listing.findings.append(Finding("classes", False, text))
    if undrawn:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(undrawn.items()))
        text = f"shapes without an area are not drawn: {counts}"
        listing.findings.append(Finding("undrawn", False, text))
    for split, pairs in sides.items():
        groups: list[Group] = []
        for images, by_stem in pairs:
            for stem in sorted(images.keys() | by_stem.keys()):
                paths, files = images.get(stem, []), by_stem.get(stem, [])
                if paths:
                    image = root / paths[0]
                    groups.append((paths, [read[f].draw(values, image, upright) for f in files]))
                elif read[files[0]].is_labelme:
                    groups.append(([], files))  # else it is no file of polygons
        listing.groups[split] = groups
    return listing


def read_names(root: Path, folders: Sequence[str]) -> tuple[list[str] | None, str]:
    """Return the names of classes in id order and their file: a YAML, or a line for each.

    Looked for in root, in the folders of polygons and above; None where no file has them. Raises
    SegtrainError for a YAML of key points, whose lines look like polygons.
    """
    parts = {part for path in map(Path, folders) for part in (path, *path.parents)}
    for folder in sorted((root / part for part in parts), key=lambda path: (len(path.parts), path)):
        yamls = sorted(f for f in folder.iterdir() if f.suffix.lower() in (".yaml", ".yml"))
        for file in (*yamls, *(folder / name for name in NAME_FILES)):
            if not file.is_file():
                continue
            if file in yamls and KEY_POINTS.search(file.read_bytes()):
                raise SegtrainError(f"{file}: kpt_shape: the labels are key points, no polygons")
            with suppress(SegtrainError):  # it is no table of classes
                rows = read_rows(file)
                names = {
                    i if row.value is None else row.value: row.name for i, row in enumerate(rows)
                }
                whole = [names.get(i, str(i)) for i in range(max(names) + 1)]
                return whole, relative_path(file, root)
    return None, ""
