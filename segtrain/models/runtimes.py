"""Networks in files of ONNX and OpenVINO, run as a checkpoint's network is.

Whatever a file's outputs are, its logits are read, so that windows, views and scores are those of
any network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.errors import SegtrainError, translate_errors
from segtrain.models.checkpoint import Meta, load_model
from segtrain.models.exported import (
    find_reason,
    hash_content,
    is_exported,
    load_package,
    read_exported,
)
from segtrain.models.inference import advise_on_size
from segtrain.models.weights import hash_weights

LOGITS = "logits"
Run = Callable[[Tensor], Tensor]  # images of 0..255 in float32 (N,K,H,W) -> logits (N,C,H,W)


class ExportedNetwork(nn.Module):
    """A network in a file: images (N,K,H,W) of 0..255 -> logits (N,C,H,W), on the CPU."""

    def __init__(self, path: Path, run: Run, classes: int, advice: str = ""):
        super().__init__()
        self.path, self.run, self.classes, self.advice = path, run, classes, advice

    def forward(self, images: Tensor) -> Tensor:
        def explain(error: Exception) -> str:
            size = "x".join(map(str, images.shape[2:]))
            return f"{self.path}: it can't take {size} ({find_reason(error)}){self.advice}"

        with translate_errors(explain), torch.inference_mode():
            logits = self.run(images.cpu().float().contiguous())
        if logits.shape[1] != self.classes:
            found = f"it gives {logits.shape[1]} classes, its metadata names {self.classes}"
            raise SegtrainError(f"{self.path}: {found}")
        return logits


def load_network(path: Path, tuned: bool = True) -> tuple[nn.Module, Meta, str]:
    """Return a checkpoint's or an exported network, its metadata and the hash of its weights.

    A checkpoint's logits are tuned as `load_model` has it, an exported network's as it was
    exported. Raise SegtrainError for other files.
    """
    if is_exported(path):
        network, meta = load_exported(path)
        return network, meta, hash_content(path)
    model, meta = load_model(path, tuned=tuned)
    return model, meta, hash_weights(model.state_dict())


def load_exported(path: Path) -> tuple[ExportedNetwork, Meta]:
    """Return a file's network, in as many threads as torch has, and its metadata."""
    meta, card = read_exported(path)
    advice = f"; {advise_on_size(card.padding[0])}" if card.one_size else ""
    with translate_errors(lambda error: f"{path}: it can't be loaded ({find_reason(error)})"):
        run = OPENERS[path.suffix](path)
    return ExportedNetwork(path, run, len(meta.classes), advice), meta


def run_outputs(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return a file's own outputs by name, of images (N,K,H,W) of its own type."""
    with translate_errors(lambda error: f"{path}: it can't be run ({find_reason(error)})"):
        if path.suffix == ".onnx":
            session = _start_onnx(load_package("onnx").load(path))
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, session.run(None, {"images": images}), strict=True))
        found = _compile_openvino(load_package("openvino").Core().read_model(path))(images)
        return {output.any_name: values for output, values in found.items()}


def _open_onnx(path: Path) -> Run:
    onnx = load_package("onnx")
    proto = onnx.load(path)
    # scaled views are no whole numbers
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if LOGITS not in [output.name for output in proto.graph.output]:
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(LOGITS))
    session = _start_onnx(proto)
    name = proto.graph.input[0].name
    return lambda images: torch.from_numpy(session.run([LOGITS], {name: images.numpy()})[0])


def _start_onnx(proto: Any) -> Any:
    runtime = load_package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return runtime.InferenceSession(proto.SerializeToString(), options)


def _open_openvino(path: Path) -> Run:
    openvino = load_package("openvino")
    model = openvino.Core().read_model(path)
    model.inputs[0].get_node().set_element_type(openvino.Type.f32)
    if not any(LOGITS in output.get_names() for output in model.outputs):
        model.add_outputs(LOGITS)
    model.validate_nodes_and_infer_types()
    compiled = _compile_openvino(model)
    logits = compiled.output(LOGITS)
    return lambda images: torch.from_numpy(compiled(images.numpy())[logits].copy())


def _compile_openvino(model: Any) -> Any:
    # else some CPUs compute in bfloat16
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return load_package("openvino").Core().compile_model(model, "CPU", settings)


OPENERS: dict[str, Callable[[Path], Run]] = {".onnx": _open_onnx, ".xml": _open_openvino}
