"""Lists of pairs, with an image and a mask in each row, and lists of the names of pairs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtrain.data.layouts.folder_words import Meaning, read_name
from segtrain.data.layouts.listed_files import FileFinder, NameIndex
from segtrain.data.layouts.pairing import (
    Fault,
    Group,
    group_by_stem,
    relative_to_root,
    root_prefixes,
)
from segtrain.data.layouts.text_tables import (
    Table,
    TableRow,
    divide_rows,
    has_image_suffix,
    read_table,
)
from segtrain.errors import SegtrainError
from segtrain.files.places import relative_path

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jfif")  # of files that can hardly be masks
NAME_HEADER = re.compile(  # of a column of names: ImageId, file_name, or pandas' index
    r"(?i)(?:unnamed.*|(?:[a-z]+[_ ])?"
    r"(?:image|img|photo|frame|file|mask|label|name|id|path|stem|sample|case|scene|tile|slide)s?"
    r"(?:[_ ]?(?:id|name|path|file|stem))*)?"
)


@dataclass(frozen=True)
class ListedPairs:
    """The pairs of a list by split, by "" where no column names splits."""

    groups: dict[str, list[Group]]
    faults: dict[str, Fault]
    note: str  # how the list was read, unless in the plainest way

    def of_split(self, name: str, alone: bool) -> dict[str, list[Group]]:
        """Return the pairs for a split of data.splits: those that the column says, else all.

        A list that is `alone` gives all the splits of its column.
        """
        if "" in self.groups:
            return {name: self.groups[""]}
        return self.groups if alone else {name: self.groups.get(name, [])}


def read_pairs(file: Path, root: Path, allow_outside: bool) -> ListedPairs:
    """Return the pairs that a list names, sorted by the images' names, and faults of paths.

    Separator, header and order of the columns are inferred; the columns whose cells are files are
    the image and the mask. Raises SegtrainError for a row that is no pair, and where no pair of the
    list is there.
    """
    table, finder = _open_list(file, root)
    if not table.lines:
        return ListedPairs({"": []}, {}, "")
    files = _file_columns(table, finder)
    if len(files) < 2:  # at least one is missing: by the ends of the names
        named = [sum(map(has_image_suffix, table.column(i))) for i in range(table.width)]
        files = [i for i, count in enumerate(named) if 2 * count > len(table.sample)]
    header, rows = table.split_header(
        files or range(table.width),
        lambda cell: finder.exists(cell) or has_image_suffix(cell) or "/" in cell or "\\" in cell,
    )
    if len(files) < 2:
        raise _no_pair(table, table.rows[0])
    image, mask, columns_note = _assign_columns(table, finder, files, header)
    by_split, split_note = divide_rows(table, header, rows, (image, mask))
    prefixes, source = root_prefixes(root), relative_path(file, root)
    faults: dict[str, Fault] = {}
    groups: dict[str, list[Group]] = {}
    for split, of_split in by_split.items():
        groups[split] = []
        for row in of_split:
            pair: list[str] = []
            for column in (image, mask):
                path = row.cells[column]
                found = _locate(path, column == mask, finder, file)
                inside = relative_to_root(found, prefixes) if found else path
                if not found or inside in pair:  # one file for both
                    inside = path
                    faults |= {path: ("missing", source, "file")} if path else {}
                elif os.path.isabs(inside) and not allow_outside:
                    faults[inside] = ("outside", source)
                pair.append(inside)
            if not pair[0]:
                raise _no_pair(table, row)
            groups[split].append(([pair[0]], [pair[1]] if pair[1] else []))
        groups[split].sort(key=lambda group: (Path(group[0][0]).stem, group[0][0]))
    missing = {path for path, fault in faults.items() if fault[0] == "missing"}
    every = [group for of_split in groups.values() for group in of_split]
    if rows and not any(m and missing.isdisjoint((i[0], str(m[0]))) for i, m in every):
        raise SegtrainError(
            f"{file}: none of its pairs is there; {table}, line {rows[0].number} names the image "
            f"{rows[0].cells[image]!r} and the mask {rows[0].cells[mask]!r}, looked for as paths "
            f"below {file.parent}, also without their first folders; give the folder that has them "
            "with --data, or fix the list"
        )
    kept, left_out = _leave_out(
        groups, [s for s, of in groups.items() if not any(m for _, m in of)]
    )
    notes = filter(None, (columns_note, split_note, table.coding, left_out))
    return ListedPairs(kept, faults, "; ".join(notes))


def names_pairs(file: Path, root: Path, existing: bool = False) -> bool:
    """Return whether most rows of a list name an image and a mask, which may be missing."""
    table, finder = _open_list(file, root)
    named = [sum(map(has_image_suffix, row.cells)) > 1 for row in table.sample]
    there = len(_file_columns(table, finder)) > 1
    return there or not existing and 2 * sum(named) > len(named)


def _open_list(file: Path, root: Path) -> tuple[Table, FileFinder]:
    """Read a list of pairs as the table in which most cells name files.

    Only where two columns do not, names without folders may be files anywhere below root.
    """
    finder = FileFinder(root, (file.parent, root))
    table = read_table(file, finder.exists, 2)
    if len(_file_columns(table, finder)) < 2:
        finder.search_below = True
        below = read_table(file, finder.exists, 2)
        if len(_file_columns(below, finder)) > 1:
            return below, finder
        finder.search_below = False
    return table, finder


def _file_columns(table: Table, finder: FileFinder) -> list[int]:
    """Return the columns of which most cells name files, without repetitions of one."""
    counts = table.count_known(finder.exists)
    found: dict[object, int] = {}
    for index, count in enumerate(counts):
        if count and 2 * count >= max(counts):
            files = tuple(str(finder.find_all(cell)) for cell in table.column(index))
            # one name may be in several folders
            found.setdefault(index if finder.search_below else files, index)
    return list(found.values())


def _assign_columns(
    table: Table, finder: FileFinder, files: Sequence[int], header: Sequence[str]
) -> tuple[int, int, str]:
    """Return the columns of image and mask, by header, paths or types, and a note about them.

    Raises SegtrainError where header and paths contradict each other.
    """
    cells = {index: [*filter(None, table.column(index))] for index in files}
    paths = {index: [*filter(finder.exists, cells[index])] or cells[index] for index in files}
    by_header = _tell_apart({index: read_name(header[index]) for index in files if header})
    words = {i: set.intersection(*(set(read_name(p).words) for p in paths[i])) for i in files}
    shared = set.intersection(*words.values())
    by_path = _tell_apart({i: Meaning("", None, frozenset(words[i] - shared)) for i in files})
    photos = [i for i in files if all(p.lower().endswith(PHOTO_SUFFIXES) for p in paths[i])]
    by_type = (photos[0], next(i for i in files if i not in photos)) if len(photos) == 1 else None
    if by_header and by_path and by_path == by_header[::-1] and by_type != by_header:
        raise SegtrainError(
            f"{table.file}: by its header, column {by_header[1] + 1} is the mask, by its paths "
            f"column {by_path[1] + 1}, such as {paths[by_path[1]][0]}; correct the header, or name "
            "images, masks and list with data.splits"
        )
    image, mask = by_header or by_path or by_type or files[:2]
    plain = by_header or image < mask and len(files) == 2
    return image, mask, "" if plain else f"image and mask are columns {image + 1} and {mask + 1}"


def _tell_apart(words: Mapping[int, Meaning]) -> tuple[int, int] | None:
    """Return (image, mask) of the columns by words about them; None where these don't say."""
    masks = [i for i, meaning in words.items() if meaning.is_mask]
    masks = [i for i in masks if not words[i].is_rendering] or masks
    images = [i for i, meaning in words.items() if meaning.is_image]
    images = images or [i for i in words if i not in masks]
    masks = masks or [i for i in words if i not in images]
    return (images[0], masks[0]) if images and masks else None


def _no_pair(table: Table, row: TableRow) -> SegtrainError:
    return SegtrainError(
        f"{table.file}: expected 'image mask' on each line, got {' '.join(row.cells)!r} in line "
        f"{row.number} ({table})"
    )


def _locate(path: str, is_mask: bool, finder: FileFinder, file: Path) -> str | None:
    found = finder.find_all(path)
    if len(found) > 1:  # the same name in several folders: words say which holds the masks
        folders = {whole: relative_path(os.path.dirname(whole), finder.root) for whole in found}
        found = [whole for whole in found if read_name(folders[whole]).is_mask == is_mask]
        if len(found) != 1:
            raise SegtrainError(
                f"{file}: {path} is in {' and in '.join(sorted(folders.values()))}; name the "
                "folders with data.splits, with images, masks and list"
            )
    return found[0] if found else None


def _leave_out(
    groups: Mapping[str, list[Group]], unlabelled: Collection[str]
) -> tuple[dict[str, list[Group]], str]:
    """Return the pairs without the splits, named by a column, that lack masks, and a note."""
    dropped = [split for split in unlabelled if split not in ("", "train")]
    kept = {split: of_split for split, of_split in groups.items() if split not in dropped}
    return kept, f"{', '.join(dropped)} left out: no masks" if dropped else ""


def read_name_list(
    file: Path, groups: Sequence[Group], index: NameIndex, root: Path
) -> ListedPairs:
    """Return the groups that a list names, sorted as they are, and faults of unknown names."""
    table = read_table(file, index.knows)
    counts = table.count_known(index.knows) or [0]
    column = counts.index(max(counts))
    header, rows = table.split_header(
        [column], lambda cell: index.knows(cell) or not NAME_HEADER.fullmatch(cell)
    )
    by_split, note = divide_rows(table, header, rows, [column])
    faults: dict[str, Fault] = {}
    found: dict[str, list[Group]] = {}
    unlabelled = []
    for split, of_split in by_split.items():
        names = [row.cells[column] or " ".join(row.cells) for row in of_split]
        places = {name: index.find(name) for name in names}
        known = sorted({place for place in places.values() if place is not None})
        unknown = [name for name, place in places.items() if place is None]
        found[split] = [*(groups[place] for place in known), *(([name], []) for name in unknown)]
        if not known:
            unlabelled.append(split)
        if known or split in ("", "train"):
            faults |= dict.fromkeys(unknown, ("missing", relative_path(file, root), "pair"))
    kept, left_out = _leave_out(found, unlabelled)
    notes = filter(None, (note, table.coding, left_out))
    return ListedPairs(kept, faults, "; ".join(notes))


def is_name_list(file: Path, index: NameIndex) -> bool:
    """Return whether at least half of the rows of a list name a group."""
    table = read_table(file, index.knows)
    return 2 * max(table.count_known(index.knows), default=0) >= max(1, len(table.sample))


def select_listed(
    file: Path, images: Mapping[str, list[str]], masks: Mapping[str, list[str]], root: Path
) -> ListedPairs:
    """Return the files of the stems that a list names, by split."""
    groups = group_by_stem(dict(images), dict(masks))
    stems = {path: stem for side in (images, masks) for stem, at in side.items() for path in at}
    names = [stems[str(next(iter((*group[0], *group[1]))))] for group in groups]
    return read_name_list(file, groups, NameIndex(groups, names), root)
