"""Lists of names: choices among pairs that folders hold, and splits of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from segtrain.data.layouts.pairing import Fault, Group, fold_name, group_by_stem
from segtrain.data.layouts.split_columns import ListedPairs, find_split_column
from segtrain.data.layouts.text_tables import Table, read_table

HEADER_WORDS = "image|img|file|mask|label|name|id|path|stem|sample|case"
HEADER = re.compile(rf"(?i)(?:unnamed.*|[a-z_ ]*(?:{HEADER_WORDS})[a-z_ ]*)?")
EXTENSION = re.compile(r"\.\w{1,5}$")


class NameIndex:
    """Groups of files by the names that a list may give them.

    These are paths and their ends without extension: of the images first, then of the masks, then
    what the names of both begin or end with. A name of several groups counts as unknown.
    """

    def __init__(self, groups: Sequence[Group], names: Sequence[str] = ()):
        self._tiers: list[dict[str, int]] = [{}, {}, {}]
        for index, name in enumerate(names):
            _add(self._tiers[0], name, index)
        for index, (images, masks) in enumerate(groups):
            files = [[path for path in side if isinstance(path, str)] for side in (images, masks)]
            for tier, paths in zip(self._tiers, files, strict=False):
                for path in paths:
                    parts = EXTENSION.sub("", path).split(os.sep)
                    for first in range(len(parts)):
                        _add(tier, "/".join(parts[first:]), index)
            if files[0] and files[1]:
                for part in _common_parts(files[0][0], files[1][0]):
                    _add(self._tiers[2], part, index)

    @cached_property
    def _folded(self) -> dict[str, int]:
        """The names of all tiers in one case and Unicode form."""
        folded: dict[str, int] = {}
        for tier in self._tiers:
            of_tier: dict[str, int] = {}
            for name, index in tier.items():
                _add(of_tier, fold_name(name), index)
            folded = of_tier | folded
        return folded

    def find(self, name: str) -> int | None:
        """Return the place of the group that a name, or the end of a path, means."""
        path = os.path.normpath(name.replace("\\", "/")).strip("/")
        for form in dict.fromkeys((path, EXTENSION.sub("", path))):
            parts = form.split("/")
            ends = ["/".join(parts[i:]) for i in range(len(parts)) if _is_path(parts[:i])]
            for tier in self._tiers:
                if found := [tier[end] for end in ends if end in tier]:
                    return found[0] if found[0] >= 0 else None
            if found := [
                self._folded[key] for end in ends if (key := fold_name(end)) in self._folded
            ]:
                return found[0] if found[0] >= 0 else None
        return None

    def knows(self, name: str) -> bool:
        """Return whether a name means a group."""
        return self.find(name) is not None


def _add(tier: dict[str, int], name: str, index: int) -> None:
    if tier.setdefault(name, index) != index:
        tier[name] = -1


def _is_path(above: Sequence[str]) -> bool:
    """Return whether what is cut off as folders is no other cell of the line."""
    return not any({",", ";", "|", "\t", '"'} & {*part} or EXTENSION.search(part) for part in above)


def _common_parts(image: str, mask: str) -> set[str]:
    """Return what the stems of both begin and end with."""
    stems = [EXTENSION.sub("", os.path.basename(path)) for path in (image, mask)]
    start = os.path.commonprefix(stems).rstrip("_-. ")
    end = os.path.commonprefix([stem[::-1] for stem in stems])[::-1].lstrip("_-. ")
    return {part for part in (start, end) if part and part not in stems}


def read_name_list(
    file: Path, groups: Sequence[Group], index: NameIndex, root: Path
) -> ListedPairs:
    """Return the groups that a list names, by split, and a fault for each unknown name.

    Names may have an extension and folders. Each split is sorted as the groups are.
    """
    table = read_table(file, index.knows, 1)
    column = name_column(table, index)
    first = table.rows[0].cells if table.rows else []
    is_header = (
        any(table.count_known(index.knows))
        and len(first) > column
        and not index.knows(first[column])
        and bool(HEADER.fullmatch(first[column]))
    )
    rows = table.rows[is_header:]
    split = find_split_column(table, rows, first if is_header else [], [column])
    chosen: dict[str, dict[int, Group]] = {} if split else {"": {}}
    faults: dict[str, Fault] = {}
    for row in rows:
        name = row.cells[column] if column < len(row.cells) else " ".join(row.cells)
        found = chosen.setdefault(split.split_of(row) if split else "", {})
        place = index.find(name)
        if place is None:
            faults[name] = ("missing", os.path.relpath(file, root), "pair")
            found[-len(faults)] = [name], []
        else:
            found[place] = groups[place]
    by_split = {
        name: [found[place] for place in sorted(found, key=lambda i: (i < 0, i))]
        for name, found in chosen.items()
    }
    notes = (split, table.coding)
    return ListedPairs(by_split, faults, "; ".join(str(note) for note in notes if note))


def name_column(table: Table, index: NameIndex) -> int:
    """Return the column in which most cells are names of groups."""
    counts = table.count_known(index.knows)
    return counts.index(max(counts)) if counts else 0


def is_name_list(file: Path, index: NameIndex) -> bool:
    """Return whether at least half of the rows of a list name a group."""
    table = read_table(file, index.knows, 1)
    return 2 * max(table.count_known(index.knows), default=0) >= max(1, len(table.sample))


def select_listed(
    file: Path, images: Mapping[str, list[str]], masks: Mapping[str, list[str]], root: Path
) -> tuple[list[Group], dict[str, Fault]]:
    """Return the files of the stems that a list names, and a fault for each unknown name."""
    listed = select_by_split(file, images, masks, root)
    return [group for groups in listed.groups.values() for group in groups], listed.faults


def select_by_split(
    file: Path, images: Mapping[str, list[str]], masks: Mapping[str, list[str]], root: Path
) -> ListedPairs:
    """Return the files of the stems that a list names, by split."""
    groups = group_by_stem(dict(images), dict(masks))
    stems = {path: stem for side in (images, masks) for stem, at in side.items() for path in at}
    names = [stems[str(next(iter((*group[0], *group[1]))))] for group in groups]
    return read_name_list(file, groups, NameIndex(groups, names), root)
