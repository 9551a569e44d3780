"""segtrain losses: the list of losses, with formula, arguments, defaults and source."""

from __future__ import annotations

import inspect

from rich.table import Table

from segtrain.console import NARROW, note_choice, terminal, write, write_notes, write_table
from segtrain.errors import match_choice
from segtrain.losses.arguments import ARGUMENTS, INNER, OUTER
from segtrain.losses.spec import find_family


def show_losses(name: str | None) -> None:
    """Write all losses as a table, or one of them in full. Raises UsageError."""
    if name is None:
        return list_losses()
    choice = match_choice(name, ARGUMENTS) or name
    write_notes([note_choice(name, choice)] if choice != name else [], stderr=True)
    family = find_family(choice)
    write(signature(choice))
    write()
    for line in (inspect.getdoc(family) or "").splitlines():
        write(line)
    write()
    write(f"formula: {family.formula}")
    write(f"source: {family.source}")


def list_losses() -> None:
    """Write the table of losses, and how a sum or a mining loss is written."""
    columns = ("loss", "formula", "source")
    shown = 3 if terminal().width >= NARROW else 2
    table = Table(*columns[:shown], box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # whole names and links, however narrow the terminal
    for name, family in ARGUMENTS.items():
        table.add_row(*(signature(name), family.formula, family.source)[:shown])
    write_table(table)
    write()
    if shown < len(columns):
        write_table(f"{columns[-1]}: 'segtrain losses NAME' has it")
    write(
        f"Write a weighted sum as such: 'ohem(thresh=0.6)+0.5*dice'. {', '.join(OUTER)} go around "
        f"{', '.join(INNER)}: 'ohem(focal)'."
    )


def signature(name: str) -> str:
    """Return the loss as an expression with all its arguments and their defaults."""
    defaults = ARGUMENTS[name].defaults()
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in defaults.items())})"
