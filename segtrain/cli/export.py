"""segtrain export: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from segtrain.cli.imports import importing
from segtrain.cli.options import RunOrCheckpoint, Sets, TextOption, option
from segtrain.config.verbs import check_settings
from segtrain.console import write_notes


def export(
    run: Annotated[str | None, RunOrCheckpoint] = None,
    format: Annotated[
        str, option("file format", default="onnx", metavar="onnx|openvino|pt2|hf")
    ] = "onnx",
    precision: Annotated[
        str, option("numbers that it computes in", default="32", metavar="32|16|int8")
    ] = "32",
    outputs: Annotated[
        str,
        option(
            "what it gives of each pixel, separated by commas: class ids, the confidence of the "
            "class, probabilities or logits of all",
            default="ids",
            metavar="ids,confidence,probs,logits",
        ),
    ] = "ids",
    input: Annotated[
        str, option("type of its images, RGB of 0..255", default="uint8", metavar="uint8|float32")
    ] = "uint8",
    proof: Annotated[
        str,
        option(
            "validation images that it is compared on with the network in torch",
            default="all",
            metavar="all|none|N",
        ),
    ] = "all",
    max_drop: Annotated[
        float, option("mIoU that 16 and int8 may cost, else there is no file", default=0.005)
    ] = 0.005,
    data: Annotated[
        TextOption,
        option("folder of the data set", default="that of the training", metavar="PATH|demo"),
    ] = None,
    out: Annotated[
        Path | None, option("the file", default="RUN/export/NAME.FORMAT", metavar="FILE")
    ] = None,
    push: Annotated[
        TextOption, option("upload the folder of --format hf to the hub", metavar="OWNER/NAME")
    ] = None,
    runs: Annotated[Path, option("folder of all runs", default="runs")] = Path("runs"),
    set_: Sets = [],
) -> None:
    """Export a network: ONNX, OpenVINO, torch.export, or a hub folder."""
    flags = {"data.path": data}
    write_notes(check_settings("export", None, set_, flags), stderr=True)
    with importing():
        from segtrain.commands.requests import (
            ExportOptions,
            find_network,
            parse_export,
            request_network,
            request_score,
        )
    options = ExportOptions(format, out, precision, pixel=input, max_drop=max_drop, push=push)
    options = parse_export(options, outputs, proof)
    request = request_network if options.proof == 0 else request_score  # which takes the data
    network = request(find_network(run, runs), set_, flags)
    with importing():
        from segtrain.commands.export import export as run_export
    run_export(network, options)
