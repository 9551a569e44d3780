"""Lists of pairs: tables with the paths of an image and a mask in each row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.data.layouts.folder_words import Meaning, read_name
from segtrain.data.layouts.listed_files import FileFinder
from segtrain.data.layouts.pairing import Fault, Group, relative_to_root, root_prefixes
from segtrain.data.layouts.split_columns import ListedPairs, find_split_column
from segtrain.data.layouts.text_tables import Table, TableRow, has_image_suffix, read_table
from segtrain.errors import SegtrainError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jfif")  # of files that can't be masks
AGREE = 0.5  # share of a column's paths that have a word, to count as the column's


@dataclass(frozen=True)
class Columns:
    """The columns of a list's images and masks, and its header, empty if it has none."""

    image: int
    mask: int
    header: Sequence[str]
    has_header_row: bool
    note: str = ""


def open_list(file: Path, root: Path) -> tuple[Table, FileFinder]:
    """Read a list of pairs as the table in which most cells name files.

    Only where two columns do not, names without folders may be files anywhere below root.
    """
    finder = FileFinder(root, (file.parent, root))
    table = read_table(file, finder.exists, 2)
    bare = any(
        has_image_suffix(c) and not {"/", "\\"} & {*c} for r in table.sample for c in r.cells
    )
    if bare and len(_file_columns(table, finder)) < 2:
        finder.search_below = True
        below = read_table(file, finder.exists, 2)
        if len(_file_columns(below, finder)) > 1:
            return below, finder
        finder.search_below = False
    return table, finder


def names_pairs(file: Path, root: Path) -> bool:
    """Return whether most rows of a list name an image and a mask, which may be missing."""
    table, finder = open_list(file, root)
    named = [sum(map(has_image_suffix, row.cells)) > 1 for row in table.sample]
    return len(_file_columns(table, finder)) > 1 or 2 * sum(named) > len(named)


def pairs_exist(file: Path, root: Path) -> bool:
    """Return whether a list names images and masks that are there."""
    return len(_file_columns(*open_list(file, root))) > 1


def read_pairs(file: Path, root: Path, allow_outside: bool) -> ListedPairs:
    """Return the pairs that a list names, sorted by the images' names, and faults of paths.

    Separator, header and order of the columns are inferred; the columns whose cells are files are
    the image and the mask. Paths are absolute, relative to the list or to root, or have a foreign
    prefix: then the longest end that is a file is used. Raises SegtrainError for a row that is no
    pair, and where no pair of the list is there.
    """
    table, finder = open_list(file, root)
    columns = choose_columns(table, finder)
    rows = table.rows[columns.has_header_row :]
    taken = (columns.image, columns.mask)
    split = find_split_column(table, rows, columns.header, taken)
    prefixes, source = root_prefixes(root), os.path.relpath(file, root)
    faults: dict[str, Fault] = {}
    groups: dict[str, list[Group]] = {} if split else {"": []}
    whole = 0
    for row in rows:
        pair: list[str] = []
        for path, is_mask in zip(_paths(row, columns, table), (False, True), strict=True):
            found = _locate(path, is_mask, finder, file) if path else None
            inside = relative_to_root(found, prefixes) if found else None
            if inside is None or inside in pair:  # one file for both
                pair.append(path)
                if path:
                    faults[path] = ("missing", source, "file")
                continue
            pair.append(inside)
            if os.path.isabs(pair[-1]) and not allow_outside:
                faults[pair[-1]] = ("outside", source)
        whole += not any(faults.get(path, ("",))[0] == "missing" for path in pair) and all(pair)
        # without a mask, it is no pair
        named = groups.setdefault(split.split_of(row) if split else "", [])
        named.append(([pair[0]], [pair[1]] if pair[1] else []))
    if rows and not whole:
        raise _all_missing(table, columns, rows[0])
    unlabelled = [s for s, pairs in groups.items() if pairs and not any(m for _, m in pairs)]
    unlabelled = [s for s in unlabelled if s not in ("", "train")]
    groups = {s: pairs for s, pairs in groups.items() if s not in unlabelled}
    for of_split in groups.values():
        of_split.sort(
            key=lambda pair: (os.path.splitext(os.path.basename(pair[0][0]))[0], pair[0][0])
        )
    folded = f"{len(finder.folded)} names found in another case or Unicode form"
    dropped = f"{', '.join(unlabelled)} left out: no masks" if unlabelled else ""
    notes = (columns.note, split, table.coding, folded if finder.folded else "", dropped)
    return ListedPairs(groups, faults, "; ".join(str(note) for note in notes if note))


def _paths(row: TableRow, columns: Columns, table: Table) -> tuple[str, str]:
    """Return the cells of image and mask. Raises SegtrainError for a row that lacks one."""
    cells = row.cells + [""] * (table.width - len(row.cells))
    if len(row.cells) < 2 or len(cells) <= max(columns.image, columns.mask):
        raise _no_pair(table, row)
    return cells[columns.image], cells[columns.mask]


def _no_pair(table: Table, row: TableRow) -> SegtrainError:
    return SegtrainError(
        f"{table.file}: expected 'image mask' on each line, got {' '.join(row.cells)!r} in line "
        f"{row.number} ({table})"
    )


def _locate(path: str, is_mask: bool, finder: FileFinder, file: Path) -> str | None:
    found = finder.find_all(path)
    if len(found) > 1:  # the same name in several folders: words say which holds the masks
        folders = {whole: os.path.relpath(os.path.dirname(whole), finder.root) for whole in found}
        found = [whole for whole in found if read_name(folders[whole]).is_mask == is_mask]
        if len(found) != 1:
            raise SegtrainError(
                f"{file}: {path} is in {' and in '.join(sorted(folders.values()))}; name the "
                "folders with data.splits, with images, masks and list"
            )
    return found[0] if found else None


def _all_missing(table: Table, columns: Columns, row: TableRow) -> SegtrainError:
    image, mask = _paths(row, columns, table)
    return SegtrainError(
        f"{table.file}: none of its pairs is there; {table}, line {row.number} names the image "
        f"{image!r} and the mask {mask!r}, looked for as paths below {table.file.parent}, also "
        "without their first folders; give the folder that has them with --data, or fix the list"
    )


def _file_columns(table: Table, finder: FileFinder) -> list[int]:
    """Return the columns of which most cells name files, without repetitions of one."""
    counts = table.count_known(finder.exists)
    found: dict[tuple[str, ...], int] = {}
    for index, count in enumerate(counts):
        if count and 2 * count >= max(counts):
            names = tuple(str(finder.find_all(cell)) for cell in table.column(index))
            if not finder.search_below:
                found.setdefault(names, index)
            else:  # one name may be in several folders
                found[str(index),] = index
    return list(found.values())


def choose_columns(table: Table, finder: FileFinder) -> Columns:
    """Return the columns of images and masks: those of files, told apart by header and paths.

    Raises SegtrainError where header and paths contradict each other.
    """
    files = _file_columns(table, finder)
    if len(files) < 2:  # at least one is missing: by the ends of the names
        named = [[*map(has_image_suffix, table.column(index))] for index in range(table.width)]
        files = [index for index, ends in enumerate(named) if 2 * sum(ends) > len(ends)]
    first = table.rows[0].cells if table.rows else []
    has_header = len(first) > 1 and not any(
        index < len(first) and (finder.exists(first[index]) or _looks_like_path(first[index]))
        for index in (files if len(files) > 1 else range(len(first)))
    )
    words = [read_name(name) for name in (first if has_header else table.comment)]
    if not has_header and (len(words) != table.width or _tell_apart(words, files) is None):
        words = []
    header = (first if has_header else table.comment) if words else []
    if len(files) < 2 and words:
        files = [i for i, word in enumerate(words) if word.is_mask or word.is_image]
    if len(files) < 2:
        if table.rows:
            raise _no_pair(table, table.rows[0])
        return Columns(0, 1, header, False)
    image, mask, note = _assign(table, files, words)
    return Columns(image, mask, header, has_header, note)


def _looks_like_path(cell: str) -> bool:
    return has_image_suffix(cell) or "/" in cell or "\\" in cell


def _assign(table: Table, files: Sequence[int], words: Sequence[Meaning]) -> tuple[int, int, str]:
    """Return the columns of image and mask, and a note where the order decides nothing."""
    by_header = _tell_apart(words, files) if words else None
    by_path = _tell_apart(_path_words(table, files), files)
    photos = [
        index
        for index in files
        if all(cell.lower().endswith(PHOTO_SUFFIXES) for cell in table.column(index))
    ]
    by_type = (photos[0], next(i for i in files if i not in photos)) if len(photos) == 1 else None
    if by_header and by_path and by_path == by_header[::-1] and by_type != by_header:
        raise SegtrainError(
            f"{table.file}: by its header, column {by_header[1] + 1} is the mask, by its paths "
            f"column {by_path[1] + 1}, such as {table.column(by_path[1])[0]}; correct the header, "
            "or name images, masks and list with data.splits"
        )
    image, mask = by_header or by_path or by_type or (files[0], files[1])
    note = ""
    if image > mask and not by_header:
        why = "paths" if by_path else "type of file"
        note = f"column {mask + 1} is the mask, by its {why}"
    elif len(files) > 2:
        note = f"columns {image + 1} and {mask + 1} are image and mask"
    return image, mask, note


def _tell_apart(words: Sequence[Meaning], files: Sequence[int]) -> tuple[int, int] | None:
    """Return (image, mask) of the columns by words about them; None where these don't say."""
    masks = [i for i in files if i < len(words) and words[i].is_mask]
    masks = [i for i in masks if not words[i].is_rendering] or masks
    images = [i for i in files if i < len(words) and words[i].is_image]
    if len(files) == 2 and len(masks) == 1:
        images = [i for i in files if i not in masks]
    if len(files) == 2 and len(images) == 1:
        masks = [i for i in files if i not in images]
    masks = masks[:1] if len(files) > 2 else masks
    return (images[0], masks[0]) if images and len(masks) == 1 else None


def _path_words(table: Table, files: Sequence[int]) -> list[Meaning]:
    """Return the words that most paths of a column have, and not those of all columns."""
    common = {}
    for index in files:
        paths = table.column(index)
        counts = Counter(word for path in paths for word in read_name(path).words)
        common[index] = {word for word, count in counts.items() if count >= AGREE * len(paths)}
    shared = set.intersection(*common.values())
    return [
        Meaning("", None, frozenset(common.get(index, set()) - shared))
        for index in range(table.width)
    ]
