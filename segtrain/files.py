"""Files written whole or not at all: text, bytes, JSON, CSV; and the cache folder."""

import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segtrain.console import UNSAFE, escape_character
from segtrain.errors import SegtrainError

# what a spreadsheet takes for a formula, also behind the quote that keeps it from doing so
FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20]")
ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}))")
SHELL_PIPES = ("/dev/fd/", "/dev/stdin", "/dev/null")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block ends without an exception.

    The temporary name keeps the suffix, by which writers choose a format. Raise SegtrainError
    where the file can't be written (full disk, read-only folder), with `path` unchanged.
    """
    if path.exists() and not path.is_file():  # root could replace even /dev/null
        raise SegtrainError(f"cannot write {path}: it exists and is no ordinary file")
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")  # ranks may write the same file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:  # after a power failure the name must not be empty
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SegtrainError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_special(path: Path) -> None:
    """Raise OSError for what exists and is no file: a pipe would never end, nor a device.

    A pipe of the shell's, as of <(command), is read.
    """
    status = path.stat()
    if stat.S_ISREG(status.st_mode) or str(path).startswith(SHELL_PIPES):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))


def stamp_files(*paths: Path) -> tuple[int, int] | None:
    """Return (bytes, time of the last change in ns) of files: unchanged as long as they are.

    Of several files both are sums, the second modulo 2**63. None where a file is missing.
    """
    try:
        status = [path.stat() for path in paths]
    except OSError:
        return None
    return sum(s.st_size for s in status), sum(s.st_mtime_ns for s in status) % 2**63


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while writing."""
    for leftover in folder.glob(".tmp-*"):
        with suppress(OSError):
            leftover.unlink()


def save_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; undecodable bytes of names as \\udcNN."""
    save_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def save_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all. Raise ValueError for NaN and infinities."""
    save_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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


def cache_folder() -> Path:
    """Return $SEGTRAIN_CACHE, else ~/.cache/segtrain; users may delete it at any time."""
    return Path(os.environ.get("SEGTRAIN_CACHE") or Path.home() / ".cache" / "segtrain")
