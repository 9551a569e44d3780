"""Tables as CSV files that spreadsheets and terminals can be given."""

import csv
import io
import re
from pathlib import Path
from typing import Any

from segtrain.console import UNSAFE, escape_character
from segtrain.files.whole import save_text

# what a spreadsheet takes for a formula, also behind the quote that keeps it from doing so
FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20]")
ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}))")


def save_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV file with the columns of all rows; None and missing values are empty fields.

    Texts are written as `quote_cell` does, for terminals and spreadsheets; `read_csv` undoes it.
    """
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(quote_cell, names))
    writer.writerows([quote_cell(row.get(name)) for name in names] for row in rows)
    save_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file that `save_csv` wrote; empty fields are ''."""
    with open(path, encoding="utf-8", newline="") as file:
        names, *rows = ([unquote_cell(cell) for cell in row] for row in csv.reader(file) if row)
    return [dict(zip(names, row, strict=True)) for row in rows]


def quote_cell(cell: Any) -> Any:
    r"""Return a cell as it is written: control characters of a text as \xNN or \uNNNN.

    A text that a spreadsheet would run as a formula starts with a single quote.
    """
    if not isinstance(cell, str):
        return cell
    # a backslash of the text's own that reads as an escape is escaped itself
    text = ESCAPE.sub(lambda match: rf"\x5c{match[0][1:]}", cell)
    text = UNSAFE.sub(lambda match: escape_character(match[0]), text)
    return f"'{text}" if FORMULA.match(text) else text


def unquote_cell(text: str) -> str:
    """Return the text of which `quote_cell` made this one."""
    text = text[1:] if text.startswith("'") and FORMULA.match(text) else text
    return ESCAPE.sub(lambda match: chr(int(match[match.lastindex or 0], 16)), text)
