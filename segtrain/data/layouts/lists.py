"""List files: each line has a name, or the paths of an image and a mask."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path

from segtrain.data.decoding import SUFFIXES
from segtrain.data.layouts.pairing import Fault, Group, relative_to_root, root_prefixes
from segtrain.errors import SegtrainError, UsageError

LIST_SUFFIXES = (".txt", ".csv", ".tsv")
IMAGE_COLUMN = re.compile(r"image|img|photo", re.IGNORECASE)
MASK_COLUMN = re.compile(r"mask|label|annot|target|segm", re.IGNORECASE)


def read_lines(file: Path) -> list[str]:
    """Return the lines that are neither empty nor comments (#).

    Raises UsageError for a missing file, SegtrainError for an unreadable one.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # spreadsheets write a BOM
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"data.splits: {file}: no such list file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SegtrainError(f"{file}: not a list that can be read ({error})") from error
    return [line.strip() for line in lines if line.strip(" ,\t") and line.lstrip()[0] != "#"]


def select_listed(
    file: Path, images: dict[str, list[str]], masks: dict[str, list[str]], root: Path
) -> tuple[list[Group], dict[str, Fault]]:
    """Return the files of the stems that a list names, and a fault for each unknown name.

    Names may have an extension.
    """
    known = images.keys() | masks.keys()
    chosen: dict[str, Group] = {}
    faults: dict[str, Fault] = {}
    for line in read_lines(file):
        stem = _stem_of(line, known)
        if stem is None:
            faults[line] = ("missing", os.path.relpath(file, root), "pair")
            chosen[line] = [line], []
        else:
            chosen[stem] = sorted(images.get(stem, ())), sorted(masks.get(stem, ()))
    return [chosen[name] for name in sorted(chosen)], faults


def _stem_of(line: str, known: Set[str]) -> str | None:
    """Return the stem that a line names: all of the line, or its first word."""
    first = line.replace(",", " ").split()[0]
    guesses = (line, Path(line).stem, first, Path(first).stem)
    return next((guess for guess in guesses if guess in known), None)


def names_pairs(file: Path) -> bool:
    """Return whether the first line of a list has an image and a mask."""
    lines = read_lines(file)
    return bool(lines) and len(_fields(lines[0])) > 1


def read_pairs(file: Path, root: Path, allow_outside: bool) -> tuple[list[Group], dict[str, Fault]]:
    """Return the pairs that a list names, sorted by the images' names, and faults of paths.

    Paths are separated by a tab, a comma or spaces. Paths with spaces are allowed: the line is
    divided where both sides are files. Paths are absolute, relative to the list or to root, or have
    a foreign prefix: then the longest suffix that is a file is used. A header line may name the
    columns. Raises SegtrainError for a line that is no pair.
    """
    lines = read_lines(file)
    columns = _columns(lines[0]) if lines else None
    find = partial(find_file, folders=list(dict.fromkeys((file.parent, root))))
    prefixes, source = root_prefixes(root), os.path.relpath(file, root)
    faults: dict[str, Fault] = {}
    groups = []
    for line in lines[columns is not None :]:
        pair: list[str] = []
        for path in _split(line, *(columns or (0, 1)), find, file):
            whole = find(path)
            if whole is None or [relative_to_root(whole, prefixes)] == pair:  # one file for both
                pair.append(path)
                faults[path] = ("missing", source, "file")
                continue
            pair.append(relative_to_root(whole, prefixes))
            if os.path.isabs(pair[-1]) and not allow_outside:
                faults[pair[-1]] = ("outside", source)
        groups.append(([pair[0]], [pair[1]]))
    return sorted(groups, key=lambda pair: (Path(pair[0][0]).stem, pair[0][0])), faults


def _columns(header: str) -> tuple[int, int] | None:
    """Return the columns of image and mask by a header line; None where it is no header."""
    fields = _fields(header)
    images = [i for i, name in enumerate(fields) if IMAGE_COLUMN.search(name)]
    masks = [i for i, name in enumerate(fields) if MASK_COLUMN.search(name) and i not in images]
    is_header = images and masks and not any("." in name or "/" in name for name in fields)
    return (images[0], masks[0]) if is_header else None


def _fields(line: str) -> list[str]:
    for separator in "\t,":
        if separator in line:
            return [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    return line.split()


def _split(line: str, image: int, mask: int, find: Callable, file: Path) -> tuple[str, str]:
    fields = _fields(line)
    if len(fields) > max(image, mask) and ("\t" in line or "," in line or len(fields) == 2):
        return fields[image], fields[mask]
    cuts = [(line[: space.start()], line[space.end() :]) for space in re.finditer(r"\s+", line)]
    named = [cut for cut in cuts if os.path.splitext(cut[0])[1].lower() in SUFFIXES]
    existing = [cut for cut in cuts if all(find(path) for path in cut)]
    if not named and not existing:
        raise SegtrainError(f"{file}: expected 'image mask' on each line, got {line!r}")
    return (existing or named)[0]


def find_file(path: str, folders: Sequence[Path]) -> str | None:
    """Return the file that a path names: absolute, or relative to one of the folders.

    Else the longest suffix of the path that is a file there; None where there is none.
    """
    path = os.path.normpath(path.replace("\\", "/"))
    for folder in folders:
        whole = os.path.join(folder, path)  # an absolute path stays as it is
        if os.path.isfile(whole):
            return whole
    parts = [part for part in path.split(os.sep) if part not in ("", os.pardir)]
    for start in range(len(parts)):
        for folder in folders:
            whole = os.path.join(folder, *parts[start:])
            if os.path.isfile(whole):
                return whole
    return None
