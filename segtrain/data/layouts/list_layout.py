"""Lists and tables in a folder: pairs, run lengths, or the splits of pairs that folders hold."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.explicit import find_splits
from segtrain.data.layouts.folder_words import SPLIT_OF, SPLIT_WORDS, read_name
from segtrain.data.layouts.listed_files import NameIndex
from segtrain.data.layouts.lists import is_name_list, names_pairs, read_name_list
from segtrain.data.layouts.pairing import Group, Listing, files_by_stem
from segtrain.data.layouts.run_length_tables import is_run_table, list_run_lengths
from segtrain.errors import UsageError, shorten
from segtrain.files.places import relative_path

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list", ".jsonl")
LIST_FOLDERS = (
    "splits split lists list sets imagesets segmentation main annotations meta filelists".split()
)
TABLES = ("data", "dataset", "metadata", "index", "pairs", "all")  # of several, the one to use
UNREAD = (".json", ".odgt", ".yaml", ".pkl", ".mat")
DIVIDING = {"split", "fold", "partition"}  # words in names such as nnU-Net's splits_final.json
SUBMISSION = re.compile(r"(?i)submi|sample|solution|stub")
MOST_LISTS = 50  # files that may be lists; a folder of labels has thousands of .txt


def splits_of(file: Path, config: DataConfig) -> dict[str, SplitConfig]:
    """Return the splits of a list or JSON as data.path: it is train, val.txt beside it is val.

    Raises UsageError for any other file.
    """
    if config.splits:
        raise UsageError(f"data.path {file} is a file; give its folder, or leave out data.splits")
    suffix = file.suffix.lower()
    if suffix not in (*LIST_SUFFIXES, ".json"):
        raise UsageError(
            f"data.path {file}: expected a folder, a list ({', '.join(LIST_SUFFIXES)}) or a COCO "
            "JSON"
        )
    known = ("coco",) if suffix == ".json" else ("lists", "rle")
    if config.format not in ("auto", *known):
        raise UsageError(f"data.format {config.format}: data.path {file} is not of that format")
    if suffix == ".json":
        return {"train": SplitConfig(coco=file.name)}
    beside = list_files(file.parent, False) if file.stem.lower() in SPLIT_WORDS["train"] else []
    beside = [other for other in beside if is_run_table(other) == is_run_table(file)]
    if not is_run_table(file):
        beside = [other for other in beside if names_pairs(other, file.parent)]
    named = by_split(beside, file.parent) | {"train": file}
    return {split: SplitConfig(list=other.name) for split, other in named.items()}


def list_files(root: Path, below: bool = True) -> list[Path]:
    """Return the files that may be lists: in root, then in its folders of lists.

    In folders of splits, only Hugging Face's metadata: other files may be an image's labels.
    """

    def walk(folder: Path, depth: int) -> Iterator[Path]:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries)
        names = [(name, is_dir) for name, is_dir in names if name[0] != "."]
        files = [n for n, is_dir in names if not is_dir and n.lower().endswith(LIST_SUFFIXES)]
        yield from (folder / name for name in files if len(files) <= MOST_LISTS)
        for name, is_dir in names if depth else ():
            if is_dir and name.lower() in LIST_FOLDERS:
                yield from walk(folder / name, depth - 1)
            elif is_dir and name.lower() in SPLIT_OF:
                yield from (folder / name).glob("metadata.[cj]s*")

    return list(walk(root, 2 * below)) if root.is_dir() else []


def by_split(files: Collection[Path], root: Path) -> dict[str, Path]:
    """Return the list of each split, by its name or folder: train.txt before train_list.txt.

    A split of which several lists have such names has none.
    """
    found: dict[str, Path] = {}
    for split, words in SPLIT_WORDS.items():
        named = [file for file in files if _split_of(file, root) == split]
        exact = [file for file in named if file.stem.lower() in words]
        if exact or len(named) == 1:
            found[split] = (exact or named)[0]
    return found


def _split_of(file: Path, root: Path) -> str | None:
    return read_name(relative_path(file.with_suffix(""), root)).split


def find_lists(config: DataConfig, root: Path) -> Listing | None:
    """Find lists of pairs: train.txt, val.txt and test.txt, metadata.csv in each, or one table.

    They come before folders without splits, which they divide, and after folders with splits.
    """
    return _find_lists(config, root, existing=True)


def find_missing_lists(config: DataConfig, root: Path) -> Listing | None:
    """Find lists of pairs of which nothing is there, which becomes an error that says so."""
    return _find_lists(config, root, existing=False)


def _find_lists(config: DataConfig, root: Path, existing: bool) -> Listing | None:
    files = [file for file in list_files(root) if not is_run_table(file)]
    of_splits = [file for file in files if _split_of(file, root)]
    named = by_split([file for file in of_splits if names_pairs(file, root, existing)], root)
    if "train" in named:  # a split of which nothing is there is no reason to hold one out
        named = by_split([f for f in of_splits if names_pairs(f, root)], root) | named
    elif named and not existing or config.format == "lists":  # a damaged list becomes an error
        named = by_split(of_splits, root)
    if "train" not in named:
        others = [file for file in files if file not in of_splits]
        tables = [file for file in others if names_pairs(file, root, existing)]
        known = [f for name in TABLES for f in tables if f.stem.lower() == name]
        if not known and len(tables) != 1:
            return None
        named = {"train": (known or tables)[0]}
    splits = {name: SplitConfig(list=relative_path(file, root)) for name, file in named.items()}
    listing = find_splits(config.model_copy(update={"splits": splits}), root)
    return _count_unlisted(listing, root)


def find_run_lengths(config: DataConfig, root: Path) -> Listing | None:
    """Find tables of run lengths: train.csv and val.csv, or the only one; no submissions."""
    files = [f for f in list_files(root) if is_run_table(f) and not SUBMISSION.search(f.name)]
    named = by_split(files, root)
    others = [file for file in files if not _split_of(file, root)]
    if "train" not in named and len(others) == 1:
        named["train"] = others[0]
    if "train" not in named:
        return None
    tables = {split: file for split, file in named.items() if split != "test"}
    return _count_unlisted(list_run_lengths(config, root, tables), root)


def _count_unlisted(listing: Listing, root: Path) -> Listing:
    """Add to the description the images beside the listed ones that no list names."""
    groups = [group for of_split in listing.groups.values() for group in of_split]
    listed = {str(path) for images, _ in groups for path in images}
    masks = {str(path) for _, of_group in groups for path in of_group}
    folders = {os.path.dirname(path) for path in listed} - {os.path.dirname(path) for path in masks}
    beside = (path for f in folders for paths in files_by_stem(root, f).values() for path in paths)
    if count := sum(path not in listed for path in beside):
        listing.layout += f"; {count} image(s) beside them that no list names left out"
    return listing


def _name_unread(root: Path) -> list[str]:
    """Return the files in root that seem to divide it, in formats that aren't read."""
    files = sorted(file for ending in UNREAD for file in root.glob(f"*{ending}"))
    names = [(file.name, read_name(file.stem)) for file in files]
    return [name for name, words in names if words.split or not DIVIDING.isdisjoint(words.words)]


def divide_by_lists(listing: Listing, root: Path) -> Listing:
    """Return a listing without splits, divided by the lists of names beside its folders.

    These are train.txt, val.txt and test.txt, or a table with a column that names splits. Without
    a list for train, it is what the others leave.
    """
    if listing.groups.keys() != {"train"}:
        return listing
    if others := _name_unread(root):
        listing.layout += f" ({shorten(others)} not read: splits are lists of names, .txt or .csv)"
    files = [file for file in list_files(root) if not is_run_table(file)]
    if not files:
        return listing
    groups = listing.groups["train"]
    index = NameIndex(groups)
    lists = [file for file in files if is_name_list(file, index)]
    named: Mapping[str, Path] = by_split(lists, root)
    read = {file: read_name_list(file, groups, index, root) for file in named.values()}
    for file in lists if not named else ():
        listed = read_name_list(file, groups, index, root)
        if "" not in listed.groups:
            named, read = {"": file}, {file: listed}
            break
        listing.layout += f" ({listed.note})" if listed.note else ""
    unread = [f for f in files if _split_of(f, root) and f not in named.values()]
    if unread:
        several = not {*unread}.isdisjoint(lists)
        why = "several for a split; choose with data.splits" if several else "no names of pairs"
        names = shorten(relative_path(file, root) for file in unread)
        listing.layout += f" ({names} not read: {why})"
    if not named:
        return listing
    divided: dict[str, list[Group]] = {}
    for split, file in named.items():
        divided |= read[file].of_split(split, len(named) == 1)
        listing.faults |= read[file].faults
    left_out: list[Group] = []  # often a test split's
    for name in [s for s in divided if s != "train"]:
        images_alone = {image for images, _ in divided[name] for image in images}
        if any(masks for _, masks in divided[name]):
            continue
        if name in listing.unlabelled:
            listing.faults = {p: f for p, f in listing.faults.items() if p not in images_alone}
        if images_alone.isdisjoint(listing.faults):
            left_out += divided.pop(name)
            listing.layout += f"; {name} left out: no masks" * (name not in listing.unlabelled)
    chosen = {id(group) for pairs in (*divided.values(), left_out) for group in pairs}
    rest = [group for group in groups if id(group) not in chosen]
    if "train" not in divided:
        divided = {"train": rest} | divided
        rest = []
    listing.groups = divided
    notes = [f"{relative_path(f, root)}{f' ({r.note})' * bool(r.note)}" for f, r in read.items()]
    listing.layout += f", divided by {', '.join(notes)}"
    if rest:
        listing.layout += f"; {len(rest)} that no list names left out"
    return listing
