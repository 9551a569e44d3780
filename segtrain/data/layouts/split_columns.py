"""The column of a table that names the split of each row."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from segtrain.data.layouts.folder_words import SPLIT_OF
from segtrain.data.layouts.pairing import Fault, Group
from segtrain.data.layouts.text_tables import Table, TableRow
from segtrain.errors import SegtrainError, shorten

SPLIT_VALUES = SPLIT_OF | {"trn": "train", "tr": "train", "eval": "val", "evaluation": "val"}
SPLIT_COLUMN = re.compile(r"split|subset|partition|usage|^set$|dataset|phase|fold|stage|^mode$")
FLAG_COLUMN = re.compile(r"is_?([a-z]+)")
YES, NO = {"true", "1", "yes", "1.0"}, {"false", "0", "no", "0.0", ""}


@dataclass(frozen=True)
class SplitColumn:
    """A column that names splits, and the split of each of its values."""

    index: int
    name: str
    splits: dict[str, str]

    def split_of(self, row: TableRow) -> str:
        """Return the split of a row."""
        return self.splits[_value(row, self.index)]

    def __str__(self) -> str:
        return f"splits by column {self.name}"


def _value(row: TableRow, index: int) -> str:
    return row.cells[index].strip().lower() if index < len(row.cells) else ""


def find_split_column(
    table: Table, rows: Sequence[TableRow], header: Sequence[str], taken: Collection[int]
) -> SplitColumn | None:
    """Return the column that names splits: by its values, of several the one named split.

    `taken` are columns of files. Raises SegtrainError where a column named so has other values,
    too.
    """
    found = []
    for index in range(table.width):
        name = header[index].strip().lower() if index < len(header) else ""
        if index in taken:
            continue
        values = {_value(row, index) for row in rows}
        splits = _read_flags(name, values) or {v: SPLIT_VALUES[v] for v in values & {*SPLIT_VALUES}}
        others = sorted(values - splits.keys())
        is_named = bool(SPLIT_COLUMN.search(name) or FLAG_COLUMN.fullmatch(name))
        if others and ("split" in name or is_named and splits):
            raise SegtrainError(
                f"{table.file}: column {header[index]} has the values "
                f"{shorten(map(repr, others))}, which are no splits; use train, val and test"
            )
        if not others and splits and (is_named or len({*splits.values()}) > 1):
            found.append(SplitColumn(index, header[index] if name else f"{index + 1}", splits))
    return min(found, key=lambda column: "split" not in column.name.lower(), default=None)


def _read_flags(name: str, values: set[str]) -> dict[str, str]:
    """Return the splits of yes and no in a column such as is_valid; empty for others."""
    match = FLAG_COLUMN.fullmatch(name)
    split = SPLIT_VALUES.get(match[1]) if match else None
    if not split or not values <= YES | NO:
        return {}
    other = "val" if split == "train" else "train"
    return {value: split if value in YES else other for value in values}


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
