"""Files that name classes, as annotation tools write them: text, CSV, JSON and YAML to rows."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from segtrain.config.types import Colour
from segtrain.data.decoding import SUFFIXES
from segtrain.errors import SegtrainError, translate_errors

MOST_BYTES = 1_000_000  # larger files are no tables of classes
MOST_ROWS = 4096
BLACK: Colour = (0, 0, 0)
# columns of a header, spaces and underscores left out; the first known one of each kind counts
NAMES = ("name", "class", "label", "classname", "labelname", "category", "title", "classtitle")
VALUES = ("value", "pixelvalue", "pngindex", "id", "index", "idx", "classid", "labelid", "trainid")
COLOURS = ("color", "colour", "rgb", "hex", "colorrgb")
LABELMAP = re.compile(r"(.+?):\s*(?:(\d+)\s*,\s*(\d+)\s*,\s*(\d+))?\s*:[^:]*:[^:]*")
NAMED = re.compile(r"\s*[:=]\s*(?=[\[(]?\d)")  # between a name and its numbers
HEX = re.compile(r"#([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?")


@dataclass(frozen=True)
class Row:
    """A class by a file: its name, and the colour and the value of its pixels where it has them."""

    name: str
    colour: Colour | None = None
    value: int | None = None


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a table of classes. Raises SegtrainError for any other content."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise SegtrainError(f"{file}: too large for a table of classes")
        text = _decode(file.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise SegtrainError(f"{file}: not a table of classes that can be read ({error})") from error
    kind = file.suffix.lower()
    with translate_errors(lambda error: f"{file}: not a table of classes ({error})"):
        if kind == ".json":
            rows = _rows_of(json.loads(text))
            if file.name == "obj_class_to_machine_color.json":
                rows = _add_background(rows)
        elif kind in (".yaml", ".yml"):
            rows = _rows_of(yaml.safe_load(text)["names"])
        else:
            rows = _parse_text(text)
        _check(rows)
    return rows


def _decode(content: bytes) -> str:
    """Return the text of a file: UTF-8, UTF-16 by its mark, or else Latin-1, as of spreadsheets."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _check(rows: list[Row]) -> None:
    values = [row.value for row in rows if row.value is not None]
    if not 0 < len(rows) <= MOST_ROWS or not all(row.name for row in rows):
        raise ValueError("no names of classes")
    if any(Path(row.name).suffix.lower() in SUFFIXES for row in rows):
        raise ValueError("names of images")
    if len(set(values)) < len(values) or len(values) not in (0, len(rows)):
        raise ValueError("values that aren't one for each class")
    if any(not 0 <= level <= 255 for row in rows for level in row.colour or ()):
        raise ValueError("colours beyond 0..255")
    if len({row.colour is None for row in rows}) > 1:
        raise ValueError("colours of some classes only")
    if any(not 0 <= value <= 65535 for value in values):
        raise ValueError("values beyond 0..65535")


# ---- text and CSV


def _parse_text(text: str) -> list[Row]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and (line[0] != "#" or HEX.match(line))]
    if not lines:
        raise ValueError("an empty file")
    if all(matches := [LABELMAP.fullmatch(line) for line in lines]):
        found = [match.groups() for match in matches if match]
        return _put_background_first(
            [Row(name.strip(), _colour(rgb) if rgb[0] else None) for name, *rgb in found]
        )
    separator = next((s for s in "\t,;|" if all(s in line for line in lines)), None)
    if separator:
        table = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
        if (headed := _parse_headed(table)) is not None:
            return headed
        if len(table) == 1 and not any(map(_is_number, table[0])):
            return [Row(cell) for cell in table[0] if cell]  # all names on one line
        # "r g b<tab>name" has all numbers in one cell, "name: r, g, b" the first beside the name
        table = [
            [
                part
                for cell in re.split(NAMED, separator.join(cells))
                for part in _split(cell, separator)
            ]
            for cells in table
        ]
    else:
        table = [re.sub(NAMED, " ", line).split() for line in lines]
    rows = [_parse_cells(cells, separator is None) for cells in table]
    whole = [row for row in rows if row]
    shapes = {(row.colour is None, row.value is None) for row in whole}
    if len(whole) == len(rows) and len(shapes) == 1:
        if whole[0].colour or len({row.name for row in whole}) == len(rows):
            return whole
    if any(row.colour for row in whole) or any(map(_is_number, sum(table, []))) and not whole:
        raise ValueError("lines of several kinds, or without a name")
    return [Row(line) for line in lines]  # a name a line, such as "lane 1"


def _split(text: str, separator: str) -> list[str]:
    """Return the cells of a text, numbers one by one."""
    cells = [cell.strip() for cell in text.split(separator)]
    words = [cell.split() for cell in cells]
    numeric = [all(map(_is_number, parts)) for parts in words]
    return sum((parts if n else [c] for c, parts, n in zip(cells, words, numeric, strict=True)), [])


def _put_background_first(rows: list[Row]) -> list[Row]:
    """Return CVAT's rows with the black background first; their values stay those of their lines.

    It writes labels in the order of the task: https://github.com/cvat-ai/cvat/issues/2032.
    """
    place = next(
        (i for i, row in enumerate(rows) if (row.name, row.colour) == ("background", BLACK)), 0
    )
    if not place:
        return rows
    rows = [replace(row, value=line) for line, row in enumerate(rows)]
    return [rows[place], *rows[:place], *rows[place + 1 :]]


def _parse_headed(table: list[list[str]]) -> list[Row] | None:
    """Return the rows below a header; None where the first line names no columns."""
    heads = [re.sub(r"[\s_]", "", cell).lower() for cell in table[0]]
    name, value, colour = (
        next((heads.index(known) for known in kind if known in heads), None)
        for kind in (NAMES, VALUES, COLOURS)
    )
    channels = [
        next((i for i, head in enumerate(heads) if head in (letter, word)), None)
        for letter, word in (("r", "red"), ("g", "green"), ("b", "blue"))
    ]
    rgb = [i for i in channels if i is not None]
    if name is None or value is None and colour is None and len(rgb) != 3:
        return None
    return [
        Row(
            cells[name],
            _colour([cells[i] for i in rgb])
            if len(rgb) == 3
            else _colour(cells[colour])
            if colour is not None
            else None,
            None if value is None else int(cells[value]),
        )
        for cells in table[1:]
    ]


def _parse_cells(cells: Sequence[str], joined: bool) -> Row | None:
    """Return the row of a line without header: numbers before and after a name; None for others.

    Three numbers are a colour, one is a value, four a value and a colour, or a colour and alpha.
    """
    colour = next((_colour(cell) for cell in cells if HEX.fullmatch(cell)), None)
    cells = [cell for cell in cells if cell and not HEX.fullmatch(cell)]
    words = [i for i, cell in enumerate(cells) if not _is_number(cell)]
    if not words:
        return None
    lead = [int(re.sub(r"\D", "", cell)) for cell in cells[: words[0]]]
    trail = [int(re.sub(r"\D", "", cell)) for cell in cells[words[-1] + 1 :]]
    name = " ".join(cells[words[0] : words[-1] + 1]) if joined else cells[words[0]]
    if len(lead) == 4 or len(lead) == 1 and len(trail) in (0, 3):
        value, numbers = lead[0], lead[1:] + trail
    else:
        value, numbers = None, lead + trail
    if len(numbers) == 1 and value is None:
        value, numbers = numbers[0], []
    if len(numbers) in (3, 4):
        colour = _colour(numbers)
    return Row(name.rstrip(":"), colour, value) if len(numbers) in (0, 3, 4) else None


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[(\[]?\d+[)\],:.]?", cell) is not None


def _colour(given: Any) -> Colour:
    """Return a colour from three numbers, from text with three, or from #rrggbb."""
    if isinstance(given, str) and (match := HEX.fullmatch(given)):
        given = bytes.fromhex(match[1])
    elif isinstance(given, str):
        given = re.findall(r"\d+", given)
    red, green, blue = (int(level) for level in list(given)[:3])
    return red, green, blue


# ---- JSON and YAML


def _rows_of(content: Any) -> list[Row]:
    """Return the rows of a list or a mapping of classes, in any of the forms that tools write."""
    if isinstance(content, list):
        if all(isinstance(entry, dict) for entry in content):
            return [_row_of(entry) for entry in content]
        if any(not isinstance(entry, (str, int)) for entry in content):
            raise ValueError("a list of other things than names")
        return [Row(str(name)) for name in content]
    if not isinstance(content, dict) or "annotations" in content:
        raise ValueError("no list of classes")
    if isinstance(content.get("segmentation_colors"), list):  # datumaro's dataset_meta.json
        names = content["label_map"].values()
        return [
            Row(name, _colour(rgb))
            for name, rgb in zip(names, content["segmentation_colors"], strict=True)
        ]
    if "regions_class_order" in content:
        return _rows_of_regions(content["labels"], content["regions_class_order"])
    for key in ("labels", "classes", "names", "categories", "label_map", "id2label"):
        if isinstance(content.get(key), (list, dict)) and content[key]:
            rows = _rows_of(content[key])
            # Supervisely leaves out the background, and numbers the classes from 1
            supervisely = key == "classes" and "tags" in content
            return _add_background(rows) if supervisely else rows
    pairs = list(content.items())
    if all(str(key).isdigit() for key, _ in pairs):
        return [
            Row(str(label), None, int(value))
            if isinstance(label, (str, int))
            else replace(_row_of(label), value=int(value))
            for value, label in pairs
        ]
    if all(isinstance(label, (list, str)) for _, label in pairs):
        return [Row(str(name), _colour(colour)) for name, colour in pairs]
    if all(isinstance(label, int) for _, label in pairs):
        return [Row(str(name), None, label) for name, label in pairs]
    return _rows_of_regions(content, [])


def _row_of(entry: dict[str, Any]) -> Row:
    """Return the row of a mapping with a name and, by any of their usual keys, colour and value."""
    known = {re.sub(r"[\s_]", "", str(key)).lower(): value for key, value in entry.items()}
    name = next(known[key] for key in (*NAMES, "readable") if key in known)
    colour = next((known[key] for key in COLOURS if known.get(key)), None)
    keys = [key for key in VALUES if key != "id" or colour is None]  # Supervisely's ids are its own
    value = next((known[key] for key in keys if isinstance(known.get(key), int)), None)
    return Row(str(name), _colour(colour) if colour else None, value)


def _rows_of_regions(labels: dict[str, Any], order: Sequence[int]) -> list[Row]:
    """Return the rows of nnU-Net's labels, of which some are regions of several values.

    The masks hold one value for each region: by `order`, or the value that it has alone.
    """
    values = {name: value for name, value in labels.items() if isinstance(value, int)}
    regions = [name for name, value in labels.items() if value != 0 and name != "ignore"]
    values |= dict(zip(regions, order, strict=True)) if order else {}
    for name, several in sorted(labels.items(), key=lambda item: len(str(item[1]))):
        if name not in values:
            values[name] = next(v for v in map(int, several) if v not in values.values())
    return [Row(name, None, value) for name, value in sorted(values.items(), key=lambda i: i[1])]


def _add_background(rows: list[Row]) -> list[Row]:
    """Return rows of Supervisely's, which name no background: it is 0, or black."""
    if any(row.colour == BLACK or row.value == 0 for row in rows):
        return rows
    name = "background" if all(row.name != "background" for row in rows) else "unlabelled"
    return [Row(name, BLACK), *(replace(row, value=None) for row in rows)]
