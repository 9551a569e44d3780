"""segtrain check: every file read once, one page of contents, problems and fixes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segtrain.config import Config
from segtrain.config.loading import load_config
from segtrain.data.findings import Finding, apply_fixes, merge_fixes
from segtrain.data.inspection.survey import Inspection, Survey, survey
from segtrain.errors import UsageError
from segtrain.files import write_text

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_PLACES = 3  # files that the page names for each finding; --json has all
PAGE_WIDTH = 130
MOST_CLASSES = 40  # rows that a page can bear


def check(
    path: str | None,
    file: Path | None,
    sets: list[str] = [],
    preview: Path | None = None,
    augment: Path | None = None,
    as_json: bool = False,
    write_config: Path | None = None,
) -> bool:
    """The verb: prints the page and writes what is asked for; whether there is no error."""
    for option, target in (("--preview", preview), ("--augment", augment)):
        if target and target.suffix.lower() not in SHEET_SUFFIXES:
            raise UsageError(f"{option} {target}: expected a name ending in .png, .jpg or .webp")
    config = load_config(file, sets, {"data.path": path})
    found = survey(config.data, config.model.in_channels, full=True)
    report = describe(found)
    console = Console(soft_wrap=True)
    console.width = max(console.width, PAGE_WIDTH)  # a number cut off is worse than a long line
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show(report, found.findings, console)
    if write_config:
        text = dataset_yaml(found, config, report)
        write_text(write_config, text.encode("utf-8", "backslashreplace").decode())
    if preview or augment:
        from segtrain.commands.contact_sheets import write_sheets

        write_sheets(found, config, preview, augment)
    for written in filter(None, (preview, augment, write_config)):
        if not as_json:
            use = f", for 'segtrain fit --config {written}'" if written == write_config else ""
            console.print(f"wrote {written}{use}", highlight=False, markup=False)
    return not report["errors"]


def describe(found: Inspection) -> dict[str, Any]:
    """All that the page says, for machines too."""
    train = [fact.image for fact in found.facts["train"]]
    sizes = Counter(f.image.size for split in found.facts.values() for f in split)
    mean, std = channel_moments(train)
    return {
        "data": str(found.source.root),
        "format": found.source.format,
        "layout": found.source.layout,
        "said": [str(note) for note in (*found.source.notes, *found.notes)],
        "pairs": {split: len(samples) for split, samples in found.source.splits.items()},
        "readable": {split: len(facts) for split, facts in found.facts.items()},
        "sizes": [
            {"width": width, "height": height, "images": count}
            for (height, width), count in sizes.most_common()
        ],
        "mean": mean,
        "std": std,
        "classes": class_rows(found),
        "errors": sum(finding.error for finding in found.findings),
        "notes": sum(not finding.error for finding in found.findings),
        "findings": [
            {
                "kind": finding.kind,
                "severity": "error" if finding.error else "note",
                "text": finding.text,
                "count": len(finding.places),
                "places": finding.places,
                "remedy": finding.remedy,
                "mend": {f"data.{key}": value for key, value in finding.fix.items()},
            }
            for finding in found.findings
        ],
    }


def channel_moments(images: list) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels, of 0..255 values."""
    images = [image for image in images if image.pixels]
    if not images:
        return [], []
    pixels = sum(image.pixels for image in images)
    mean = np.sum([image.sums for image in images], axis=0) / pixels
    squares = np.sum([image.squares for image in images], axis=0) / pixels
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    return mean.round(2).tolist(), std.round(2).tolist()


def class_rows(found: Inspection) -> list[dict[str, Any]]:
    """A row a class: its pixels, its share of them, the images it occurs in, by split."""
    if not isinstance(found, Survey):
        return []
    rows = []
    for class_id, name in enumerate(found.data_set.classes):
        row: dict[str, Any] = {"id": class_id, "name": name}
        for split, counts in found.by_image.items():
            row[split] = {
                "pixels": int(counts[:, class_id].sum()),
                "share": float(counts[:, class_id].sum() / max(1, counts.sum())),
                "images": int((counts[:, class_id] > 0).sum()),
            }
        rows.append(row)
    return rows


def show(report: dict[str, Any], findings: list[Finding], console: Console) -> None:
    """The page."""

    def line(label: str, text: str) -> None:
        console.print(f"[bold]{label:<9}[/]{escape(text)}", highlight=False)

    line("data", report["data"])
    line("layout", f"{report['format']}: {report['layout']}")
    line("pairs", ", ".join(f"{count} {split}" for split, count in report["pairs"].items()))
    line("sizes", sizes_line(report["sizes"]))
    if report["mean"]:
        line("channels", f"mean {report['mean']}, std {report['std']} (of 0..255, training images)")
    for said in report["said"]:
        console.print(escape(said), highlight=False)
    if report["classes"]:
        console.print(class_table(report["classes"], list(report["readable"])))
    for finding in sorted(findings, key=lambda finding: not finding.error):
        show_finding(finding, console)
    errors, notes = report["errors"], report["notes"]
    how = " (--write-config FILE writes these lines)" if merge_fixes(findings) else ""
    verdict = (
        f"[bold red]{errors} error{'s' * (errors != 1)}[/]: fix before training{how}"
        if errors
        else "[bold green]no error[/]: 'segtrain fit' can train on this data set"
    )
    console.print(f"{verdict}; {notes} note{'s' * (notes != 1)}", highlight=False)


def sizes_line(sizes: list[dict[str, int]]) -> str:
    shown = ", ".join(f"{s['width']}x{s['height']} ({s['images']})" for s in sizes[:4])
    if len(sizes) <= 4:
        return shown or "none"
    widths, heights = ([size[side] for size in sizes] for side in ("width", "height"))
    extent = f"widths {min(widths)}-{max(widths)}, heights {min(heights)}-{max(heights)}"
    return f"{shown} and {len(sizes) - 4} more; {extent}"


def class_table(rows: list[dict[str, Any]], splits: list[str]) -> Table:
    table = Table("id", "class", box=None, header_style="bold")
    for split in splits:
        for column in (f"{split} pixels", "share", "images"):
            table.add_column(column, justify="right")
    for row in rows[:MOST_CLASSES]:
        cells = [str(row["id"]), escape(row["name"])]
        for split in splits:
            part = row[split]
            cells += [f"{part['pixels']:,}", f"{part['share']:.2%}", str(part["images"])]
        table.add_row(*cells)
    if len(rows) > MOST_CLASSES:
        table.add_row("", f"and {len(rows) - MOST_CLASSES} more (--json has all)")
    return table


def show_finding(finding: Finding, console: Console) -> None:
    mark = "[bold red]error[/]" if finding.error else "[bold yellow]note[/] "
    console.print(f"{mark}    {escape(finding.text)}", highlight=False)
    for place in finding.places[:MOST_PLACES]:
        console.print(f"           {escape(place)}", highlight=False)
    if len(finding.places) > MOST_PLACES:
        more = len(finding.places) - MOST_PLACES
        console.print(f"           and {more} more (--json has all)", highlight=False)
    if finding.remedy:
        console.print(f"         [bold]->[/] {escape(finding.remedy)}", highlight=False)


def dataset_yaml(found: Inspection, config: Config, report: dict[str, Any]) -> str:
    """A data section that works as it is: what was found, and the lines that fix the errors."""
    source = found.source
    data = apply_fixes(found.config, found.findings)
    text = f"# {source.root}: {source.layout}\n"
    for finding in found.findings:
        if finding.error:
            done = "fixed below" if finding.fix else "to be fixed by hand"
            text += f"# {done}: {' '.join(str(finding).split())}\n"
    changed = data.model_dump(mode="json", exclude_defaults=True) | {"path": str(source.root)}
    if not data.splits:
        changed["format"] = source.format
    if data.label_map:
        changed["label_map"] = data.label_map  # JSON made its keys text
    sections: dict[str, Any] = {"data": changed}
    moments = {
        "in_channels": config.model.in_channels,
        "mean": report["mean"],
        "std": report["std"],
    }
    if config.model.in_channels != 3 and report["mean"]:
        sections["model"] = moments
    text += yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, default_flow_style=None)
    if config.model.in_channels == 3 and report["mean"]:
        text += "# of this data's own, for training from random weights:\n"
        text += f"# model: {{mean: {report['mean']}, std: {report['std']}}}\n"
    return text
