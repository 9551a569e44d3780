"""COCO folders: the JSON of each split, its images, and the classes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.data.coco import Coco, background_value, read_coco
from segtrain.data.findings import Finding
from segtrain.data.layouts.listed_files import FileFinder
from segtrain.data.layouts.pairing import (
    Fault,
    Group,
    Listing,
    relative_to_root,
    root_prefixes,
)
from segtrain.data.panoptic import PanopticMask
from segtrain.data.regions import LARGEST_VALUE, RegionMask
from segtrain.errors import SegtrainError, shorten
from segtrain.files.places import relative_path
from segtrain.files.whole import refuse_special

SPLIT_IN_NAME = re.compile(
    r"(?:^|[^a-z])(?:(train)(?:ing)?|(val)(?:id(?:ation)?)?|(test)(?:ing)?)(?![a-z])"
)
MOST_JSONS = 64  # a folder of more has one for each image, as labelme writes them
PROBED = 50  # images that are looked for to find their folder
BACKGROUND = ("background", "_background_", "__background__")
Jsons = dict[str, tuple[Path, list[Path]]]  # by split: the JSON, folders that may hold its images


def find_coco(config: DataConfig, root: Path) -> Listing | None:
    """Find annotations/*.json with image folders, or SPLIT/_annotations.coco.json with images.

    Also panoptic JSON files elsewhere: their masks would be taken for colours.
    """
    files: Jsons = {
        split: (root / folder / "_annotations.coco.json", [root / folder])
        for split, names in (("train", ("train",)), ("val", ("valid", "val")), ("test", ("test",)))
        for folder in names[::-1]
        if (root / folder / "_annotations.coco.json").is_file()
    }
    unread: list[Path] = []
    if not files:
        jsons = list_jsons(root / "annotations") or [
            file for file in list_loose_jsons(root) if b'"segments_info"' in _read_start(file)
        ]  # the colours of panoptic masks mean nothing without their JSON
        files, unread = split_jsons(root, jsons)
    if "train" not in files:
        return None
    listing = list_coco(config, root, files, unread)
    if "panoptic" not in listing.layout or config.format == "coco":
        return listing
    # a panoptic JSON without any of its PNGs says nothing of the masks that are there
    return listing if any(masks for of in listing.groups.values() for _, masks in of) else None


def find_loose_coco(config: DataConfig, root: Path) -> Listing | None:
    """Find COCO JSON files in root, its folders and their annotations folders, by their content.

    For the end of all layouts. Raises SegtrainError where none of them is the training split's.
    """
    if not root.is_dir():
        return None
    found = [file for file in list_loose_jsons(root) if is_coco(file)]
    files, unread = split_jsons(root, found)
    if not found or "train" in files:
        return list_coco(config, root, files, unread) if files else None
    jsons = [relative_path(file, root) for file in found]
    raise SegtrainError(
        f"{root}: which COCO JSON is for training? found {shorten(jsons, 8)}; name it with "
        f"data.splits: {{train: {{coco: {jsons[0]}, images: ...}}}}"
    )


def list_loose_jsons(root: Path) -> list[Path]:
    """Return the JSON files in root, its folders and their annotations folders."""
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
    folders = [root, *(root / name for name in names)]
    folders += [folder / "annotations" for folder in folders[1:]]
    return [file for folder in folders for file in list_jsons(folder)]


def list_jsons(folder: Path) -> list[Path]:
    """Return the JSON files of a folder, without hidden ones and labelme's."""
    if not folder.is_dir():
        return []
    names = [n for n in os.listdir(folder) if n.lower().endswith(".json") and n[0] != "."]
    if len(names) > MOST_JSONS:
        return []
    files = (folder / name for name in names)
    return sorted(file for file in files if b'"shapes"' not in _read_start(file, 4096))


def is_coco(file: Path) -> bool:
    """Return whether a file holds the keys of a COCO JSON."""
    content = _read_start(file)
    return b'"images"' in content and (b'"annotations"' in content or b'"categories"' in content)


def _read_start(file: Path, size: int = -1) -> bytes:
    try:
        refuse_special(file)
        with open(file, "rb") as stream:
            return stream.read(size)
    except OSError:  # it is reported where it is read
        return b""


def split_jsons(root: Path, files: Sequence[Path]) -> tuple[Jsons, list[Path]]:
    """Return the JSON files by the splits that their names or folders tell, and those of none.

    A single one is train. Raises SegtrainError where a split has two.
    """
    # COCO keeps captions_*.json and person_keypoints_*.json in the same folder
    files = [f for f in files if f.name.startswith("instances")] or files
    found: Jsons = {}
    unread = []
    for file in files:
        named = (file.stem, *file.relative_to(root).parent.parts)
        matches = (SPLIT_IN_NAME.search(name.lower()) for name in named)
        match = next(filter(None, matches), None)
        if match is None and len(files) > 1:
            unread.append(file)
            continue
        split = match[match.lastindex or 0] if match else "train"
        if split in found:
            raise SegtrainError(
                f"{found[split][0]} and {file.name} are both for {split}; choose with "
                f"data.splits: {{{split}: {{coco: {file.relative_to(root)}, images: ...}}}}"
            )
        found[split] = file, image_folders(root, file, split)
    return found, unread


def image_folders(root: Path, file: Path, split: str) -> list[Path]:
    """Return the folders that may hold the images of a split's JSON, the likely ones first."""
    year = re.split(r"[_.]", file.stem)[-1]  # train2017 of instances_train2017
    folders = [below / name for name in (year, split) for below in (root, root / "images")]
    beside = [file.parent / "images", file.parent / "data", file.parent]
    return [*folders, root / "images", *beside, root / "data", root]


def list_coco(config: DataConfig, root: Path, files: Jsons, unread: Sequence[Path] = ()) -> Listing:
    """List the images and masks of the COCO JSON of each split, without splits that have no region.

    `unread` are JSON files that are named in a note. Raises SegtrainError where train has no
    region, or where the JSON files contradict each other.
    """
    cocos = {split: read_coco(file) for split, (file, _) in files.items()}
    listing = Listing({}, "")
    for split, coco in cocos.items():
        listing.findings += _list_notes(split, coco, relative_path(coco.file, root))
    for file in unread:
        text = f"{relative_path(file, root)} is not read: its name tells no split"
        listing.findings.append(Finding("unread", False, text))
    labelled = {split: coco for split, coco in cocos.items() if coco.is_labelled}
    if not labelled or "train" in cocos.keys() - labelled.keys():
        coco = cocos.get("train") or next(iter(cocos.values()))
        strays = f", but {coco.strays} of images that it doesn't list" if coco.strays else ""
        raise SegtrainError(
            f"{coco.file}: it has no region to learn in {len(coco.images)} image(s){strays}"
        )
    categories = merge_categories(list(labelled.values()))
    panoptic = {coco.is_panoptic for coco in labelled.values()}
    if len(panoptic) > 1:
        raise SegtrainError(f"{root}: some of its COCO JSON files are panoptic, others are not")
    background, empty = background_value(categories), find_empty(categories, labelled.values())
    if empty:
        unused = ", ".join(repr(categories[value]) for value in empty)
        text = f"no class: {unused} (without annotations; all others' group, or the background)"
        listing.findings.append(Finding("group", False, text))
    kept = {value: name for value, name in categories.items() if value not in empty}
    listing.classes, listing.label_map = number_categories(kept, background, True in panoptic)
    named = []
    for split, coco in labelled.items():
        find = ImageFinder(root, [name for name, _ in coco.images], files[split][1])
        listing.groups[split], faults = _pair_images(config, root, coco, find, background)
        listing.faults |= faults
        missing = sum(fault[0] == "missing" for fault in faults.values())
        if missing == len(coco.images) > 0:
            _refuse_images_above(root, coco, split)
        named.append(f"{relative_path(coco.file, root)} + {relative_path(find.folder, root)}")
    listing.layout = ", ".join(named) + (
        "; panoptic masks, pixels without a segment are ignored"
        if True in panoptic
        else "; masks are drawn, smaller objects over larger ones, background is class 0"
    )
    counts = Counter(kept.values())
    if twice := sorted(name for name, count in counts.items() if count > 1):
        listing.layout += f"; a class for each id of {shorten(map(repr, twice))}"
    return listing


def _list_notes(split: str, coco: Coco, source: str) -> list[Finding]:
    notes = {
        "sliver": (coco.slivers, f"{coco.slivers} annotation(s) of fewer than three points"),
        "stray": (coco.strays, f"{coco.strays} annotation(s) of images that it doesn't list"),
        "renumbered": (
            coco.renumbered,
            f"category ids are not all numbers of 0 to {LARGEST_VALUE}: the values of masks are "
            "1, 2, ... in the order of categories",
        ),
        "unlabelled": (
            not coco.is_labelled,
            f"no region in its {len(coco.images)} image(s): {split} is left out",
        ),
    }
    return [Finding(kind, False, f"{source}: {text}") for kind, (on, text) in notes.items() if on]


def merge_categories(cocos: Sequence[Coco]) -> dict[int, str]:
    """Return the categories of all splits. Raises SegtrainError where one has two ids or names."""
    merged: dict[int, str] = {}
    for coco in cocos:
        other = set(coco.categories.items())
        names = {name for _, name in other} & set(merged.values())
        differing = sorted(
            (key, name)
            for key, name in other ^ set(merged.items())
            if name in names or key in coco.categories and key in merged
        )
        if differing:
            raise SegtrainError(
                f"{cocos[0].file} and {coco.file} have different categories: "
                + shorten(f"{key} {name!r}" for key, name in differing)
                + "; give each category one id and one name in all files"
            )
        merged |= coco.categories
    return dict(sorted(merged.items()))


def find_empty(categories: Mapping[int, str], cocos: Iterable[Coco]) -> set[int]:
    """Return unused categories that are no class: all others' group (Roboflow), background."""
    cocos = list(cocos)
    parents = {value: parent for coco in cocos for value, parent in coco.parents.items()}
    unused = set(categories).difference(*(coco.used for coco in cocos))
    return {
        value
        for value in unused
        if categories[value].lower() in BACKGROUND
        or len(categories) > 1
        and all(parents[v] == categories[value] for v in categories if v != value)
    }


def number_categories(
    categories: Mapping[int, str], background: int, panoptic: bool = False
) -> tuple[list[str], dict[int, int | str]]:
    """Return (class names, label map): the background, then the categories in id order.

    Panoptic masks have no background: the value `background` is ignored.
    """
    counts = Counter(categories.values())
    unique = [
        f"{name} ({key})" if counts[name] > 1 or name == "background" and not panoptic else name
        for key, name in categories.items()
    ]
    ids = {category: class_id for class_id, category in enumerate(categories, not panoptic)}
    if panoptic:
        return unique, {**ids, background: "ignore"}
    return ["background", *unique], {background: 0, **ids}


def _pair_images(
    config: DataConfig, root: Path, coco: Coco, find: ImageFinder, background: int
) -> tuple[list[Group], dict[str, Fault]]:
    """Return the images and masks of a JSON, sorted by name, and faults by path."""
    source, prefixes = relative_path(coco.file, root), root_prefixes(root)
    beside = [coco.file.with_suffix(""), coco.file.parent]
    pngs = [str(mask.png) for _, mask in coco.images if isinstance(mask, PanopticMask)]
    find_png = ImageFinder(root, pngs, beside)
    groups: list[Group] = []
    faults: dict[str, Fault] = {}
    for name, mask in coco.images:
        file = find(name)
        path = relative_to_root(file or os.path.join(find.folder, name), prefixes)
        # a downloaded JSON must not make training read any file of the disk
        if os.path.isabs(path) and not config.allow_outside:
            faults[path] = ("outside", source)
        elif not file:
            faults[path] = ("missing", source, "file")
        elif name in coco.boxes:
            faults[path] = ("box", source)
        elif isinstance(mask, RegionMask):
            upright = config.exif is not False
            mask = replace(mask, background=background, image=Path(file), upright=upright)
        elif isinstance(mask, PanopticMask):
            png = find_png(str(mask.png))
            mask = replace(mask, png=Path(png), void=background) if png else None
        groups.append(([path], [mask] if mask else []))
    groups.sort(key=lambda pair: (Path(pair[0][0]).stem, pair[0][0]))
    return groups, faults


def _refuse_images_above(root: Path, coco: Coco, split: str) -> None:
    """Raise SegtrainError where a JSON's images are beside its folder, which is the data set's."""
    for folder in image_folders(root.parent, coco.file, split):
        if folder.is_dir() and FileFinder(root.parent, [folder]).exists(coco.images[0][0]):
            raise SegtrainError(
                f"{coco.file}: its images are in {folder}, outside {root}; give {root.parent} as "
                f"data.path, and data.splits: {{{split}: {{coco: "
                f"{coco.file.relative_to(root.parent)}}}}} if it holds several JSON files"
            )


class ImageFinder:
    """A finder of the files of images, by names whose folders may lack or be others', as in lists.

    It searches the folder that holds most of them, and root. Where no folder holds any, it searches
    all of root for files of these names.
    """

    def __init__(self, root: Path, names: Sequence[str], folders: Sequence[Path]):
        existing = [folder for folder in folders if folder.is_dir()] or [root]
        probed = names[:: len(names) // PROBED + 1]
        hits = {f: sum(map(FileFinder(root, [f]).exists, probed)) for f in existing}
        self.folder = max(hits, key=hits.__getitem__)  # the first of the best
        self.finder = FileFinder(root, (self.folder, root))
        self.elsewhere: dict[str, list[str]] = {}
        for parent, _, files in os.walk(root) if names and not hits[self.folder] else ():
            for entry in files:
                self.elsewhere.setdefault(entry, []).append(os.path.join(parent, entry))
        if first := next(
            (file for name in probed if self.elsewhere and (file := self(name))), None
        ):
            self.folder = Path(first).parent

    def __call__(self, name: str) -> str | None:
        """Return the path of an image's file, None where there is none or several could be it."""
        if not self.elsewhere:
            return next(iter(self.finder.find_all(name)), None)
        found = self.elsewhere.get(re.split(r"[/\\]", name)[-1], [])
        return found[0] if len(found) == 1 else None
