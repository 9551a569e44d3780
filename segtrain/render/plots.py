"""Charts of scores: the confusion matrix, training curves, reliability."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len
from torch import Tensor

from segtrain.files.whole import whole_file
from segtrain.render.fonts import find_font, label_classes, make_drawable

MAX_WITH_NUMBERS = 25  # classes; with more the numbers in the cells overlap
MAX_WITH_NAMES = 200  # classes; with more their names overlap
MAX_SIDE = 34  # inches, of 100 pixels each
# placeholders for the page's --series-1 to --series-6, which differ between light and dark
SERIES = ("#010001", "#020002", "#030003", "#040004", "#050005", "#060006")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
# no user's settings of matplotlib, and dollar signs in names are no formulas
PLAIN: list[str | dict[str, Any]] = ["default", {"text.parse_math": False}]


class Chart(NamedTuple):
    """A chart of a page."""

    title: str
    svg: str  # an svg element, inserted into a page without escaping
    alt: str  # a description for screen readers


@style.context(PLAIN)
def save_confusion(path: Path, matrix: Tensor, names: list[str], title: str) -> None:
    """Draw the (C,C) confusion matrix with each row divided by its sum; empty rows stay blank."""
    figure = draw_confusion(matrix.cpu().numpy().astype(float), names, title)
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def draw_confusion(counts: np.ndarray, names: list[str], title: str) -> Figure:
    """Return the figure of a (C,C) confusion matrix."""
    rows = counts.sum(1, keepdims=True)
    shares = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    few = len(names) <= MAX_WITH_NUMBERS
    labels, fontsize = label_classes(names), 10 if few else 6
    inches = (
        max(map(cell_len, labels)) * 0.65 * fontsize / 72 if len(names) <= MAX_WITH_NAMES else 0
    )
    side = min(max(4.5, (0.55 if few else 0.15) * len(names) + 1 + max(1, inches)), MAX_SIDE)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MAX_WITH_NAMES:
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=fontsize)
        axes.set_yticks(range(len(names)), labels, fontsize=fontsize)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            file = find_font(label.get_text())
            label.set_fontproperties(FontProperties(fname=file, size=fontsize))
    title, file = make_drawable(title)
    axes.set_title(title, font=FontProperties(fname=file, size=12))
    axes.set(xlabel="predicted", ylabel="true")
    if few:
        style = {"ha": "center", "va": "center", "fontsize": 8}
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.6 else "black"
                text = f"{share:.2f}".lstrip("0")
                axes.text(column, row, text, style, color=colour)
    figure.colorbar(picture, shrink=0.8, label="share of the true class")
    return figure


def draw_training_charts(history: list[dict[str, Any]]) -> list[Chart]:
    """Return charts of the loss by term, val mIoU and the fraction that mining losses keep.

    history: the rows of metrics.csv, numbers or None. A chart without any value is left out.
    """
    terms = select_columns(history, r"loss/([^/]+)/value")
    losses = {"training loss": [row.get("train_loss") for row in history]}
    if len(terms) > 1:
        losses |= {f"{name} (weighted)": values for name, values in terms.items()}
    kept = select_columns(history, r"loss/([^/]+)/kept")
    candidates = [
        ("Loss", losses, None),
        ("mIoU on val", {"val mIoU": [row.get("val_miou") for row in history]}, (0, 1)),
        ("Fraction of pixels kept", kept, (0, 1)),
    ]
    epochs = [row["epoch"] for row in history]
    return [
        draw_lines(title, epochs, lines, limits)
        for title, lines, limits in candidates
        if any(value is not None for values in lines.values() for value in values)
    ]


def select_columns(history: list[dict[str, Any]], pattern: str) -> dict[str, list[float | None]]:
    """Return the columns that match, named by the pattern's group if it has one."""
    matches = {name: re.fullmatch(pattern, name) for row in history for name in row}
    names = {name: match[match.lastindex or 0] for name, match in matches.items() if match}
    return {short: [row.get(name) for row in history] for name, short in names.items()}


@style.context(PLAIN)
def draw_lines(
    title: str,
    epochs: list[float],
    lines: dict[str, list[float | None]],
    limits: tuple[float, float] | None,
) -> Chart:
    """Return a chart of lines over epochs; a line is drawn across its None values."""
    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    labels, descriptions = [], []
    for i, (name, values) in enumerate(lines.items()):
        points = [(e, v) for e, v in zip(epochs, values, strict=True) if v is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            color=SERIES[i % len(SERIES)],
            linestyle=DASHES[i % len(DASHES)],
            linewidth=1.8,
            marker="o" if len(points) < 3 else None,
            markersize=4,
        )
        labels.append(make_drawable(name)[0])
        descriptions.append(
            f"{name} from {y[0]:.3f} in epoch {x[0]:g} to {y[-1]:.3f} in epoch {x[-1]:g}"
        )
    if limits:
        axes.set_ylim(*limits)
    else:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_xlim(epochs[0] - 0.02 * len(epochs), epochs[-1] + 0.02 * len(epochs))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("epoch")
    if len(descriptions) > 1:
        axes.legend(axes.lines, labels, frameon=False, fontsize=9, handlelength=2.6)
    return Chart(title, to_svg(figure, axes, title), f"{title}: {'; '.join(descriptions)}.")


@style.context(PLAIN)
def draw_reliability(calibration: list[dict[str, Any]]) -> Chart:
    """Return a chart of accuracy by confidence above each bin's share of the pixels.

    calibration: the rows of `tabulate_bins`.
    """
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    filled = [row for row in calibration if row["pixels"]]
    total = sum(row["pixels"] for row in filled)
    left, width = [row["low"] for row in filled], [row["high"] - row["low"] for row in filled]
    accuracy, confidence = ([row[key] for row in filled] for key in ("accuracy", "confidence"))
    bars = {"align": "edge", "color": SERIES[0], "linewidth": 0}
    upper.bar(left, accuracy, width=[0.92 * w for w in width], alpha=0.45, **bars)
    upper.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=(0, (4, 3)))
    upper.plot(confidence, accuracy, color=SERIES[0], linewidth=1.8, marker="o", markersize=4)
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
    shares = [row["pixels"] / total for row in filled]
    lower.bar(left, shares, width=[0.92 * w for w in width], **bars)
    lower.set(ylabel="share of pixels", xlabel="confidence")
    gaps = [c - a for c, a in zip(confidence, accuracy, strict=True)]
    mean = sum(gap * share for gap, share in zip(gaps, shares, strict=True))
    description = (
        f"confidence is on average {abs(mean):.3f} {'above' if mean > 0 else 'below'} accuracy"
    )
    if filled:
        description += f"; {shares[-1]:.0%} of the pixels have a confidence over {left[-1]:.2f}"
    title = "Reliability"
    return Chart(title, to_svg(figure, [upper, lower], title), f"{title} diagram: {description}.")


def to_svg(figure: Figure, axes: Axes | list[Axes], salt: str) -> str:
    """Return the figure as an svg element with the page's own font and colours.

    Black becomes the page's ink and SERIES its series. Ids are the same in every run, and differ
    between charts of one page by `salt`.
    """
    for each in axes if isinstance(axes, list) else [axes]:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=9)
        each.grid(axis="y", color="black", alpha=0.12, linewidth=0.7)
        each.set_axisbelow(True)
        each.xaxis.label.set_fontsize(9)
        each.yaxis.label.set_fontsize(9)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.patch.set_alpha(0)
        for each in figure.axes:
            each.patch.set_alpha(0)
        # without a date, so that equal charts are equal bytes
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    for part in ("metadata", "style"):  # its rules would apply to the whole page
        text = re.sub(rf"<{part}.*?</{part}>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1 and such are in every chart
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    for number, colour in enumerate(SERIES, 1):
        text = text.replace(colour, f"var(--series-{number})")
    return re.sub(r"\s+", " ", text)
