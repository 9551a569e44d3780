"""Tables of run lengths: an image, its regions and their classes in each row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.decoding import SUFFIXES
from segtrain.data.images import read_size
from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.folders import join_path, suffix_of, walk_folder
from segtrain.data.layouts.listed_files import NameIndex
from segtrain.data.layouts.pairing import Fault, Group, Listing
from segtrain.data.layouts.text_tables import Table, divide_rows, read_table, read_text
from segtrain.data.run_lengths import RUNS, RunLengthMask, Runs, read_runs
from segtrain.errors import SegtrainError, shorten
from segtrain.files.places import relative_path

RUN_TABLE = re.compile(  # a header, or a row
    r"(?i)^[^\n]*(?:encoded_?pixels|\brle\b|_rle|rle_)"
    r"|[,;\t]\"?\d+ \d+ \d+ \d+(?: \d+ \d+)*\"?(?:[,;\t\r\n]|$)"
)
NO_RUNS = {"", "-1", "nan", "none", "null", "[]"}
CLASS_COLUMN = re.compile(r"(?i)(?:class|label|category)(?:_?(?:id|name))?")
COMBINED = re.compile(r"(?P<name>.+)_(?P<label>[^_.]+)")  # x.jpg_3 in Severstal's ImageId_ClassId
SHOWS_ORDER = 0.75  # share of the regions with runs apart by one side that decides
NEAR = 0.25  # share of a side by which the distances of runs may differ from it
PROBED = 300  # images
RunsOfImages = dict[str, list[Runs]]  # by the images' names; none for one that is all background


def is_run_table(file: Path) -> bool:
    """Return whether the beginning of a file has a header or rows of run lengths."""
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        return False
    try:
        return bool(RUN_TABLE.search(read_text(file, 1 << 20)[0]))
    except SegtrainError:
        return False


class ImageIndex:
    """The images below root by name, those in folders of a split first; no masks."""

    def __init__(self, root: Path):
        paths: dict[str, list[str]] = {}
        for folder, names in walk_folder(root):
            images = [join_path(folder, name) for name in names if suffix_of(name) in SUFFIXES]
            words = read_name(folder)
            paths.setdefault("mask" if words.is_mask else words.split or "", []).extend(images)
        masks = paths.pop("mask", [])
        paths["all"] = [path for of_split in paths.values() for path in of_split] or masks
        self._paths = paths
        self._names = {s: NameIndex([([path], []) for path in of]) for s, of in paths.items()}

    def find(self, name: str, split: str = "all") -> str | None:
        """Return the path of an image; None where there is none or several could be it."""
        for key in (split, "all"):
            place = self._names[key].find(name) if key in self._names else None
            if place is not None:
                return self._paths[key][place]
        return None

    def knows(self, name: str) -> bool:
        """Return whether there is an image of this name."""
        return self.find(name) is not None


def list_run_lengths(config: DataConfig, root: Path, files: Mapping[str, Path]) -> Listing:
    """List the images and masks of the table of run lengths of each split.

    Classes are numbered in the order of their labels from 1; the background is 0. Raises
    SegtrainError for a table that can't be read, and where none of its images is there.
    """
    index = ImageIndex(root)
    found: list[tuple[str, Path, RunsOfImages]] = []
    layout = []
    for name, file in files.items():
        by_split, note = read_run_table(file, index)
        found += [(split or name, file, runs) for split, runs in by_split.items()]
        layout.append(relative_path(file, root) + (f" ({note})" if note else ""))
    rows = [row for _, _, images in found for runs in images.values() for row in runs]
    # in the order of their names, numbers by value
    labels = sorted({row.label for row in rows}, key=lambda x: (len(x) * x.isdigit() or np.inf, x))
    first = min(1, *(int(row.spans[0, 0]) for row in rows))
    ids = {label: class_id for class_id, label in enumerate(labels, 1)}
    upright = config.exif is not False
    regions = [(root / (index.find(n, s) or n), r) for s, _, of in found for n, r in of.items()]
    across, why = find_order(regions, upright, config.rle_order)
    groups: dict[str, list[Group]] = {}
    faults: dict[str, Fault] = {}
    for split, file, images in found:
        for name, runs in images.items():
            path = index.find(name, split)
            if path is None:
                faults[name] = ("missing", relative_path(file, root), "image")
            image = root / (path or name)
            tables = tuple(files.values())
            mask = RunLengthMask(file, name, image, runs, ids, tables, first, across, upright)
            groups.setdefault(split, []).append(([path or name], [mask]))
    for of_split in groups.values():
        of_split.sort(key=lambda group: (Path(group[0][0]).stem, group[0][0]))
    order = f"{'along the rows' if across else 'down the columns'} ({why}), from pixel {first}"
    description = f"{', '.join(layout)}: run lengths {order}; background is class 0"
    classes = ["background", *(label or "object" for label in labels)]
    return Listing(groups, description, classes, faults=faults)


def read_run_table(file: Path, index: ImageIndex) -> tuple[dict[str, RunsOfImages], str]:
    """Return the runs of each image, by split as divide_rows has it, and its note.

    Raises SegtrainError for rows without run lengths, and where no row names an image.
    """
    table = read_table(file, is_runs)
    counts = table.count_known(is_runs)
    if not any(counts):
        raise SegtrainError(f"{file}: none of its rows has run lengths: start length start length")
    column = counts.index(max(counts))
    header, rows = table.split_header([column], lambda cell: is_runs(cell) or _is_empty(cell))
    names, is_combined = _find_names(table, column, index)
    titles = [title.strip() for title in header]
    labels = [i for i, title in enumerate(titles) if CLASS_COLUMN.fullmatch(title) and i != names]
    by_split, note = divide_rows(table, header, rows, (names, column))
    found: dict[str, RunsOfImages] = {split: {} for split in by_split}
    for split, of_split in by_split.items():
        for row in of_split:
            name, text = row.cells[names], row.cells[column]
            if labels and len(row.cells) <= labels[0]:
                raise SegtrainError(f"{file}: line {row.number} lacks {titles[labels[0]]}")
            label = row.cells[labels[0]].strip() if labels else ""
            if is_combined and (match := COMBINED.fullmatch(name)):
                name, label = match.group("name", "label")
            of_image = found[split].setdefault(name, [])
            if is_runs(text):
                runs = read_runs(row.number, label, text)
                if (runs.spans[1:, 0] < runs.spans[:-1, 1]).any():
                    raise SegtrainError(
                        f"{file}: the runs of line {row.number} are not in ascending order; if "
                        "each start counts from the end of the run before (SIIM-ACR), convert it "
                        "to a pixel's number"
                    )
                of_image.append(runs)
            elif not _is_empty(text):
                raise SegtrainError(
                    f"{file}: line {row.number}: expected 'start length start length ...', got "
                    f"{shorten(text.split(), 6)!r}"
                )
    return found, note


def is_runs(cell: str) -> bool:
    """Return whether a cell has run lengths."""
    return bool(RUNS.fullmatch(cell))


def _is_empty(cell: str) -> bool:
    return cell.strip().lower() in NO_RUNS


def _find_names(table: Table, runs: int, index: ImageIndex) -> tuple[int, bool]:
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
            "the images beside it, under the names in the table, each of which only one may have"
        )
    return (plain.index(most), False) if most in plain else (both.index(most), True)


def find_order(
    regions: Sequence[tuple[Path, Sequence[Runs]]], upright: bool, given: str
) -> tuple[bool, str]:
    """Return whether runs go along the rows of the images, and why.

    In images that are not square, the runs of a region start about one side apart: the height where
    they go down the columns.
    """
    if given != "auto":
        return given == "rows", "data.rle_order"
    votes: Counter[bool] = Counter()
    regions = [(image, rows) for image, rows in regions if rows and image.is_file()]
    for image, rows in regions[:: len(regions) // PROBED + 1]:
        with suppress(SegtrainError):  # an unreadable image becomes a finding when it is read
            height, width = read_size(image, upright=upright)
            for row in rows:
                gap = float(np.median(np.diff(row.spans[:, 0]))) if len(row.spans) > 1 else np.inf
                down, along = abs(gap - height) / height, abs(gap - width) / width
                if height != width and min(down, along) < NEAR:
                    votes[along < down] += 1
    if not votes:
        return False, "as Kaggle's are: nothing shows it; else data.rle_order: rows"
    return votes[True] > SHOWS_ORDER * votes.total(), "as their distances show"
