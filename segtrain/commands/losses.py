"""segtrain losses: the list of losses, with formula, arguments, defaults and source."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.table import Table

from segtrain.losses.build import FAMILIES, MINED, MINING, arguments_of, family


def show_losses(name: str | None) -> None:
    """The verb: all losses in a table, or one of them whole. Raises UsageError for none."""
    if name is None:
        return list_losses()
    chosen = family(name)
    print(signature(name))
    print(f"\n{inspect.getdoc(chosen)}\n")
    print(f"formula: {chosen.formula}")
    print(f"source: {chosen.source}")


def list_losses() -> None:
    table = Table("loss", "formula", "source", box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # whole names and links, however narrow the terminal
    for name, each in FAMILIES.items():
        table.add_row(signature(name), each.formula, each.source)
    Console().print(table, highlight=False)
    print(
        f"\nA weighted sum is written as such: 'ohem(thresh=0.6)+0.5*dice'. {', '.join(MINING)} "
        f"mine {', '.join(MINED)}: 'ohem(focal)'."
    )


def signature(name: str) -> str:
    """The loss as an expression with all its arguments and their defaults."""
    arguments = [f"{key}={value!r}" for key, value in arguments_of(FAMILIES[name]).items()]
    return f"{name}({', '.join(arguments)})"
