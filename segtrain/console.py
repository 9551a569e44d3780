"""Everything that is printed: lines, notes, tables, JSON and progress bars, safe for a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TextIO, TypeVar

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from segtrain.errors import SegtrainError, cut_middle

Item = TypeVar("Item")

_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"  # control characters, separators, surrogates
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of the reading direction
    # nothing to see
    r"\xad\u115f\u1160\u200b\u2060-\u2064\u206a-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
# joiners belong to the letters and emoji that they follow
UNSAFE = re.compile(rf"[{_UNSAFE}]|(?<![^\x00-\xff\u200c\u200d{_UNSAFE}])[\u200c\u200d]")
NARROW = 78  # columns of a terminal below which tables leave out columns
SHORTEST_NAME = 20  # columns of a table's names: no others are left out for longer ones


@dataclass(frozen=True)
class Note:
    """A remark for the user that a result carries until the verb prints it.

    `info` reports, `note` asks for attention, `warning` is framed.
    """

    text: str
    level: Literal["info", "note", "warning"] = "info"

    def __str__(self) -> str:
        return self.text if self.level == "info" else f"{self.level}: {self.text}"


def note_choice(given: str, choice: str) -> Note:
    """Return the note that a word in another spelling is taken for a choice."""
    return Note(f"{given} is taken for {choice}", "note")


class _Terminal(Console):
    """A rich console that makes each string in a table or line safe, as `write` does."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(safe(text), **options)


def terminal(stderr: bool = False) -> Console:
    """Return a console on the current stdout or stderr that prints text as it is, no markup."""
    # names may hold [brackets] and :colons:, which are styles and emoji to rich
    file = sys.stderr if stderr else sys.stdout  # now: a bar stays on it, whatever is redirected
    return _Terminal(file=file, stderr=stderr, markup=False, highlight=False, emoji=False)


def accept_any_text() -> None:
    """Print characters that the encoding of stdout or stderr lacks as escapes instead of failing.

    File names need not be valid text, and the encoding of a terminal or file may be ASCII.
    Warnings and logs of libraries, which repeat names, are made safe as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    if logging.lastResort:  # prints what a library logs where nothing is set up
        logging.lastResort.setFormatter(_SafeFormatter())
    # on its cache folder and on fonts: what a picture lacks, render/fonts.py says
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"(matplotlib|segtrain\.render)\b"
    )
    # the number of loader workers is the user's choice
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep a library from logging anything but errors."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _SafeFormatter(logging.Formatter):
    """A formatter of log records whose lines are safe for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(safe, super().format(record).split("\n")))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    kind = "" if category is UserWarning else f" ({category.__name__})"
    write(f"warning: {cut_middle(' '.join(str(message).split()), 1000)}{kind}", stderr=True)


def write(line: object = "", *, stderr: bool = False) -> None:
    """Print one line, safe for a terminal and never wrapped."""
    _print(safe(line), stderr)


def write_lines(text: str, *, stderr: bool = False) -> None:
    """Print a text of several lines, each as `write` does."""
    for line in text.rstrip("\n").split("\n"):
        write(line, stderr=stderr)


def write_unbuffered(line: str) -> None:
    """Print one line on stderr past Python's buffers.

    For a signal handler, which may have interrupted a print, and a process that ends at once.
    """
    os.write(2, f"{safe(line)}\n".encode(errors="backslashreplace"))


def write_notes(notes: Iterable[Note], *, stderr: bool = False) -> None:
    """Print notes, a line each; a warning stands in a frame."""
    for note in notes:
        frame = ["=" * 80] if note.level == "warning" else []
        for line in (*frame, note, *frame):
            write(line, stderr=stderr)


def write_json(content: Any) -> None:
    """Print a JSON document. Raise ValueError for NaN and infinities."""
    # the escapes of accept_any_text, such as \xe4, are not JSON: write JSON's own instead
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    only_ascii = not encoding.lower().startswith("utf")
    text = json.dumps(content, indent=2, ensure_ascii=only_ascii, allow_nan=False)
    _print("\n".join(UNSAFE.sub(_json_escape, line) for line in text.split("\n")), stderr=False)


def write_styled(*parts: str | tuple[str, str]) -> None:
    """Print one line of texts, some as (text, rich style), safe for a terminal, never wrapped."""
    line = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append(safe(text), style)
    with _named_failure(stderr=False):
        terminal().print(line, soft_wrap=True)


def write_table(table: RenderableType, min_width: int = 0) -> None:
    """Print a rich table or text as wide as the terminal, or at least `min_width` if given.

    With `min_width` no cell is cut off to fit: a line may run over the terminal's edge instead.
    """
    console = terminal()
    console.width = max(console.width, min_width)
    with _named_failure(stderr=False):
        console.print(table, soft_wrap=min_width > 0)


def write_rows(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    drop: Sequence[int],
    gap: int = 1,
    min_width: int = 0,
) -> None:
    """Print a table: a name in the first column, numbers in the others, `gap` blanks between.

    A terminal too narrow for it leaves out the columns `drop`, first to last; a line names them.
    One of NARROW columns or more counts as `min_width` wide: lines run over its edge.
    """
    width = terminal().width
    min_width = min_width if width >= NARROW else 0
    cells = [[safe(cell) for cell in column] for column in zip(columns, *rows, strict=True)]
    widths = [max(map(cell_len, column)) + gap for column in cells]
    widths[0] = min(SHORTEST_NAME + gap, widths[0])
    kept = list(range(len(columns)))
    for i in drop:
        if sum(widths[k] for k in kept) - gap > max(width, min_width):
            kept.remove(i)
    table = Table(box=None, header_style="bold", padding=(0, gap, 0, 0), pad_edge=False)
    table.add_column(columns[0], overflow="fold")
    for i in kept[1:]:
        table.add_column(columns[i], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[k] for k in kept))
    write_table(table, min_width)
    if missing := dict.fromkeys(name for i, name in enumerate(columns) if i not in kept):
        write_table(f"left out of {width} columns: {', '.join(missing)}; --json has all")


def write_above(bar: Progress, line: object) -> None:
    """Print one line above a live progress bar on stdout, never wrapped."""
    with _named_failure(stderr=False):
        bar.console.print(line, soft_wrap=True)


def _print(text: str, stderr: bool) -> None:
    with _named_failure(stderr):  # flush: a full disk fails here, not at exit
        print(text, file=sys.stderr if stderr else sys.stdout, flush=True)


@contextmanager
def _named_failure(stderr: bool) -> Iterator[None]:
    """Raise a SegtrainError where output can't be written, as to a file on a full disk."""
    try:
        yield
    except BrokenPipeError:  # the reader, such as head, has ended: the command line's to handle
        raise
    except OSError as error:
        name = "stderr" if stderr else "stdout"
        raise SegtrainError(f"cannot write to {name}: {error.strerror or error}") from error


def safe(text: object) -> str:
    r"""Return text with control characters and undecodable bytes as \xNN or \uNNNN."""
    return UNSAFE.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    # 0xdc80 to 0xdcff: a byte of a file name that is not UTF-8
    return escape_character(chr(code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code))


def show_names(names: Sequence[str], limit: int) -> list[str]:
    """Return names of classes, in order, for a table or picture: no two of them look the same.

    Each is safe, at most `limit` columns wide without its middle, and numbered where another one
    would be equal then; a blank one is its class id.
    """
    shown: dict[str, None] = {}
    for class_id, name in enumerate(names):
        whole = safe(name) if name.strip() else f"class {class_id}"
        text, number = cut_middle(whole, limit, cell_len), class_id
        while text in shown:
            end = f" #{number}"
            text, number = cut_middle(whole, limit - len(end), cell_len) + end, number + 1
        shown[text] = None
    return list(shown)


def escape_character(character: str) -> str:
    r"""Return \xNN, \uNNNN or \UNNNNNNNN, as in Python."""
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def progress(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Yield the items under a progress bar, which a terminal shows until the last of them."""
    console = terminal(stderr=True)  # stdout may be JSON
    if not console.is_terminal:
        yield from items
        return
    # lines printed meanwhile appear above the bar, unless stdout is a file
    redirect = sys.stdout is not None and sys.stdout.isatty()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as bar:
        yield from bar.track(items, total, description=safe(label))


def format_duration(seconds: float) -> str:
    """Return '46 s', '12 min' or '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def format_score(score: float | None) -> str:
    """Return a score with four digits, '-' where it is undefined."""
    return "-" if score is None else f"{score:.4f}"
