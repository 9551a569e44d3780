"""Tables of text: rows of cells, whatever coding, separator and quotes they are written with."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from segtrain.data.decoding import SUFFIXES
from segtrain.data.layouts.folder_words import SPLIT_OF
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.files.whole import refuse_special

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# by name, the likelier first; none: each line is one cell
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " ", "no": ""}
# a cell in double or single quotes, or without, and the separator after it
CELLS = {
    mark: re.compile(rf"""\s*(?:"((?:[^"]|"")*)"|'([^']*)'|([^{pattern}]*?))\s*{pattern}""")
    for mark, pattern in {"\t": r"\t", ",": ",", ";": ";", "|": r"\|", " ": r"\s"}.items()
}
GAP = re.compile(r"\s*[\s,;|]\s*")
NO_ROW = re.compile(r"""[\s,;|"']*|"?sep=.?"?""")  # blank, or Excel's line with the separator
SAMPLE = 200  # lines from which separator and columns are inferred
SPLIT_VALUES = SPLIT_OF | {"trn": "train", "tr": "train", "eval": "val", "evaluation": "val"}
SPLIT_COLUMN = re.compile(r"split|subset|partition|usage|^set$|dataset|phase|fold|stage|^mode$")
FLAG_COLUMN = re.compile(r"is_?([a-z]+)")  # fastai's is_valid
YES, NO = {"true", "1", "yes", "1.0"}, {"false", "0", "no", "0.0", ""}
IsKnown = Callable[[str], bool]  # whether a cell is the name of something that is there


@dataclass(frozen=True)
class TableRow:
    """The cells of a line, as many as the table has columns or more, and its number."""

    number: int
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """The lines of a file, without blank lines and comments, and how they are split."""

    file: Path
    lines: Sequence[tuple[int, str]]  # number, text
    coding: str  # empty for UTF-8
    separator: str  # a name of SEPARATORS
    width: int  # cells of most rows
    is_known: IsKnown

    @cached_property
    def rows(self) -> list[TableRow]:
        """All rows: a list that is only tried is not split whole."""
        return [self._split(*line) for line in self.lines]

    @cached_property
    def sample(self) -> list[TableRow]:
        """Rows from all of the file, without the first, which may be a header."""
        return [self._split(*line) for line in _spread(self.lines)]

    def _split(self, number: int, line: str) -> TableRow:
        cells = split_line(line, SEPARATORS[self.separator])
        if len(cells) != self.width > 1:
            cells = cut_in_two(line, self.is_known) or cut_in_two(line, has_image_suffix) or cells
        return TableRow(number, cells + [""] * (self.width - len(cells)))

    def column(self, index: int) -> list[str]:
        """Return a column of the sample."""
        return [row.cells[index] for row in self.sample]

    def count_known(self, is_known: IsKnown) -> list[int]:
        """Return the rows of the sample whose cell is known, for each column."""
        # a name with separators in it makes a row longer than the others
        return _count_known((row.cells[: self.width] for row in self.sample), is_known)

    def split_header(
        self, columns: Iterable[int], is_content: IsKnown
    ) -> tuple[list[str], list[TableRow]]:
        """Return the first row's cells, if none in the columns is content, and the other rows."""
        if not self.rows or any(is_content(self.rows[0].cells[index]) for index in columns):
            return [], self.rows
        return self.rows[0].cells, self.rows[1:]

    def __str__(self) -> str:
        return " as ".join(filter(None, [f"read with {self.separator} separator", self.coding]))


def read_text(file: Path, limit: int = -1) -> tuple[str, str]:
    """Return a file's text, up to `limit` bytes, and, unless it is UTF-8, its coding.

    Raises UsageError for a missing file, SegtrainError for an unreadable one.
    """
    try:
        refuse_special(file)
        with open(file, "rb") as opened:
            content = opened.read(limit)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"data.splits: {file}: no such list file") from error
    except (OSError, ValueError) as error:  # a null byte in its name
        reason = error.strerror if isinstance(error, OSError) else error
        raise SegtrainError(f"{file}: not a list that can be read ({reason})") from error
    coding = "utf-16" if content.startswith(UTF_16) else "utf-8-sig"
    if coding == "utf-8-sig" and b"\0" in content[:4]:  # ASCII in two bytes each, without a mark
        coding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text, note = content.decode(coding), "" if coding == "utf-8-sig" else "UTF-16"
    except UnicodeDecodeError as error:
        if coding != "utf-8-sig":
            raise SegtrainError(f"{file}: not a list that can be read ({error})") from error
        line = content.count(b"\n", 0, error.start) + 1
        text = content.decode("cp1252", errors="replace")
        note = f"Latin-1: byte 0x{content[error.start]:02x} in line {line} is not UTF-8"
    if "\0" in text:
        raise SegtrainError(f"{file}: not a list that can be read (it has NUL characters)")
    return text, note


def read_table(file: Path, is_known: IsKnown, wanted: int = 1) -> Table:
    """Read a table by the separator with which most cells of `wanted` columns are known.

    Raises UsageError for a missing file, SegtrainError for an unreadable one.
    """
    text, coding = read_text(file)
    lines = [
        (number, stripped)
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)
        if not NO_ROW.fullmatch(stripped := line.strip("\ufeff \t"))
        and not (stripped[0] == "#" and not _names_file(stripped, is_known))  # a comment
    ]
    if file.suffix.lower() == ".jsonl":
        lines = _flatten_json(file, lines)
    sample = [line for _, line in _spread(lines)]
    cells = {name: [split_line(line, m) for line in sample] for name, m in SEPARATORS.items()}

    def rate(name: str) -> tuple[int, bool]:
        known = sum(sorted(_count_known(cells[name], is_known))[-wanted:])
        return known, wanted > 1 and 2 * sum(len(row) > 1 for row in cells[name]) > len(sample)

    # one name a line may hold separators: the whole line first
    best = max(SEPARATORS if wanted > 1 else reversed(SEPARATORS), key=rate)
    rows = cells[best]
    if wanted > 1 and rate(best)[0] < wanted * len(rows):
        rows = [
            row if sum(map(is_known, row)) > 1 else cut_in_two(line, is_known) or row
            for line, row in zip(sample, rows, strict=True)
        ]
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    return Table(file, lines, coding, best, width, is_known)


def _spread(lines: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    lines = lines[1:] or lines
    return lines[:: -(-len(lines) // SAMPLE) or 1]


def _names_file(line: str, is_known: IsKnown) -> bool:
    """Return whether a line that begins with # names a file of such a name."""
    return any(is_known(split_line(line, mark)[0]) for mark in SEPARATORS.values())


def _flatten_json(file: Path, lines: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the objects of JSON lines as lines of quoted cells below a header."""
    rows = []
    for number, line in lines:
        try:
            rows.append((number, dict(json.loads(line))))
        except (ValueError, TypeError) as error:
            raise SegtrainError(f"{file}: line {number} is no JSON object ({error})") from error
    names = {name: name for _, row in rows for name in row}
    cells = [(n, [str(row.get(name) or "") for name in names]) for n, row in [(0, names), *rows]]
    return [(n, ",".join('"{}"'.format(c.replace('"', '""')) for c in row)) for n, row in cells]


def _count_known(rows: Iterable[Sequence[str]], is_known: IsKnown) -> list[int]:
    counts: Counter[int] = Counter()
    for row in rows:
        counts.update({column: is_known(cell) for column, cell in enumerate(row)})
    return [counts[column] for column in range(len(counts))]


def split_line(line: str, mark: str) -> list[str]:
    """Return the cells of a line, without the quotes around them."""
    if '"' not in line and "'" not in line:
        return line.split() if mark == " " else [c.strip() for c in line.split(mark or "\n")]
    if not mark:
        return [line[1:-1] if len(line) > 1 and line[0] == line[-1] in ('"', "'") else line]
    found = CELLS[mark].findall(line + mark)
    return [double.replace('""', '"') or single or plain for double, single, plain in found]


def cut_in_two(line: str, fits: IsKnown) -> list[str] | None:
    """Return two cells that fit, whose names may hold separators; None where no gap divides so."""
    for gap in GAP.finditer(line):
        cells = [line[: gap.start()], line[gap.end() :]]
        if all(map(fits, cells)):
            return cells
    return None


def has_image_suffix(name: str) -> bool:
    """Return whether a name ends as those of images and masks do."""
    return name.lower().endswith(tuple(SUFFIXES))


def divide_rows(
    table: Table, header: Sequence[str], rows: Sequence[TableRow], taken: Collection[int]
) -> tuple[dict[str, list[TableRow]], str]:
    """Return the rows of each split, by the column that names splits, and a note about it.

    It is found by its values, of several the one named split; without one, all rows are of "".
    `taken` are columns of files. Raises SegtrainError where a column named so has other values,
    too.
    """
    found: dict[int, dict[str, str]] = {}
    note = ""
    for index in set(range(table.width)).difference(taken):
        name = header[index].strip().lower() if header else ""
        meanings = _split_values(name)
        values = {row.cells[index].strip().lower() for row in rows}
        splits = {value: meanings[value] for value in values if value in meanings}
        others = sorted(values - splits.keys())
        is_named = bool(SPLIT_COLUMN.search(name)) or meanings is not SPLIT_VALUES
        if others and ("split" in name or is_named and splits):
            raise SegtrainError(
                f"{table.file}: column {header[index]} has the values "
                f"{shorten(map(repr, others))}, which are no splits; use train, val and test"
            )
        if others and is_named:
            note = f"column {header[index]} not read: {shorten(others)} are no splits"
        elif not others and (is_named or len({*splits.values()}) > 1):
            found[index] = splits
    if not found:
        return {"": list(rows)}, note
    index = min(found, key=lambda column: not header or "split" not in header[column].lower())
    by_split: dict[str, list[TableRow]] = {}
    for row in rows:
        split = found[index][row.cells[index].strip().lower()]
        by_split.setdefault(split, []).append(row)
    return by_split, f"splits by column {header[index] if header else index + 1}"


def _split_values(name: str) -> dict[str, str]:
    """Return the splits that the values of a column mean, also of yes and no in is_valid."""
    match = FLAG_COLUMN.fullmatch(name)
    if not match or match[1] not in SPLIT_VALUES:
        return SPLIT_VALUES
    split = SPLIT_VALUES[match[1]]
    return dict.fromkeys(YES, split) | dict.fromkeys(NO, "val" if split == "train" else "train")
