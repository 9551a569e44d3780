"""segtrain check: contents, problems and fixes of a data set, after one reading of every file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.config import Config
from segtrain.config.choices import format_choice, format_fields
from segtrain.config.loading import adopt_older_names
from segtrain.config.yaml_text import dump_yaml
from segtrain.console import (
    safe,
    show_names,
    write,
    write_json,
    write_notes,
    write_rows,
    write_styled,
)
from segtrain.data.findings import Finding, apply_fixes, list_choices, merge_fixes
from segtrain.data.inspection.scan import ImageFacts
from segtrain.data.inspection.survey import Inspection, Survey, inspect_data_set
from segtrain.errors import UsageError
from segtrain.files.whole import save_text

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PLACES = 3  # files that the page names for each finding; --json has all
MAX_CLASSES = 40  # rows of the table of classes
LONGEST_NAME = 60  # columns of a class name
PAGE_WIDTH = 130  # a number cut off is worse than a long line


def check(
    config: Config,
    preview: Path | None = None,
    augment: Path | None = None,
    as_json: bool = False,
    write_config: Path | None = None,
) -> bool:
    """Print the report on a data set and write the files asked for.

    Returns True where no finding is an error.
    """
    config, notes = adopt_older_names(config)
    write_notes(notes, stderr=as_json)
    for option, file in (("--preview", preview), ("--augment", augment)):
        if file and file.suffix.lower() not in SHEET_SUFFIXES:
            raise UsageError(f"{option} {file}: expected a name ending in .png, .jpg or .webp")
    inspection = inspect_data_set(config.data, config.model.in_channels, full=True)
    report = build_check_report(inspection)
    if as_json:
        write_json(report)
    else:
        print_check_report(report, inspection.findings)
    if write_config:
        save_text(write_config, build_dataset_yaml(inspection, config, report))
    if preview or augment:  # imported for these alone: torch takes seconds
        from segtrain.commands.contact_sheets import write_sheets

        write_sheets(inspection, config, preview, augment)
    if not as_json:
        for file in filter(None, (preview, augment)):
            write(f"wrote {file}")
        if write_config:
            undecided = any(finding.error and finding.choices for finding in inspection.findings)
            choose = " once a reading is chosen in it" if undecided else ""
            write(f"wrote {write_config}, for 'segtrain fit --config {write_config}'{choose}")
    return not report["errors"]


def build_check_report(inspection: Inspection) -> dict[str, Any]:
    """Return the content of the report, as --json prints it."""
    sizes = Counter(f.image.size for split in inspection.facts.values() for f in split)
    mean, std = channel_moments([fact.image for fact in inspection.facts["train"]])
    return {
        "data": inspection.source.place,
        "format": inspection.source.format,
        "layout": inspection.source.layout,
        "said": [str(note) for note in (*inspection.source.notes, *inspection.notes)],
        "pairs": {split: len(samples) for split, samples in inspection.source.splits.items()},
        "readable": {split: len(facts) for split, facts in inspection.facts.items()},
        "sizes": [
            {"width": width, "height": height, "images": count}
            for (height, width), count in sizes.most_common()
        ],
        "mean": mean,
        "std": std,
        "classes": build_class_rows(inspection) if isinstance(inspection, Survey) else [],
        "ignored": build_ignored_row(inspection) if isinstance(inspection, Survey) else {},
        "errors": sum(finding.error for finding in inspection.findings),
        "notes": sum(not finding.error for finding in inspection.findings),
        "findings": [
            {
                "kind": finding.kind,
                "severity": "error" if finding.error else "note",
                "text": finding.text,
                "count": len(finding.places),
                "places": finding.places,
                "remedy": finding.remedy,
                "mend": {f"data.{key}": value for key, value in finding.fix.items()},
                "choices": [
                    {"meaning": choice.meaning}
                    | {f"data.{key}": value for key, value in choice.fix.items()}
                    for choice in finding.choices
                ],
            }
            for finding in inspection.findings
        ],
    }


def channel_moments(images: list[ImageFacts]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, of 0..255 values."""
    images = [image for image in images if image.pixels]
    if not images:
        return [], []
    pixels = sum(image.pixels for image in images)
    mean = np.sum([image.sums for image in images], axis=0) / pixels
    squares = np.sum([image.squares for image in images], axis=0) / pixels
    std = np.sqrt(np.maximum(squares - mean**2, 0))  # rounding may make a constant's negative
    return mean.round(2).tolist(), std.round(2).tolist()


def build_class_rows(inspection: Survey) -> list[dict[str, Any]]:
    """Return a row for each class: its pixels, their share and its images, by split."""
    rows = []
    for class_id, name in enumerate(inspection.data_set.classes):
        row: dict[str, Any] = {"id": class_id, "name": name}
        for split, counts in inspection.by_image.items():
            row[split] = {
                "pixels": int(counts[:, class_id].sum()),
                "share": float(counts[:, class_id].sum() / max(1, counts.sum())),
                "images": int((counts[:, class_id] > 0).sum()),
            }
        rows.append(row)
    return rows


def build_ignored_row(inspection: Survey) -> dict[str, dict[str, Any]]:
    """Return the ignored pixels, their share of all pixels and the images with any, by split."""
    row = {}
    for split, (pixels, total) in inspection.ignored.items():
        valid = inspection.by_image[split].sum(1)
        sizes = [height * width for height, width in inspection.sizes[split]]
        images = int((valid < np.array(sizes, np.int64)).sum())
        row[split] = {"pixels": pixels, "share": pixels / max(1, total), "images": images}
    return row


def print_check_report(report: dict[str, Any], findings: list[Finding]) -> None:
    """Print the report on one page, errors before notes."""
    splits = ", ".join(f"{count} {split}" for split, count in report["pairs"].items())
    lines = {
        "data": report["data"],
        "layout": f"{report['format']}: {report['layout']}",
        "pairs": splits,
        "sizes": format_sizes(report["sizes"]),
    }
    if report["mean"]:
        moments = f"mean {report['mean']}, std {report['std']}"
        lines["channels"] = f"{moments} (of 0..255, training images)"
    for label, text in lines.items():
        write_styled((f"{label:<9}", "bold"), text)
    for note in report["said"]:
        write(note)
    if report["classes"]:
        splits_read = list(report["readable"])
        print_class_table(report["classes"], report["ignored"], splits_read)
    for finding in sorted(findings, key=lambda finding: not finding.error):
        print_finding(finding)
    errors, notes = report["errors"], report["notes"]
    counted = f"; {notes} note{'s' * (notes != 1)}"
    if errors:
        count = f"{errors} error{'s' * (errors != 1)}"
        written = merge_fixes(findings) or any(f.error and f.choices for f in findings)
        hint = " (--write-config FILE writes these lines)" if written else ""
        write_styled((count, "bold red"), f": fix before training{hint}{counted}")
    else:
        hint = ": 'segtrain fit' can train on this data set"
        write_styled(("no error", "bold green"), hint + counted)


def format_sizes(sizes: list[dict[str, int]]) -> str:
    """Return the four most frequent sizes, and the range of all where there are more."""
    shown = ", ".join(f"{s['width']}x{s['height']} ({s['images']})" for s in sizes[:4])
    if len(sizes) <= 4:
        return shown or "none"
    widths, heights = ([size[side] for size in sizes] for side in ("width", "height"))
    extent = f"widths {min(widths)}-{max(widths)}, heights {min(heights)}-{max(heights)}"
    return f"{shown} and {len(sizes) - 4} more; {extent}"


def print_class_table(
    rows: list[dict[str, Any]], ignored: dict[str, Any], splits: list[str]
) -> None:
    """Print pixels, share and images of each class, by split."""
    names = show_names([row["name"] for row in rows], LONGEST_NAME)[:MAX_CLASSES]
    labelled = [(f"{row['id']:<3} {name}", row) for row, name in zip(rows, names, strict=False)]
    if any(part["pixels"] for part in ignored.values()):
        labelled.append(("    ignored (share of all pixels)", ignored))
    table = [
        [label, *(cell for split in splits for cell in format_counts(row[split]))]
        for label, row in labelled
    ]
    if len(rows) > MAX_CLASSES:
        more = f"    and {len(rows) - MAX_CLASSES} more (--json has all)"
        table.insert(MAX_CLASSES, [more, *[""] * 3 * len(splits)])
    columns = ["id  class"]
    for split in splits:
        columns += [f"{split} pixels", "share", "images"]
    # images first, then shares, then the last splits' pixels; those of the first stay
    drop = [*range(3, len(columns), 3), *range(2, len(columns), 3), *range(len(columns) - 3, 1, -3)]
    write_rows(columns, table, drop, gap=2, min_width=PAGE_WIDTH)


def format_counts(part: dict[str, Any]) -> tuple[str, str, str]:
    """Return pixels, share and images of a class in a split."""
    return f"{part['pixels']:,}", f"{part['share']:.2%}", str(part["images"])


def print_finding(finding: Finding) -> None:
    """Print a finding: what is wrong, the first places, and what to do."""
    mark = ("error", "bold red") if finding.error else ("note ", "bold yellow")
    write_styled(mark, f"    {finding.text}")
    for place in finding.places[:MAX_PLACES]:
        write(f"           {place}")
    if len(finding.places) > MAX_PLACES:
        write(f"           and {len(finding.places) - MAX_PLACES} more (--json has all)")
    if finding.remedy:
        write_styled("         ", ("->", "bold"), f" {finding.remedy}")


def build_dataset_yaml(inspection: Inspection, config: Config, report: dict[str, Any]) -> str:
    """Return a YAML for --config: the data section with all fixes, other errors as comments."""
    source = inspection.source
    data = apply_fixes(inspection.config, inspection.findings)
    # YAML allows no control characters in comments
    text = f"# {safe(source.place)}: {safe(source.layout)}\n"
    for finding in inspection.findings:
        if finding.error:
            action = "fix by hand"
            if finding.fix or finding.choices:
                action = "choose below" if finding.choices else "fixed below"
            text += f"# {action}: {safe(finding)}\n"
    changed = data.model_dump(mode="json", exclude_defaults=True) | {"path": source.place}
    if not data.splits:
        changed["format"] = source.format
    if data.label_map:
        changed["label_map"] = data.label_map  # JSON made its keys text
    choices = list_choices(data, inspection.findings)
    # each reading has its own values of these fields, with those of the config
    open_fields = {key for readings in choices for _, fields in readings for key in fields}
    changed = {key: value for key, value in changed.items() if key not in open_fields}
    text += "data:\n" + "".join(f"  {line}\n" for line in format_fields(changed))
    text += "".join(map(format_choice, choices))
    channels, moments = config.model.in_channels, {"mean": report["mean"], "std": report["std"]}
    # RGB keeps ImageNet's statistics, which pretrained weights expect
    if channels != 3 and report["mean"]:
        text += dump_yaml({"model": {"in_channels": channels, **moments}}, default_flow_style=None)
    if channels == 3 and report["mean"]:
        text += "# statistics of this data, for training from random weights:\n"
        text += f"# model: {{mean: {report['mean']}, std: {report['std']}}}\n"
    return text.encode("utf-8", "backslashreplace").decode()
