"""The predictions of a folder in a few lines: shares of the classes, and the least sure images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segtrain.console import write, write_rows
from segtrain.prediction.record import PredictionSummary

LEAST_SURE = 10  # images


def write_summaries(summaries: Mapping[Path, PredictionSummary], classes: Sequence[str]) -> None:
    """Print the share of each class, the mean confidence, and the images of the lowest."""
    pixels = np.array([summary.pixels for summary in summaries.values()])
    shares, images = pixels.sum(0) / pixels.sum(), (pixels > 0).sum(0)
    rows = zip(classes, shares, images, strict=True)
    write_rows(
        ("class", "pixels", "images"), [(name, f"{s:.2%}", str(n)) for name, s, n in rows], drop=()
    )
    sure = {path: summary.confidence for path, summary in summaries.items()}
    mean = np.average(list(sure.values()), weights=pixels.sum(1))
    write(f"mean confidence {mean:.2f}")
    least = sorted(sure, key=lambda path: sure[path])[:LEAST_SURE]
    least_rows = [(str(path), f"{sure[path]:.2f}") for path in least]
    write_rows(("least sure image", "confidence"), least_rows, drop=())
