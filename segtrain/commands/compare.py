"""segtrain compare: runs side by side, and which differences are more than noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segtrain.errors import UsageError
from segtrain.evaluation.comparison import describe, read_report, refuse_other_data
from segtrain.files import write_text
from segtrain.render.comparison_page import decimals, span, write_comparison


def compare(runs: list[Path], split: str, out: Path, as_json: bool = False) -> dict[str, Any]:
    """The verb: sets runs side by side, the first being what the others are compared with.

    Prints and writes the comparison, and returns it. Raises UsageError for runs that were not
    scored on the same images with the same truth.
    """
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < 2:
        raise UsageError("compare needs two different runs or more: segtrain compare RUN RUN...")
    if twice := [run for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]:
        raise UsageError(f"{twice[0]}: given twice; name each run once")
    reports = [read_report(run, split) for run in runs]
    for report in reports[1:]:
        refuse_other_data(report, reports[0])
    comparison = describe(reports, split)
    write_text(out / "comparison.json", json.dumps(comparison, indent=2, allow_nan=False) + "\n")
    write_comparison(out / "comparison.html", comparison)
    if as_json:
        print(json.dumps(comparison, indent=2, allow_nan=False))
    else:
        show(comparison, out)
    return comparison


def show(comparison: dict[str, Any], out: Path) -> None:
    """A table of at most 80 columns, and the sentences."""
    console = Console(highlight=False, markup=False)  # names are text, whatever they hold
    contenders = comparison["contenders"]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("mIoU", "95 %", "difference", "95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for c, d in zip(contenders, [None, *comparison["differences"]], strict=True):
        cells = [decimals(c["miou"]), span(c["miou_ci"])]
        cells += [decimals(d["miou"], "+"), span(d["miou_ci"])] if d else ["", ""]
        table.add_row(c["name"], *cells)
    console.print(table)
    for c in contenders:
        if len(c["runs"]) > 1:
            console.print(f"{c['name']}: seeds from {span(c['miou_range'])}")
    for d in comparison["differences"]:
        console.print(f"\n{d['sentence']}\n{d['about_classes']}")
    console.print("\n" + "\n".join(comparison["notes"]))
    console.print(f"wrote {out / 'comparison.html'}", soft_wrap=True)
