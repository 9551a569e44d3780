"""Detection of a folder's layout, and its pairs of image and mask by split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from segtrain.config import DataConfig
from segtrain.data.decoding import SUFFIXES
from segtrain.data.findings import Finding
from segtrain.data.groups import draw_groups, draw_images, group_images
from segtrain.data.layouts.choose_pairs import find_folder_pairs
from segtrain.data.layouts.class_tables import name_classes
from segtrain.data.layouts.coco_layout import find_coco, find_loose_coco
from segtrain.data.layouts.contents import describe_contents
from segtrain.data.layouts.explicit import find_splits, named_format
from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.folders import refuse_missing_folder, walk_folder
from segtrain.data.layouts.list_layout import (
    divide_by_lists,
    find_lists,
    find_missing_lists,
    find_run_lengths,
    list_files,
    splits_of,
)
from segtrain.data.layouts.pair_finder import find_candidates
from segtrain.data.layouts.pairing import ClassSource, Listing, find_excluded, resolve_pairs
from segtrain.data.layouts.polygon_layout import find_polygons
from segtrain.data.layouts.published import (
    find_ade20k,
    find_camvid,
    find_camvid_rgb,
    find_cityscapes,
    find_voc,
)
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError

DIVIDED = ("pairs", "polygons")  # formats whose pairs lists of names may divide into splits


@dataclass(frozen=True)
class FoundPairs:
    """The pairs of each split, sorted by name, with the layout's classes and findings.

    Classes and label map are empty, colours None, where the layout defines none.
    """

    splits: dict[str, list[Sample]]
    format: str
    layout: str  # how the pairs were found, in one line
    classes: list[str] = field(default_factory=list)
    palette: list[tuple[int, int, int]] | None = None
    label_map: dict[int, int | str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    class_source: ClassSource = ClassSource()


def find_pairs(config: DataConfig, root: Path) -> FoundPairs:
    """Find the pairs below `root` by data.splits, by data.format, or by the first layout found.

    Root may also be a list or a COCO JSON, whose pairs are for training. Files that data.exclude
    names are left out; those that form no pair become findings. Without val, a share of train is
    held out by data.split_seed. Raises UsageError for a missing folder and a config that
    contradicts itself, SegtrainError where no layout or no pair is found.
    """
    if root.is_file():
        config, root = config.model_copy(update={"splits": splits_of(root, config)}), root.parent
    refuse_missing_folder(root)
    found = (named_format(config, root), find_splits(config, root)) if config.splits else None
    found = found or find_layout(root, config)
    if found is None:
        raise SegtrainError(explain_nothing(config, root))
    name, listing = found
    listing = name_classes(listing, name, config, root)
    if name in DIVIDED and not config.splits:
        listing = divide_by_lists(listing, root)
    excluded = find_excluded(listing, config.exclude, root) if config.exclude else set()
    result = resolve_pairs(listing, excluded)
    findings = listing.findings + result.findings
    if not all(result.pairs.values()):  # excluding all pairs of a split fixes nothing
        findings = [
            replace(f, fix={k: v for k, v in f.fix.items() if k != "exclude"}) for f in findings
        ]
    faulty = any(finding.error for finding in findings)  # they explain an empty split
    splits = {}
    for split, pairs in result.pairs.items():
        if not pairs and not faulty:
            where = listing.layout.replace(" + ", " and ")
            raise SegtrainError(
                f"{root}: no pairs found for {split} in {where}"
                + (f", {result.excluded} excluded" if result.excluded else "")
                + f"; looked for files of the same stem ending in {', '.join(sorted(SUFFIXES))}"
            )
        splits[split] = [
            Sample(Path(root, image), Path(root, mask) if isinstance(mask, str) else mask)
            for image, mask in pairs
        ]
    layout = listing.layout
    if "train" in splits and "val" not in splits and (len(splits["train"]) > 1 or not faulty):
        # drawn among the excluded, too: an exclusion must not move others from train to val
        drawn = resolve_pairs(listing, set()) if result.excluded else result
        candidates = [Path(root, image) for image, _ in drawn.pairs["train"]]
        splits = hold_out(splits, candidates, config, root)
        in_groups = " in whole groups of data.group_by" if config.group_by else ""
        held = f"{len(splits['val'])} held out for val{in_groups} by seed {config.split_seed}"
        layout += f" ({held})"
    if result.excluded:
        layout += f", {result.excluded} excluded"
    classes, palette, source = listing.classes or [], listing.palette, listing.class_source
    return FoundPairs(splits, name, layout, classes, palette, listing.label_map, findings, source)


def list_images(folder: Path) -> list[Path]:
    """Return the images directly in `folder`, sorted, without hidden files."""
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
    )


def find_split_folders(config: DataConfig, root: Path) -> Listing | None:
    """Find folders of images and masks by their names; where lists lie there, only split ones."""
    return find_folder_pairs(config, root, only_split=bool(list_files(root)))


def find_unsplit_folders(config: DataConfig, root: Path) -> Listing | None:
    """Find folders of images and masks by their names, where lists had to be tried before."""
    return find_folder_pairs(config, root) if list_files(root) else None


class Layout(NamedTuple):
    """A layout that can be detected."""

    name: str  # a value of data.format
    find: Callable[[DataConfig, Path], Listing | None]
    looks_for: str


# the most specific first: folders named train and images occur in most layouts
LAYOUTS = (
    Layout("voc", find_voc, "JPEGImages + SegmentationClass + ImageSets/Segmentation/train.txt"),
    Layout("cityscapes", find_cityscapes, "leftImg8bit/train + gtFine/train"),
    Layout(
        "ade20k",
        find_ade20k,
        "images/training + annotations/training with objectInfo150.txt or images named ADE_*",
    ),
    Layout("camvid", find_camvid, "train + trainannot with frames such as 0001TP_006690.png"),
    Layout(
        "camvid-rgb",
        find_camvid_rgb,
        "701_StillsRaw_full + LabeledApproved_full, or train + train_labels, masks named X_L.png",
    ),
    Layout("coco", find_coco, "annotations/*train*.json, or train/_annotations.coco.json"),
    Layout("pairs", find_split_folders, "folders of images and masks whose names agree"),
    Layout(
        "lists", find_lists, "train.txt, data.csv or another list with 'image mask' on each line"
    ),
    Layout("pairs", find_unsplit_folders, "folders that data.splits names"),
    Layout("rle", find_run_lengths, "a table of run lengths: train.csv of ImageId, EncodedPixels"),
    Layout("coco", find_loose_coco, "a COCO JSON in the folder itself, or in one of its folders"),
    Layout("polygons", find_polygons, "YOLO's .txt or labelme's .json of polygons for each image"),
    Layout("lists", find_missing_lists, "the same, of which nothing is there"),
)


def find_layout(root: Path, config: DataConfig | None = None) -> tuple[str, Listing] | None:
    """Return name and files of the first of LAYOUTS found below root, or of data.format's alone."""
    config = config or DataConfig()
    for row in LAYOUTS:
        if config.format in ("auto", row.name) and (listing := row.find(config, root)):
            return row.name, listing
    return None


def explain_nothing(config: DataConfig, root: Path) -> str:
    """Return the message about a folder without a data set: what it holds, and what to name."""
    meaning = read_name(root.name)
    is_part = meaning.template == "*" or all(map(meaning.is_role, meaning.words))
    text = f"{root}: no data set found; " + (f"did you mean {root.parent}? " if is_part else "")
    if config.format != "auto":
        rows = [row for row in LAYOUTS if row.name == config.format]
        text += "; ".join(f"{row.name}: {row.looks_for}" for row in rows) + "; "
    tree = list(walk_folder(root))
    lines = [str(candidate) for candidate in find_candidates(tree)[:2]]
    way = ", or ".join(lines) or "data.splits: {train: {images: ..., masks: ...}}"
    return text + f"{describe_contents(tree)}; name images and masks with {way}"


def hold_out(
    splits: dict[str, list[Sample]], candidates: list[Path], config: DataConfig, root: Path
) -> dict[str, list[Sample]]:
    """Return the splits with a share of the images `candidates`, at least one, moved to val.

    The draw depends on `candidates` and the config only; of the images drawn, val gets those in
    train. Raises SegtrainError where nothing is left on one side.
    """
    pairs, fraction, seed = splits["train"], config.val_fraction, config.split_seed
    for drawn in (candidates, [pair.image for pair in pairs]):  # all images drawn may be excluded
        if config.group_by:
            groups = group_images(drawn, config.group_by, root)
            held = draw_groups(drawn, groups, fraction, seed)
        else:
            held = draw_images(drawn, fraction, seed)
        train = [pair for pair in pairs if pair.image not in held]
        val = [pair for pair in pairs if pair.image in held]
        if train and val:
            break
    else:
        raise SegtrainError(f"{pairs[0].image}: one pair is too few to hold one out for val")
    others = {split: samples for split, samples in splits.items() if split != "train"}
    return {"train": train, "val": val} | others
