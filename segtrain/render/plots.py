"""Scores -> charts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from segtrain.atomic import whole_file

WRITTEN_UP_TO = 25  # classes: beyond, the numbers in the cells would overlap


def save_confusion(path: Path, matrix: Tensor, names: list[str], title: str) -> None:
    """The (C,C) confusion matrix with each row divided by its sum; empty rows stay blank."""
    counts = matrix.cpu().numpy().astype(float)
    rows = counts.sum(1, keepdims=True)
    shares = np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)
    side = max(4.5, 0.55 * len(names) + 2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(names) <= WRITTEN_UP_TO:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "white" if share > 0.6 else "black"
                axes.text(
                    column,
                    row,
                    f"{share:.2f}".lstrip("0"),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=colour,
                )
    figure.colorbar(picture, shrink=0.8, label="share of the true class")
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
