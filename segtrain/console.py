"""Progress bars and number formats."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def bar(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """The items, with a bar that goes away at the end where a terminal shows it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    # what is printed meanwhile stands above the bar, or in the file where it goes to
    above = sys.stdout.isatty()
    with Progress(console=console, transient=True, redirect_stdout=above) as progress:
        yield from progress.track(items, total, description=label)


def duration(seconds: float) -> str:
    """'46 s', '12 min' or '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"
