"""Tables of text: lines to cells, whatever coding, separator and quotes they are written with."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segtrain.data.decoding import SUFFIXES
from segtrain.errors import SegtrainError, UsageError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# by name, the likelier first; none: each line is one cell
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " ", "no": ""}
GAPS = {mark: re.compile(rf"\s*{re.escape(mark)}\s*") for mark in SEPARATORS.values() if mark}
GAPS[" "] = re.compile(r"\s+")
SAMPLE = 200  # lines from which separator and columns are inferred
LONGEST = 40  # words of a line in which names with separators are looked for
TableLine = tuple[int, str]  # number in the file, text
Known = Callable[[str], bool]  # whether a cell names something that is there


@dataclass(frozen=True)
class TableRow:
    """The cells of a line, and its number in the file."""

    number: int
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """The rows of a file, without blank lines and comments, and how they were read."""

    file: Path
    lines: Sequence[TableLine]
    separator: str  # a name of SEPARATORS
    coding: str  # empty for UTF-8
    width: int  # cells of most rows
    comment: list[str]  # cells of a comment above the first row: it may name the columns
    split: Callable[[TableLine], TableRow]

    @cached_property
    def rows(self) -> list[TableRow]:
        """All rows; a table that only the sample is asked of takes little time."""
        return [self.split(line) for line in self.lines]

    @cached_property
    def sample(self) -> list[TableRow]:
        """Rows spread over the file, without the first, which may be a header."""
        return [self.split(line) for line in _spread(self.lines)]

    def count_known(self, is_known: Known) -> list[int]:
        """Return the rows of the sample whose cell is known, for each column."""
        return _count_known([row.cells for row in self.sample], is_known)

    def column(self, index: int) -> list[str]:
        """Return a column of the sample, without rows that lack it."""
        return [row.cells[index] for row in self.sample if len(row.cells) > index]

    def __str__(self) -> str:
        kinds = [f"{self.separator} separator", *filter(None, [self.coding])]
        return f"read with {' as '.join(kinds)}"


def read_text(file: Path, limit: int = -1) -> tuple[str, str]:
    """Return a file's text, up to `limit` bytes, and, unless it is UTF-8, its coding.

    Raises UsageError for a missing file, SegtrainError for an unreadable one.
    """
    try:
        with open(file, "rb") as opened:
            content = opened.read(limit)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"data.splits: {file}: no such list file") from error
    except OSError as error:
        raise SegtrainError(f"{file}: not a list that can be read ({error})") from error
    coding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if coding == "utf-8" and b"\0" in content[:4]:  # ASCII in two bytes each, without a mark
        coding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text, note = content.decode(coding), "" if coding.startswith("utf-8") else "UTF-16"
    except UnicodeDecodeError as error:
        if not coding.startswith("utf-8"):
            raise SegtrainError(f"{file}: not a list that can be read ({error})") from error
        line = content.count(b"\n", 0, error.start) + 1
        text = content.decode("cp1252", errors="replace")
        note = f"Latin-1: byte 0x{content[error.start]:02x} in line {line} is not UTF-8"
    if "\0" in text:
        raise SegtrainError(f"{file}: not a list that can be read (it has NUL characters)")
    return text, note


def read_table(file: Path, is_known: Known, wanted: int) -> Table:
    """Read a list by the separator with which most cells of `wanted` columns are known.

    Raises UsageError for a missing file, SegtrainError for an unreadable one and where two
    separators read other names.
    """
    text, coding = read_text(file)
    lines: list[TableLine] = []
    comment = ""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.strip("\ufeff \t")
        if not line.strip(" \t,;|\"'") or number == 1 and re.fullmatch(r'"?sep=.?"?', line):
            continue  # Excel's line that names the separator
        if line.startswith("#") and not _names_file(line, is_known):
            comment = comment if lines else line[1:].strip()
            continue
        lines.append((number, line))
    if file.suffix.lower() == ".jsonl":
        rows = _read_json_lines(file, lines)
        width = len(rows[0].cells) if rows else 0
        numbered = [(number, "") for number in range(len(rows))]
        return Table(file, numbered, "JSON", coding, width, [], lambda line: rows[line[0]])
    sample = [line for _, line in _spread(lines)]
    name, cells = _choose_separator(file, sample, is_known, wanted)
    mark = SEPARATORS[name]
    width = Counter(map(len, cells)).most_common(1)[0][0] if cells else 0

    def split(line: TableLine) -> TableRow:
        return TableRow(line[0], _split_row(line[1], mark, width, is_known))

    return Table(file, lines, name, coding, width, split_line(comment, mark), split)


def _spread(lines: Sequence[TableLine]) -> Sequence[TableLine]:
    """Return lines from all of a file, without the first, which may be a header."""
    lines = lines[1:] or lines
    return lines[:: -(-len(lines) // SAMPLE)] if lines else []


def _read_json_lines(file: Path, lines: Sequence[TableLine]) -> list[TableRow]:
    """Return the objects of JSON lines as rows below a header."""
    rows = []
    for number, line in lines:
        try:
            rows.append((number, dict(json.loads(line))))
        except (ValueError, TypeError) as error:
            raise SegtrainError(f"{file}: line {number} is no JSON object ({error})") from error
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    cells = ([str(row.get(name) or "") for name in names] for _, row in rows)
    return [TableRow(0, names)] * bool(rows) + [
        TableRow(number, row) for (number, _), row in zip(rows, cells, strict=True)
    ]


def _choose_separator(
    file: Path, lines: Sequence[str], is_known: Known, wanted: int
) -> tuple[str, list[list[str]]]:
    """Return the separator with which most cells are known, and the cells of the lines."""
    best: tuple[int, str, list[list[str]]] = 0, _guess_separator(lines), []
    best = 0, best[1], [split_line(line, SEPARATORS[best[1]]) for line in lines]
    # names that hold a separator: all of a line first
    for name in list(SEPARATORS)[:-1] if wanted > 1 else list(SEPARATORS)[::-1]:
        mark = SEPARATORS[name]
        plain = [split_line(line, mark) for line in lines]
        readings = [plain]
        if mark and wanted > 1 and _score(plain, is_known, wanted) < wanted * len(lines):
            joined = (join_cells(line, mark, is_known) for line in lines)
            readings.append([new or old for new, old in zip(joined, plain, strict=True)])
        for cells in readings:
            score = _score(cells, is_known, wanted)
            if score > best[0]:
                best = score, name, cells
            elif score and score == best[0] and wanted > 1:
                both = ([list(filter(is_known, row)) for row in r] for r in (best[2], cells))
                if not all(one == other for one, other in zip(*both, strict=True)):
                    raise SegtrainError(
                        f"{file}: read with {best[1]} or with {name} as separator, its names are "
                        "other files, all there; put the names in quotes"
                    )
    return best[1:]


def _score(rows: Sequence[Sequence[str]], is_known: Known, wanted: int) -> int:
    """Return the known cells of the `wanted` columns that have the most."""
    return sum(sorted(_count_known(rows, is_known))[-wanted:])


def _names_file(line: str, is_known: Known) -> bool:
    """Return whether a line that begins with # names a file of such a name."""
    return any(is_known(split_line(line, mark)[0]) for mark in SEPARATORS.values())


def _split_row(line: str, mark: str, width: int, is_known: Known) -> list[str]:
    cells = split_line(line, mark)
    if len(cells) == width or not mark:
        return cells
    if len(cells) == 1 and mark != " ":  # lists grow by hand: a line of another separator
        return join_cells(line, " ", is_known) or cells
    return join_cells(line, mark, is_known) or cells


def _guess_separator(lines: Sequence[str]) -> str:
    """Return the first separator that most lines have, for a list whose names are unknown."""
    for name, mark in SEPARATORS.items():
        if sum(len(split_line(line, mark)) > 1 for line in lines) * 2 > len(lines):
            return name
    return "no"


def _count_known(rows: Sequence[Sequence[str]], is_known: Known) -> list[int]:
    counts = [0] * max(map(len, rows), default=0)
    for row in rows:
        for column, cell in enumerate(row):
            counts[column] += is_known(cell)
    return counts


def split_line(line: str, mark: str) -> list[str]:
    """Return the cells of a line, without the quotes around them."""
    if not mark:
        quoted = len(line) > 1 and line[0] == line[-1] and line[0] in "\"'"
        return [line[1:-1] if quoted else line.strip()]
    if '"' in line or "'" in line:
        cells, place = [], 0
        pattern = _QUOTED[mark]
        while place <= len(line) and (match := pattern.match(line, place)):
            double, single, plain = match.group(1, 2, 3)
            cells.append(double.replace('""', '"') if double is not None else single or plain or "")
            place = match.end() + (match.end() == len(line))  # no empty cell after the last
            if match.end() == len(line) and match[4]:
                cells.append("")
        return cells
    return line.split() if mark == " " else [cell.strip() for cell in line.split(mark)]


def _quoted_pattern(mark: str) -> re.Pattern[str]:
    gap = r"\s+" if mark == " " else rf"\s*{re.escape(mark)}"
    other = r"\s" if mark == " " else re.escape(mark)
    return re.compile(
        rf"""\s*(?:"((?:[^"]|"")*)"(?={gap}|\s*$)|'([^']*)'(?={gap}|\s*$)|([^{other}]*?))\s*?({gap}|$)"""
    )


_QUOTED = {mark: _quoted_pattern(mark) for mark in SEPARATORS.values() if mark}


def join_cells(line: str, mark: str, is_known: Known) -> list[str] | None:
    """Return the cells of a line whose names hold the separator, by two names that are known.

    Of several readings, the one with the fewest other words. Where none is known, an image's
    extension ends a name; None for a line with fewer than two of these.
    """
    gaps = [match.span() for match in GAPS[mark].finditer(line)]
    starts, stops = [0, *(stop for _, stop in gaps)], [*(start for start, _ in gaps), len(line)]
    ends = [i for i, stop in enumerate(stops) if has_image_suffix(line[starts[i] : stop])]
    if len(ends) < 2 or len(starts) > LONGEST:
        return None
    readings = [
        (first, end, second, last)
        for end in ends
        for last in ends
        for first in range(end + 1)
        for second in range(end + 1, last + 1)
    ]
    readings.sort(key=lambda r: (r[0] + r[2] - r[1] - r[3], r[1]))  # other words, then early ends
    found = (
        r
        for r in readings
        if is_known(line[starts[r[0]] : stops[r[1]]]) and is_known(line[starts[r[2]] : stops[r[3]]])
    )
    first, end, second, last = next(found, (0, ends[0], ends[0] + 1, ends[-1]))
    spans = [(i, i) for i in range(len(starts))]
    spans = [*spans[:first], (first, end), *spans[end + 1 : second], (second, last)]
    spans += [(i, i) for i in range(last + 1, len(starts))]
    return [line[starts[a] : stops[b]] for a, b in spans]


def has_image_suffix(name: str) -> bool:
    """Return whether a name ends as those of images and masks do."""
    return name.lower().endswith(tuple(SUFFIXES))
