"""Folders of images and masks: their files, with subfolders, by what the names share."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from segtrain.data.decoding import SUFFIXES
from segtrain.data.layouts.pairing import drop_zeros
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.files.places import relative_path

ONE_FILE = "A mask is one file with the class of each pixel"
Files = dict[str, list[str]]  # paths relative to root, by the name that pairs them
DEEPEST = 10  # levels of subfolders
MOST_FOLDERS = 20_000  # a home folder given by mistake must not take minutes


@dataclass(frozen=True)
class Side:
    """The images or the masks of a split: a folder, and what their names start and end with."""

    folder: str  # relative to root; * stands for any one name: */images
    start: str = ""
    end: str = ""  # of the stem, or of the whole name: _mask or _mask.png

    def __str__(self) -> str:
        cut = self.start or self.end
        return os.path.join(self.folder, f"{self.start}*{self.end}") if cut else self.folder

    def cut(self, name: str) -> str | None:
        """Return the part of a file's name between start and end; None for other names."""
        stem = name[: -len(suffix_of(name)) or None]
        if not self.start and not self.end:
            return stem
        for part in (name, stem) if self.end else (stem,):
            core = part[len(self.start) : len(part) - len(self.end)]
            if part.lower() == f"{self.start}{core}{self.end}".lower():
                return core
        return None

    def find_folders(self, root: Path) -> list[tuple[str, str]]:
        """Return (folder, what * stands for in it, or nothing) of each that exists."""
        if "*" not in self.folder:
            return [(self.folder, "")] if (root / self.folder).is_dir() else []
        starred = [i for i, part in enumerate(Path(self.folder).parts) if part == "*"]
        found = [path.relative_to(root) for path in root.glob(self.folder) if path.is_dir()]
        return [(str(path), os.path.join(*(path.parts[i] for i in starred))) for path in found]


def suffix_of(name: str) -> str:
    """Return the extension of a file's name, as SUFFIXES has it; quicker than os.path.splitext."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def join_path(folder: str, name: str) -> str:
    """Return the path of a file in a folder, both relative to root."""
    return name if folder == "." else f"{folder}/{name}"


def walk_folder(
    root: Path, folder: str = "", skip: Collection[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Yield (path relative to root, names of its files) of a folder and its subfolders.

    Hidden files and folders are left out, and the folders in `skip`, and what lies deeper than
    DEEPEST. Raises SegtrainError for an unreadable folder and for more than MOST_FOLDERS.
    """
    waiting, seen = [(os.path.normpath(folder), 0)], set()
    while waiting:
        path, depth = waiting.pop()
        where = os.path.join(root, path)
        names, below = [], []
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    if entry.name[0] == "." or entry.name == "__MACOSX":
                        continue
                    # a dangling link is a file, and becomes a finding when it is read
                    if entry.is_dir():
                        below.append(entry.name)
                    else:
                        names.append(entry.name)
            status = os.stat(where)
        except OSError as error:
            raise SegtrainError(
                f"{where}: a folder that can't be read ({error.strerror})"
            ) from error
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it
            continue
        seen.add((status.st_dev, status.st_ino))
        if len(seen) > MOST_FOLDERS:
            raise SegtrainError(
                f"{root}: more than {MOST_FOLDERS:,} folders; give the data set's own folder, or "
                "name its folders with data.splits"
            )
        yield path, names
        deeper = (join_path(path, name) for name in sorted(below)[::-1])
        waiting += [(part, depth + 1) for part in deeper if part not in skip and depth < DEEPEST]


def list_sides(
    root: Path, images: Side, masks: Side, named: Collection[str]
) -> tuple[Files, Files]:
    """Return the files of both sides by subfolder and by what is left of their names.

    Where no subfolders are equal, names alone count if they are unique. `named` are the folders of
    all splits: files of one that lies in another are its own.
    """
    found = [
        _list_side(root, side, other, named) for side, other in ((images, masks), (masks, images))
    ]
    if any("/" in key for files in found for key in files):
        folded = [{drop_zeros(key) for key in files} for files in found]
        flat = [{os.path.basename(key): files for key, files in side.items()} for side in found]
        unique = all(len(short) == len(side) for short, side in zip(flat, found, strict=True))
        if folded[0].isdisjoint(folded[1]):
            named_alike = unique and not set(map(drop_zeros, flat[0])).isdisjoint(
                map(drop_zeros, flat[1])
            )
            found = flat if named_alike else _key_by_folder(found)
    return found[0], found[1]


def _key_by_folder(sides: list[Files]) -> list[Files]:
    """Return the files by subfolder alone where each has one image. Raises SegtrainError."""
    by_folder: list[Files] = [{}, {}]
    for files, side in zip(by_folder, sides, strict=True):
        for key, paths in side.items():
            files.setdefault(os.path.dirname(key), []).extend(paths)
    images, masks = by_folder
    if images.keys() != masks.keys() or any(len(paths) > 1 for paths in images.values()):
        return sides
    several = max(masks.values(), key=len)
    if len(several) > 1:
        raise SegtrainError(
            f"{os.path.dirname(several[0])} holds {len(several)} masks of one image, such as "
            f"{shorten(map(os.path.basename, sorted(several)), 2)}: one an object? {ONE_FILE}"
        )
    return by_folder


def _list_side(root: Path, side: Side, other: Side, named: Collection[str]) -> Files:
    """Return {subfolder/name without start and end: paths} of the files of one side."""
    found: Files = {}
    shared = os.path.normpath(side.folder) == os.path.normpath(other.folder)
    for folder, starred in side.find_folders(root):
        for path, names in walk_folder(root, folder, named):
            below = os.path.normpath(os.path.join(starred, relative_path(path, folder)))
            prefix = "" if below == "." else f"{below}/"
            for name in names:
                core = side.cut(name)
                if core is None or suffix_of(name) not in SUFFIXES:
                    continue
                if shared and len(side.start + side.end) < len(other.start + other.end):
                    if other.cut(name) is not None:  # who names more of it has it
                        continue
                found.setdefault(prefix + core, []).append(join_path(path, name))
    return found


def refuse_missing_folder(root: Path) -> None:
    """Raise UsageError where there is no folder of the data set."""
    if not root.is_dir():
        raise UsageError(
            f"data.path {root}: no such folder; if it has moved, give its new path with --data"
        )
