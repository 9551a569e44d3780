"""segtrain compare: runs side by side, and which of their differences are beyond noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segtrain.console import write, write_json, write_rows, write_table
from segtrain.errors import SegtrainError, UsageError
from segtrain.evaluation.comparison import build_comparison
from segtrain.evaluation.scored_runs import find_scores, read_scored_run, refuse_other_data
from segtrain.files.whole import format_json, save_together
from segtrain.render.comparison_page import (
    FEW_GROUPS,
    format_interval,
    format_signed,
    render_comparison,
)


def compare(paths: list[Path], split: str, out: Path, as_json: bool = False) -> dict[str, Any]:
    """Compare runs with the first of them; write, print and return the comparison.

    Those that can't be read, or were not scored on the same images with the same truth, are left
    out where two others can be compared; SegtrainError then names them after the comparison.
    """
    resolved = [find_scores(path, split).resolve() for path in paths]
    if len(set(resolved)) < 2:
        raise UsageError("compare needs two different runs or more: segtrain compare RUN RUN...")
    repeated = [p for p, run in zip(paths, resolved, strict=True) if resolved.count(run) > 1]
    if repeated:
        raise UsageError(f"{repeated[0]}: given twice; name each run once")
    runs, failures = [read_scored_run(paths[0], split)], dict[str, str]()
    for path in paths[1:]:
        try:
            run = read_scored_run(path, split)
            refuse_other_data(run, runs[0])
            runs.append(run)
        except SegtrainError as error:
            failures[str(path)] = str(error)
            if len(paths) == len(failures) + 1:
                raise
    comparison = build_comparison(runs, split, failures)
    texts = {
        "comparison.json": format_json(comparison),
        "comparison.html": render_comparison(comparison),
    }
    save_together(out, texts)
    if as_json:
        write_json(comparison)
    else:
        print_comparison(comparison, out)
    if failures:
        listed = "; ".join(failures.values())
        raise SegtrainError(f"{len(failures)} of {len(paths)} runs were not compared: {listed}")
    return comparison


def print_comparison(comparison: dict[str, Any], out: Path) -> None:
    """Print a table of at most 80 columns, and the sentences."""
    groups = comparison["contenders"]
    rows = []
    for group, row in zip(groups, [None, *comparison["differences"]], strict=True):
        cells = [group["name"], format_signed(group["miou"]), format_interval(group["miou_ci"])]
        signed = [format_signed(row["miou"], "+"), format_interval(row["miou_ci"])] if row else []
        rows.append([*cells, *(signed or ["", ""])])
    columns = ("", "mIoU", "95 %", "difference", "95 %")
    write_rows(columns, rows, drop=(2, 4, 1), gap=2)
    if len(comparison["differences"]) > FEW_GROUPS:
        write()
        write_table(f"{comparison['headline']} Classes and seeds of each are in the page.")
    else:
        print_sentences(comparison)
    write()
    for line in comparison["outdated"]:
        write(f"note: {line}")  # ends with a command, which no line break may cut
    for warning in comparison["warnings"]:
        write_table(f"note: {warning}")
    for note in comparison["notes"]:
        write_table(note)
    write(f"wrote {out / 'comparison.html'}")


def print_sentences(comparison: dict[str, Any]) -> None:
    """Print what is worth a sentence of each run group and difference."""
    for group in comparison["contenders"]:
        if len(group["runs"]) > 1:
            write_table(f"{group['name']}: seeds from {format_interval(group['miou_range'])}")
    for row in comparison["differences"]:
        write()
        write_table(row["sentence"])
        write_table(row["about_classes"])
