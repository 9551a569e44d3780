"""segtrain predict: masks and overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segtrain.cli.options import (
    Device,
    Sets,
    option,
)


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="images, folders and globs; demo for some of the demo's",
            metavar="PATH",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        option("a checkpoint or a run's folder", "the latest run's best", metavar="FILE"),
    ] = None,
    out: Annotated[
        Path, option("folder of STEM_mask.png and STEM_overlay.png", "predictions")
    ] = Path("predictions"),
    runs: Annotated[Path, option("folder of all runs", "runs")] = Path("runs"),
    legend: Annotated[bool, option("name the classes below the overlay", "no", "--legend")] = False,
    device: Device = None,
    set_: Sets = [],
) -> None:
    """Predict masks and overlays of images, each at its own size."""
    from segtrain.commands.predict import predict as run_predict

    run_predict(paths, checkpoint, runs, out, legend, set_, {"train.device": device})
