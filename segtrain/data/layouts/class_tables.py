"""The user's own table of classes: found in a data set's folders, and applied to its pairs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.types import Colour
from segtrain.data.findings import Choice, Finding
from segtrain.data.layouts.class_files import BLACK, Row, read_rows
from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.pairing import ClassSource, Listing
from segtrain.data.layouts.published import PUBLISHED
from segtrain.errors import SegtrainError, shorten
from segtrain.files.places import relative_path

# files that tools write; each stands for a table, and one that can't be read is a note
TOOLS = re.compile(
    r"labelmap\.txt|label_colou?rs\.txt|class_names\.txt|(\w+_)?class_dict\w*\.csv|_classes\.csv"
    r"|obj_class_to_machine_color\.json|dataset_meta\.json|label_classes\.json",
    re.IGNORECASE,
)
# files that may be something else: what doesn't read as a table is none
OTHERS = re.compile(
    r"(obj_|class_?)?(classes|labels|names|codes|categories|id2label|(class|label|colou?r)s?_?"
    r"(map|names|list|colou?rs|dict|codes|table|palette|info)?|palette|colou?r_?code|legend)"
    r"\.(txt|csv|tsv|json)|[\w-]+\.names|(data|dataset)\.ya?ml|meta\.json|dataset\.json"
    r"|config_v\d\.\d\.json",
    re.IGNORECASE,
)
PROJECT = ("obj_class_to_machine_color.json", "meta.json")  # Supervisely's, above its data sets
MOST_MASK_FOLDERS = 64  # folders of masks in which tables are looked for
IGNORED = ("__ignore__", "ignore", "ignored")


@dataclass(frozen=True)
class ClassTable:
    """The classes that a file names, with their colours and mask values where it has them."""

    file: str  # relative to the data set's folder
    rows: tuple[Row, ...]

    @property
    def classes(self) -> list[str]:
        """The names in the order of the file, without those of ignored pixels."""
        names = (row.name for row in self.rows if row.name.lower() not in IGNORED)
        return list(dict.fromkeys(names))

    @property
    def values(self) -> list[int]:
        """The mask value of each row: its own, the grey level that it is painted in, or its place.

        Grey levels count where all colours are grey: such masks are stored with one channel, too.
        """
        own = [row.value for row in self.rows if row.value is not None]
        levels = [row.colour[0] for row in self.rows if row.colour and len({*row.colour}) == 1]
        if len(own) == len(self.rows):
            return own
        return levels if len(set(levels)) == len(self.rows) else list(range(len(self.rows)))

    @property
    def label_map(self) -> dict[int, int | str]:
        """The class id of each mask value."""
        ids = {name: class_id for class_id, name in enumerate(self.classes)}
        return {
            value: ids.get(row.name, "ignore")
            for value, row in sorted(zip(self.values, self.rows, strict=True))
        }

    @property
    def palette(self) -> list[Colour] | None:
        """The colour of each mask value up to the highest; None where rows have none, or levels."""
        by_value = {v: row.colour for v, row in zip(self.values, self.rows, strict=True)}
        colours = {colour for colour in by_value.values() if colour}
        if None in by_value.values() or max(by_value) > 255:
            return None
        if all(red == green == blue for red, green, blue in colours):
            return None
        unused: Iterator[Colour] = (
            (1, 2, blue) for blue in range(256) if (1, 2, blue) not in colours
        )
        return [by_value.get(value) or next(unused) for value in range(max(by_value) + 1)]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the data section that say the same."""
        palette = [list(colour) for colour in self.palette or ()]
        fields = {"classes": self.classes, "palette": palette, "label_map": self.label_map}
        return {key: value for key, value in fields.items() if value}

    def agrees(self, other: ClassTable) -> bool:
        """Return whether both give the same names the same values, and colours where both do."""
        if [_plain(name) for name in self.classes] != [_plain(name) for name in other.classes]:
            return False
        mine, theirs = self.palette, other.palette
        return self.label_map == other.label_map and (not mine or not theirs or mine == theirs)


def find_class_tables(
    root: Path, folders: Iterable[Path]
) -> tuple[list[ClassTable], list[Finding]]:
    """Return the tables in the folders of masks and above, up to root, and notes on other files.

    Of tables that agree only the most detailed is returned; outer folders come first.
    """
    inside = {root}
    for folder in sorted(set(folders))[:MOST_MASK_FOLDERS]:
        inside |= {p for p in (folder, *folder.parents) if p.is_relative_to(root)}
    tables: list[ClassTable] = []
    unread = []
    ordered = sorted(inside, key=lambda path: (len(path.parts), path))
    files = [file for folder in ordered for file in _list_candidates(folder)]
    for file in files or _list_outer(root):
        try:
            rows = _number_from_zero(read_rows(file))
        except SegtrainError as error:
            unread += [str(error).replace(f"{root}{os.sep}", "")] * bool(TOOLS.fullmatch(file.name))
            continue
        table = ClassTable(relative_path(file, root), tuple(rows))
        alike = next((i for i, known in enumerate(tables) if known.agrees(table)), None)
        if alike is None:
            tables.append(table)
        elif table.palette and not tables[alike].palette:
            tables[alike] = table
    text = "no table of classes can be read from {}"
    return tables, [Finding("table", False, text.format(shorten(unread)))] if unread else []


def _list_candidates(folder: Path) -> list[Path]:
    """Return the files that may be tables, without the weaker of Supervisely's two."""
    names = set()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TOOLS.fullmatch(entry.name) or OTHERS.fullmatch(entry.name):
                names.add(entry.name)
    if PROJECT[0] in names:
        names.discard(PROJECT[1])  # its colours are those of masks_human
    return sorted(folder / name for name in names if (folder / name).is_file())


def _list_outer(root: Path) -> list[Path]:
    """Return the files above root that may be tables, where root is a split or of Supervisely's."""
    files = _list_candidates(root.parent)
    is_split = read_name(root.name).template == "*"
    return [file for file in files if is_split or file.name in PROJECT]


def _number_from_zero(rows: list[Row]) -> list[Row]:
    """Return rows as masks count them.

    labelme's first line __ignore__ is -1. Values from 1 on with colours leave 0 to a background.
    """
    values, named = [row.value for row in rows], {row.name for row in rows}
    if rows[0].name == "__ignore__" and values[0] is None:
        return rows[1:]
    colours = {row.colour for row in rows}
    if values == list(range(1, len(rows) + 1)) and "background" not in named:
        return rows if None in colours or BLACK in colours else [Row("background", BLACK, 0), *rows]
    return rows


def _plain(names: Iterable[str]) -> list[str]:
    return [re.sub(r"[\W_]", "", name).lower() for name in names]


def name_classes(listing: Listing, layout: str, config: DataConfig, root: Path) -> Listing:
    """Return the listing with the classes of the user's own table, which count before a published.

    A published table stays where the own one says the same; where nothing does, and no setting
    names layout or classes, it is unconfirmed: its classes must be found in the masks.
    """
    published = PUBLISHED.get(layout) if listing.classes else None
    if listing.classes and not published:
        return listing
    masks = (m for groups in listing.groups.values() for _, files in groups for m in files)
    folders = {os.path.dirname(mask) for mask in masks if isinstance(mask, str)}
    tables, findings = find_class_tables(root, [root / folder for folder in folders])
    findings = listing.findings + findings
    confirmed = any(_confirms(table, listing) for table in tables) if published else False
    table, errors = (None, []) if confirmed else pick_table(tables, config)
    if table is None:
        named = config.format != "auto" or config.classes is not None
        return replace(
            listing,
            layout=f"{listing.layout}; {listing.meaning}" if published else listing.layout,
            class_source=ClassSource(
                listing.class_source.name
                or (f"the published table of {published}" if published else ""),
                bool(published) and not (confirmed or named or listing.class_source.name),
            ),
            findings=findings,
        )
    labels = {v: label for v, label in table.label_map.items() if v != label}
    # a value that the table leaves out is none of its classes, even where it is a class's id; but
    # masks of grey levels may hold ids as well, and lossy ones hold any value
    exact = table.rows[0].value is not None and not config.allow_lossy_masks
    left_out = set(range(len(table.classes))) - table.label_map.keys() if exact else set()
    # CamVid's void is no class of a table that renames its classes
    void = listing.label_map if len(table.classes) == len(listing.classes or ()) else {}
    void = {v: label for v, label in void.items() if label == "ignore" and v not in table.values}
    return replace(
        listing,
        layout=f"{listing.layout}; classes of {table.file}",
        classes=table.classes,
        palette=table.palette,
        label_map={**void, **labels, **dict.fromkeys(left_out, "ignore")},
        class_source=ClassSource(table.file, False, frozenset(left_out)),
        findings=findings + errors,
    )


def _confirms(table: ClassTable, listing: Listing) -> bool:
    """Return whether a table has the classes of a published one: by value, in order or by colour.

    The colours alone count where they are many: CamVid's 32.
    """
    published = listing.classes or []
    own = dict(zip(table.values, _plain(row.name for row in table.rows), strict=True))
    if _plain(table.classes) == _plain(published):
        return True
    colours = {row.colour for row in table.rows}
    if len(published) < len(set(listing.palette or ())) <= len(colours):
        return colours >= set(listing.palette or ())
    by_value = dict(enumerate(published)) | {
        value: published[label] if isinstance(label, int) else ""
        for value, label in listing.label_map.items()
    }
    names = _plain(by_value.values())
    return own.keys() <= by_value.keys() and all(
        own.get(value) == name for value, name in zip(by_value, names, strict=True) if name
    )


def pick_table(
    tables: list[ClassTable], config: DataConfig
) -> tuple[ClassTable | None, list[Finding]]:
    """Return the table that holds for a data section, and an error where several contradict.

    Where the section names classes, a table of other names counts only where it has as many.
    """
    if config.classes is not None:
        given = set(config.classes)
        tables = [t for t in tables if set(t.classes) <= given] or [
            t for t in tables if len(t.classes) == len(given)
        ]
        if config.label_map or config.palette:  # as a choice between tables, written below
            tables = sorted(tables, key=lambda table: -_count_agreeing(table, config))
        return (tables[0] if tables else None), []
    if len(tables) < 2:
        return (tables[0] if tables else None), []
    names = " and ".join(f"{t.file} ({shorten(t.classes, 4)})" for t in tables)
    choices = tuple(Choice(table.file, table.fields) for table in tables)
    text = f"tables of classes that contradict each other: {names}"
    return tables[0], [Finding("table", True, text, choices=choices)]


def _count_agreeing(table: ClassTable, config: DataConfig) -> int:
    """Return how many entries of a table the section repeats."""
    return sum(config.label_map.get(value) == label for value, label in table.label_map.items()) + (
        config.palette == table.palette
    )
