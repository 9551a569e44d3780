"""comparison.html: runs, their differences as bars, and what was compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segtrain.files import write_text
from segtrain.render.templating import page


def write_comparison(path: Path, comparison: dict[str, Any]) -> None:
    """comparison: what `segtrain compare --json` prints. Raises SegtrainError."""
    scale = scale_of(comparison["differences"])
    html = page(
        "comparison.html",
        comparison=comparison,
        place=lambda value: f"{100 * (value - scale[0]) / (scale[1] - scale[0]):.2f}%",
        ends=scale,
        decimals=decimals,
        span=span,
    )
    write_text(path, html)


def scale_of(differences: list[dict[str, Any]]) -> tuple[float, float]:
    """Low and high end of the plot: all differences, intervals and 0 lie well within."""
    values = [0.0]
    for difference in differences:
        values += [difference["miou"] or 0.0, *(difference["miou_ci"] or [])]
    room = 0.08 * (max(values) - min(values)) or 0.01
    return min(values) - room, max(values) + room


def decimals(value: float | None, sign: str = "") -> str:
    """A score with four decimals; with sign "+", a difference."""
    return "-" if value is None else f"{value:{sign}z.4f}"


def span(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{decimals(ends[0])} to {decimals(ends[1])}"
