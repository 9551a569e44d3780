"""segtrain predict: masks and overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segtrain.cli.imports import importing
from segtrain.cli.options import Device, Sets, option
from segtrain.config.verbs import check_settings
from segtrain.console import write_notes


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="images, folders with their subfolders, globs; demo for images of the demo",
            metavar="PATH",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        str | None,
        option(
            "checkpoint, or folder of a run", default="the best of the latest run", metavar="FILE"
        ),
    ] = None,
    out: Annotated[
        Path,
        option(
            "folder of STEM_mask.png and STEM_overlay.png; what its predictions.json has of the "
            "same images, weights and settings is kept",
            default="predictions",
        ),
    ] = Path("predictions"),
    runs: Annotated[Path, option("folder of all runs", default="runs")] = Path("runs"),
    legend: Annotated[bool, option("add the class names below the overlay", "--legend")] = False,
    device: Device = None,
    set_: Sets = [],
) -> None:
    """Predict masks and overlays of images at their original size."""
    flags = {"train.device": device}
    write_notes(check_settings("predict", None, set_, flags), stderr=True)
    with importing():
        from segtrain.commands.requests import find_network, request_network
        from segtrain.prediction.inputs import find_images
    found = find_images(paths)
    network = request_network(find_network(checkpoint, runs), set_, flags)
    with importing():
        from segtrain.commands.predict import predict as run_predict
    run_predict(found, network, out, legend)
