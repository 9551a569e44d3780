"""Quantisation of a network in ONNX to int8, with ranges measured on training images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
from torch import Tensor


class _Reader(CalibrationDataReader):
    """Padded images as onnxruntime's calibration asks for them."""

    def __init__(self, name: str, images: Iterable[Tensor]):
        self.name, self.images = name, iter(images)

    def get_next(self) -> dict | None:
        image = next(self.images, None)
        return None if image is None else {self.name: image.numpy()}


def quantise(network: ModelProto, images: Iterator[Tensor], folder: Path) -> ModelProto:
    """Return a network in int8: all operators, weights by channel, ranges from least to largest.

    images: padded ones (1,K,h,w), normalised; folder: for files in between.
    """
    made = folder / "quantised.onnx"
    reader = _Reader(network.graph.input[0].name, images)
    quantize_static(
        network, made, reader, per_channel=True, calibrate_method=CalibrationMethod.MinMax
    )
    quantised = onnx.load(made)
    made.unlink()
    del quantised.opset_import[1:]
    return quantised
