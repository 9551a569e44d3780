"""Files of an exported network: what writes each format."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtrain.errors import first_line, translate_errors
from segtrain.export.graph import WholeNetwork, has_one_size, trace
from segtrain.models.exported import load_package
from segtrain.models.segmentation import SegmentationModel

Write = Callable[[Path, dict[str, str]], None]  # to a path, with metadata
Network = Callable[[Tensor], Tensor]  # images (N,K,H,W) of 0..255 -> logits (N,C,H,W)


def write_onnx(graph: Any) -> Write:
    """Return what writes an ONNX graph."""
    onnx = load_package("onnx")

    def write(path: Path, texts: dict[str, str]) -> None:
        onnx.helper.set_model_props(graph, texts)
        with translate_errors(lambda error: f"cannot make {path.name}: {first_line(error)}"):
            content = graph.SerializeToString()  # fails from 2 GiB
        path.write_bytes(content)

    return write


def write_openvino(graph: Any) -> Write:
    """Return what writes an ONNX graph as OpenVINO's IR: PATH.xml, and its weights in PATH.bin."""
    openvino = load_package("openvino")
    model = openvino.Core().read_model(graph.SerializeToString())

    def write(path: Path, texts: dict[str, str]) -> None:
        for key, text in texts.items():
            model.set_rt_info(text, key)
        with translate_errors(lambda error: f"cannot write in {path.parent}: {first_line(error)}"):
            openvino.save_model(model, path, compress_to_fp16=False)

    return write


def write_pt2(model: SegmentationModel, half: bool) -> Write:
    """Return what writes a model's network, between padding and cropping, for torch.export."""
    dtype = torch.float16 if half else torch.float32
    program = trace(WholeNetwork(model).to(dtype), model, dtype)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with the paths of this machine

    def write(path: Path, texts: dict[str, str]) -> None:
        buffer = io.BytesIO()  # on a full disk torch raises no OSError, writing bytes does
        with translate_errors(lambda error: f"cannot make {path.name}: {first_line(error)}"):
            torch.export.save(program, buffer, extra_files=texts)
        path.write_bytes(buffer.getvalue())

    return write


def load_pt2(path: Path, model: SegmentationModel, half: bool) -> Network:
    """Return the network of a file that was just written: torch runs code in those of others."""
    # traced at 2 steps or more, it guards against a side of one, where it gives the same
    network = torch.export.load(path).module(check_guards=has_one_size(model))
    return surround(network, model, torch.float16 if half else torch.float32)


def surround(network: Network, model: SegmentationModel, dtype: torch.dtype) -> Network:
    """Return a network that takes padded images as one that takes any, as a model does."""

    def predict(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = model.pad((images.float() - model.mean) / model.std)
        logits = network(padded.to(dtype))[..., :height, :width].float()
        return model.tuning.apply(logits) if model.tuning else logits

    return predict
