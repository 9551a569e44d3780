"""All that is printed: lines, notes, tables, JSON, progress bars, and names made safe for it."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rich.console import Console, RenderableType
from rich.progress import Progress

Item = TypeVar("Item")


@dataclass(frozen=True)
class Note:
    """A remark for the user that a result carries until the verb prints it.

    `info` reports, `note` asks for attention, `warning` is framed.
    """

    text: str
    level: Literal["info", "note", "warning"] = "info"

    def __str__(self) -> str:
        return self.text if self.level == "info" else f"{self.level}: {self.text}"


def terminal(stderr: bool = False) -> Console:
    """A console on the current stdout or stderr; text is printed as it is, without markup."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def write(line: object = "", *, stderr: bool = False) -> None:
    """Print one line, safe for a terminal and never wrapped."""
    print(safe(line), file=sys.stderr if stderr else sys.stdout, flush=True)


def write_notes(notes: Iterable[Note], *, stderr: bool = False) -> None:
    """Print notes, a line each; a warning stands in a frame."""
    for note in notes:
        frame = ["=" * 80] if note.level == "warning" else []
        for line in (*frame, note, *frame):
            write(line, stderr=stderr)


def write_json(content: Any) -> None:
    """Print a document that machines read; NaN and infinities are refused."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def write_table(table: RenderableType) -> None:
    """Print a rich table or text, as wide as the terminal."""
    terminal().print(table)


def safe(text: object) -> str:
    r"""Text with control characters and undecodable bytes as \xNN: names of files may hold them."""
    return "".join(map(_visible, str(text)))


def _visible(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
        return f"\\x{code:02x}"
    return character


def progress(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Yield the items under a progress bar, which a terminal shows until the last of them."""
    console = terminal(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    # what is printed meanwhile stands above the bar, or in the file where it goes to
    above = sys.stdout.isatty()
    with Progress(console=console, transient=True, redirect_stdout=above) as shown:
        yield from shown.track(items, total, description=label)


def format_duration(seconds: float) -> str:
    """Return '46 s', '12 min' or '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def format_score(score: float | None) -> str:
    """Return a score with four digits, '-' where it is undefined."""
    return "-" if score is None else f"{score:.4f}"
