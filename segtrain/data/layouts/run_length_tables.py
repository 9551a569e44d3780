"""Tables of run lengths: an image, its regions and their classes in each row."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.decoding import SUFFIXES
from segtrain.data.drawn import DrawnMask
from segtrain.data.findings import Finding
from segtrain.data.images import read_size
from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.folders import walk_folder
from segtrain.data.layouts.pairing import Fault, Group, Listing
from segtrain.data.layouts.split_columns import find_split_column
from segtrain.data.layouts.text_tables import Table, read_table, read_text
from segtrain.data.run_lengths import RUNS, RunLengthMask, Runs
from segtrain.errors import SegtrainError, shorten

RUN_TABLE = re.compile(
    r"(?i)^[^\n]*(?:encoded_?pixels|\brle\b|_rle|rle_)"
    r"|[,;\t]\"?\d+ \d+ \d+ \d+(?: \d+ \d+)*\"?(?:[,;\t\r\n]|$)"
)
EMPTY = {"", "-1", "nan", "none", "null", "[]"}
CLASS_COLUMN = re.compile(r"(?:class|label|category)(?:_?(?:id|name))?")
COMBINED = re.compile(r"(?P<name>.+)_(?P<label>[^_.]+)")  # x.jpg_3 in Severstal's ImageId_ClassId
SHOWS_ORDER = 0.75  # share of the regions with runs apart by one side that decides
NEAR = 0.25  # share of a side by which the distances of runs may differ from it
PROBED = 300  # images


def is_run_table(file: Path) -> bool:
    """Return whether the beginning of a file has a header or rows of run lengths."""
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    try:
        return bool(RUN_TABLE.search(read_text(file, 1 << 20)[0]))
    except SegtrainError:
        return False


class ImageIndex:
    """Images anywhere below root, by path, by name and by stem."""

    def __init__(self, root: Path):
        self._paths: dict[str, set[str]] = {}
        for folder, names in walk_folder(root):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    path = os.path.normpath(os.path.join(folder, name))
                    for key in (path, name, stem):
                        self._paths.setdefault(key, set()).add(path)

    def knows(self, name: str) -> bool:
        """Return whether there is an image of this name."""
        return name in self._paths

    def count_beside(self, listed: Collection[str]) -> int:
        """Return the number of images in the folders of the listed ones that are not listed."""
        folders = {os.path.dirname(path) for path in listed}
        every = {path for paths in self._paths.values() for path in paths}
        return sum(os.path.dirname(path) in folders for path in every.difference(listed))

    def find(self, name: str, split: str) -> list[str]:
        """Return the images of this name, without masks and those in folders of other splits."""
        found = sorted(self._paths.get(name, ()))
        words = {path: read_name(os.path.dirname(path)) for path in found}
        found = [path for path in found if not words[path].is_mask] or found
        return [path for path in found if words[path].split == split] or found


@dataclass(frozen=True)
class RunTable:
    """The rows of a table of run lengths by image: label and runs, none for an empty image."""

    file: Path
    rows: dict[str, list[tuple[str, Runs]]]
    splits: dict[str, str]  # of the images, where a column says it
    has_labels: bool


def read_run_table(file: Path, index: ImageIndex) -> RunTable:
    """Read a table of run lengths. Raises SegtrainError where no row names an image."""
    table = read_table(file, is_runs, 1)
    counts = table.count_known(is_runs)
    if not any(counts):
        raise SegtrainError(f"{file}: none of its rows has run lengths: start length start length")
    runs = counts.index(max(counts))
    first = table.rows[0].cells
    has_header = len(first) > runs and not _is_content(first[runs])
    header = [name.strip().lower() for name in first] if has_header else []
    rows = table.rows[has_header:]
    column, combined = _name_column(table, runs, index)
    labels = [i for i, name in enumerate(header) if i not in (column, runs)]
    label = next((i for i in labels if CLASS_COLUMN.fullmatch(header[i])), None)
    split = find_split_column(table, rows, header, (column, runs))
    read: dict[str, list[tuple[str, Runs]]] = {}
    splits = {}
    for row in rows:
        cells = row.cells + [""] * (table.width - len(row.cells))
        text, name = cells[runs].strip(), cells[column]
        if not _is_content(text):
            raise SegtrainError(
                f"{file}: line {row.number}: expected 'start length start length ...', got "
                f"{shorten(text.split(), 6)!r}"
            )
        value = cells[label] if label is not None else ""
        if combined and (match := COMBINED.fullmatch(name)):
            name, value = match["name"], match["label"]
        of_image = read.setdefault(name, [])
        if split:
            splits[name] = split.split_of(row)
        if is_runs(text):
            of_image.append((value.strip(), Runs(row.number, 0, text)))
    return RunTable(file, read, splits, combined or label is not None)


def is_runs(cell: str) -> bool:
    """Return whether a cell has run lengths."""
    return bool(RUNS.fullmatch(cell))


def _is_content(cell: str) -> bool:
    return is_runs(cell) or cell.strip().lower() in EMPTY


def _name_column(table: Table, runs: int, index: ImageIndex) -> tuple[int, bool]:
    """Return the column of the images' names, and whether it has their classes, too: x.jpg_3."""
    plain = table.count_known(index.knows)
    both = table.count_known(lambda cell: index.knows(COMBINED.sub(r"\g<name>", cell)))
    plain[runs] = both[runs] = 0
    most = max(plain + both)
    if not most:
        row = table.rows[-1]
        raise SegtrainError(
            f"{table.file}: a table of run lengths, but no image of its rows is below its folder, "
            f"such as {row.cells[runs == 0 and len(row.cells) > 1]!r} of line {row.number}; put "
            "the images beside it, under the names in the table"
        )
    return (plain.index(most), False) if most in plain else (both.index(most), True)


def list_run_lengths(config: DataConfig, root: Path, files: Mapping[str, Path]) -> Listing:
    """List the images and masks of the table of run lengths of each split.

    Classes are numbered in the order of their names from 1; the background is 0. Raises
    SegtrainError for a table that can't be read, and where none of its images is there.
    """
    index = ImageIndex(root)
    tables = {split: read_run_table(file, index) for split, file in files.items()}
    labels = sort_labels({v for t in tables.values() for rows in t.rows.values() for v, _ in rows})
    named = any(table.has_labels for table in tables.values())
    ids = {label: i for i, label in enumerate(labels, 1)} if named else {"": 1}
    names = list(dict.fromkeys(_category(label) for label in labels)) if named else ["object"]
    ids = {label: names.index(_category(label)) + 1 for label in ids} if named else ids
    groups: dict[str, list[Group]] = {}
    faults: dict[str, Fault] = {}
    for split, table in tables.items():
        for name, rows in table.rows.items():
            of = table.splits.get(name, split)
            found = index.find(name, of)
            if len(found) > 1:
                raise SegtrainError(f"{table.file}: {name} may be {' or '.join(found)}; keep one")
            path = found[0] if found else name
            if not found:
                faults[path] = ("missing", os.path.relpath(table.file, root), "image")
            regions = tuple(runs._replace(class_id=ids[label]) for label, runs in rows)
            mask = RunLengthMask(
                table.file, name, root / path, regions, upright=config.exif is not False
            )
            groups.setdefault(of, []).append(([path], [mask]))
        _refuse_relative(table)
    first, across, why = find_order(groups, config.rle_order)
    how: dict[str, Any] = {"first": first, "across": across}
    others = {f: tuple(o for o in files.values() if o != f) for f in files.values()}
    for split, pairs in groups.items():
        pairs.sort(key=lambda pair: (Path(pair[0][0]).stem, pair[0][0]))
        groups[split] = [
            (images, [replace(m, **how, others=others[m.table]) for m in masks if is_drawn(m)])
            for images, masks in pairs
        ]
    layout = ", ".join(os.path.relpath(file, root) for file in files.values())
    layout += f": run lengths {'along the rows' if across else 'down the columns'} ({why}), from "
    layout += f"pixel {first}; background is class 0"
    listed = {path for pairs in groups.values() for images, _ in pairs for path in images}
    if rest := index.count_beside(listed):
        layout += f"; {rest} image(s) without a row left out"
    findings = find_overlaps(groups)
    return Listing(groups, layout, ["background", *names], None, {}, faults, findings)


def is_drawn(mask: str | DrawnMask) -> TypeGuard[RunLengthMask]:
    """Return whether a mask is one of these tables: all are."""
    return isinstance(mask, RunLengthMask)


def sort_labels(labels: Collection[str]) -> list[str]:
    """Return labels in their order, numbers by value."""
    return sorted(
        labels, key=lambda label: (not label.isdigit(), int(label) if label.isdigit() else 0, label)
    )


def _category(label: str) -> str:
    """Return a label without the attributes that iMaterialist appends: 23_11_54."""
    return label.split("_")[0] if re.fullmatch(r"\d+(_\d+)+", label) else label


def _refuse_relative(table: RunTable) -> None:
    """Raise SegtrainError for runs that overlap, as starts counted from the last run's end do."""
    for rows in table.rows.values():
        for _, runs in rows:
            spans = runs.spans()
            if (spans[1:, 0] < spans[:-1, 1]).any():
                raise SegtrainError(
                    f"{table.file}: the runs of line {runs.line} are not in ascending order; if "
                    "each start counts from the end of the run before (SIIM-ACR), convert it to a "
                    "pixel's number"
                )


def find_order(groups: Mapping[str, list[Group]], given: str) -> tuple[int, bool, str]:
    """Return (number of the first pixel, whether runs go along the rows, why).

    In images that are not square, the runs of a region start about one side apart: the height where
    they go down the columns.
    """
    masks = [m for pairs in groups.values() for _, of_pair in pairs for m in of_pair]
    drawn = [m for m in masks if is_drawn(m) and m.rows and m.image.is_file()]
    lowest = min((int(r.spans()[:, 0].min()) for m in drawn for r in m.rows), default=1)
    votes: Counter[bool] = Counter()
    for mask in drawn[:: -(-len(drawn) // PROBED) or 1] if given == "auto" else ():
        with suppress(SegtrainError):
            height, width = read_size(mask.image, upright=mask.upright)
            for row in mask.rows:
                gaps = np.diff(row.spans()[:, 0])
                near = (
                    [abs(float(np.median(gaps)) - s) / s for s in (height, width)]
                    if gaps.size
                    else []
                )
                if near and height != width and min(near) < NEAR:
                    votes[near[1] < near[0]] += 1
    if given != "auto":
        return min(lowest, 1), given == "rows", "data.rle_order"
    across = votes[True] > SHOWS_ORDER * votes.total()
    if not votes:
        return min(lowest, 1), False, "as Kaggle's are: nothing shows it; else data.rle_order: rows"
    return min(lowest, 1), across, "as their distances show"


def find_overlaps(groups: Mapping[str, list[Group]]) -> list[Finding]:
    """Return a note about images with pixels in regions of several classes."""
    places = []
    for pairs in groups.values():
        for images, masks in pairs:
            rows = masks[0].rows if is_drawn(masks[0]) else ()
            by_class: dict[int, list[np.ndarray]] = {}
            for row in rows:
                by_class.setdefault(row.class_id, []).append(row.spans())
            if len(by_class) > 1:
                whole = _count_covered([s for spans in by_class.values() for s in spans])
                if whole < sum(map(_count_covered, by_class.values())):
                    places.append(images[0])
    text = f"{len(places)} image(s) with pixels of several classes: the smaller region counts"
    return [Finding("overlap", False, text, places)] if places else []


def _count_covered(spans: Sequence[np.ndarray]) -> int:
    """Return the number of pixels in any of some runs."""
    merged = np.concatenate(spans)
    merged = merged[merged[:, 0].argsort()]
    ends = np.maximum.accumulate(merged[:, 1])
    starts = np.maximum(merged[:, 0], np.concatenate([merged[:1, 0], ends[:-1]]))
    return int(np.maximum(ends - starts, 0).sum())
