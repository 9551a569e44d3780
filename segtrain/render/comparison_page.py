"""comparison.html: scores of run groups, their differences, and how they were compared."""

from __future__ import annotations

from typing import Any

from segtrain.console import show_names
from segtrain.render.templating import LONGEST_NAME, render_page

MOST_COLUMNS = 6  # fields of the config beside the scores
FEW_GROUPS = 6  # of run groups that are compared in words; of more, tables and plots are shown


def render_comparison(comparison: dict[str, Any]) -> str:
    """Return the page of a comparison as `segtrain compare --json` prints it."""
    low, high = compute_plot_range(comparison["differences"])
    fields = comparison["configs"]
    in_columns = 2 <= len(fields) <= MOST_COLUMNS and all(
        g["fields"] for g in comparison["contenders"]
    )
    return render_page(
        "comparison.html",
        comparison=comparison,
        names=show_names(comparison["classes"], LONGEST_NAME),
        position=lambda value: f"{100 * (value - low) / (high - low):.2f}%",
        ends=(low, high),
        fields=fields if in_columns else [],
        few=len(comparison["differences"]) <= FEW_GROUPS,
        score=format_signed,
        interval=format_interval,
    )


def compute_plot_range(differences: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the ends of the plot: all differences, their intervals and 0 lie well inside."""
    values = [0.0]
    for difference in differences:
        values += [difference["miou"] or 0.0, *(difference["miou_ci"] or [])]
    margin = 0.08 * (max(values) - min(values)) or 0.01
    return min(values) - margin, max(values) + margin


def format_signed(value: float | None, sign: str = "") -> str:
    """Return a value with four decimals, never -0.0000; with sign "+" always with its sign."""
    return "-" if value is None else f"{value:{sign}z.4f}"


def format_interval(ends: list[float] | None) -> str:
    """Return '0.1000 to 0.2000', '-' where there is no interval."""
    return "-" if ends is None else f"{format_signed(ends[0])} to {format_signed(ends[1])}"
