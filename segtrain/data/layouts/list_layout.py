"""Lists and tables in a folder: pairs, or the splits of pairs that folders hold."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.explicit import find_splits
from segtrain.data.layouts.folder_words import SPLIT_WORDS, read_name
from segtrain.data.layouts.lists import names_pairs, pairs_exist
from segtrain.data.layouts.name_lists import NameIndex, is_name_list, read_name_list
from segtrain.data.layouts.pairing import Group, Listing, files_by_stem
from segtrain.data.layouts.run_length_tables import is_run_table, list_run_lengths
from segtrain.errors import SegtrainError, UsageError, shorten

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list", ".jsonl")
LIST_FOLDERS = (
    "splits split lists list sets imagesets segmentation main annotations meta filelists".split()
)
TABLES = ("data", "dataset", "metadata", "index", "pairs", "all")
SUBMISSION = re.compile(r"(?i)submi|sample|solution|stub")
MOST_LISTS = 50  # files that may be lists; a folder of labels has thousands of .txt


Accepts = Callable[[Path], bool]  # whether a file is a list to use


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
    beside = by_split(list_files(file.parent, False)) if file.stem in SPLIT_WORDS["train"] else {}
    accepts = is_run_table if is_run_table(file) else partial(names_pairs, root=file.parent)
    return {
        split: SplitConfig(list=other.name)
        for split, other in (beside | {"train": file}).items()
        if split == "train" or accepts(other)
    }


def list_files(root: Path, below: bool = True) -> list[Path]:
    """Return the files that may be lists: those in root, then those in its folders of lists."""

    def walk(folder: Path, depth: int) -> Iterator[Path]:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir()) for entry in entries)
        names = [(name, is_dir) for name, is_dir in names if name[0] != "."]
        files = [n for n, is_dir in names if not is_dir and n.lower().endswith(LIST_SUFFIXES)]
        yield from (folder / name for name in files if len(files) <= MOST_LISTS)
        for name, is_dir in names if depth else ():
            if is_dir and name.lower() in LIST_FOLDERS:
                yield from walk(folder / name, depth - 1)

    return list(walk(root, 2 * below)) if root.is_dir() else []


def by_split(files: list[Path], accepts: Accepts = lambda _: True) -> dict[str, Path]:
    """Return the accepted list of each split, by its name: train.txt before train_list.txt.

    A split of which several lists have such names has none.
    """
    found: dict[str, Path] = {}
    for split, words in SPLIT_WORDS.items():
        exact = [file for file in files if file.stem.lower() in words]
        named = [file for file in files if read_name(file.stem).split == split]
        both = [f for f in files if split == "train" and f.stem.lower() == "trainval"]
        for some in (exact, named, both):
            accepted = [file for file in some if accepts(file)]
            if accepted and (len(accepted) == 1 or some is exact):
                found[split] = accepted[0]
                break
    return found


def find_lists(config: DataConfig, root: Path) -> Listing | None:
    """Find lists of pairs: train.txt, val.txt and test.txt, metadata.csv in each, or one table.

    They come before folders without splits, which they divide, and after folders with splits.
    """
    return _find_lists(config, root, partial(pairs_exist, root=root))


def find_missing_lists(config: DataConfig, root: Path) -> Listing | None:
    """Find lists of pairs of which nothing is there, which becomes an error that says so."""
    return _find_lists(config, root, partial(names_pairs, root=root))


def _find_lists(config: DataConfig, root: Path, accepts: Accepts) -> Listing | None:
    files = [file for file in list_files(root) if not is_run_table(file)]
    named = by_split(files, lambda file: config.format == "lists" or accepts(file))
    if "train" in named:  # a split of which nothing is there is no reason to hold one out
        named |= by_split([f for f in files if names_pairs(f, root)])
    if "train" not in named:
        named = {
            split: file
            for split, words in SPLIT_WORDS.items()
            for folder in words[::-1]
            for name in ("metadata.csv", "metadata.jsonl")
            if (file := root / folder / name).is_file() and accepts(file)
        }
    if "train" not in named:
        named = _find_table(config, root, files, accepts)
    if not named:
        return None
    splits = {name: SplitConfig(list=os.path.relpath(file, root)) for name, file in named.items()}
    listing = find_splits(config.model_copy(update={"splits": splits}), root)
    listing.layout += _count_unlisted(listing, root)
    return listing


def find_run_lengths(config: DataConfig, root: Path) -> Listing | None:
    """Find tables of run lengths: train.csv and val.csv, or the only one; no submissions."""
    files = [file for file in list_files(root) if is_run_table(file)]
    files = [file for file in files if not SUBMISSION.search(file.name)]
    named = by_split(files)
    if "train" not in named:
        others = [file for file in files if not read_name(file.stem).split]
        named |= {"train": others[0]} if len(others) == 1 else {}
    if "train" not in named:
        return None
    return list_run_lengths(config, root, {s: f for s, f in named.items() if s != "test"})


def _find_table(
    config: DataConfig, root: Path, files: list[Path], accepts: Accepts
) -> dict[str, Path]:
    """Return the one list of pairs that is of no split by its name; of several, one of TABLES."""
    tables = [f for f in files if not read_name(f.stem).split and accepts(f)]
    known = [f for name in TABLES for f in tables if f.stem.lower() == name]
    if len(tables) > 1 and not known and config.format == "lists":
        raise SegtrainError(
            f"{root}: {' and '.join(os.path.relpath(file, root) for file in tables)} are lists of "
            "pairs; give the one to use with --data, or name them with data.splits"
        )
    return {"train": (known or tables)[0]} if known or len(tables) == 1 else {}


def _count_unlisted(listing: Listing, root: Path) -> str:
    """Return the end of a description, about images beside the listed ones that no list names."""
    listed = {str(path) for groups in listing.groups.values() for g in groups for path in g[0]}
    masks = {str(path) for groups in listing.groups.values() for g in groups for path in g[1]}
    folders = {os.path.dirname(path) for path in listed} - {os.path.dirname(path) for path in masks}
    beside = (path for f in folders for paths in files_by_stem(root, f).values() for path in paths)
    count = sum(path not in listed for path in beside)
    return f"; {count} image(s) beside them that no list names left out" if count else ""


def divide_by_lists(listing: Listing, root: Path) -> Listing:
    """Return a listing without splits, divided by the lists of names beside its folders.

    These are train.txt, val.txt and test.txt, or a table with a column that names splits. Without
    a list for train, it is what the others leave.
    """
    if listing.groups.keys() != {"train"}:
        return listing
    groups = listing.groups["train"]
    files = [file for file in list_files(root) if not is_run_table(file)]
    index = NameIndex(groups)
    named = by_split(files, lambda file: is_name_list(file, index))
    read = {file: read_name_list(file, groups, index, root) for file in named.values()}
    if not named:
        for file in files:
            if is_name_list(file, index):
                listed = read_name_list(file, groups, index, root)
                if "" not in listed.groups:
                    named, read = {"": file}, {file: listed}
                    break
    unread = [f for f in files if read_name(f.stem).split and f not in named.values()]
    if unread:
        names = shorten(os.path.relpath(f, root) for f in unread)
        several = any(is_name_list(f, index) for f in unread)
        why = "several for a split; choose with data.splits" if several else "no names of pairs"
        listing.layout += f" ({names} not read: {why})"
    if not named:
        return listing
    divided: dict[str, list[Group]] = {}
    for split, file in named.items():
        divided |= read[file].of_split(split, len(named) == 1)
        listing.faults |= read[file].faults
    chosen = {id(group) for of_split in divided.values() for group in of_split}
    rest = [group for group in groups if id(group) not in chosen]
    if "train" not in divided:
        divided = {"train": rest} | divided
        rest = []
    listing.groups = divided
    listing.layout += f", divided by {', '.join(os.path.relpath(f, root) for f in named.values())}"
    if rest:
        listing.layout += f"; {len(rest)} that no list names left out"
    return listing
