"""Networks in files of ONNX, OpenVINO and torch.export, run as a checkpoint's network is.

Whatever a file's outputs are, its logits are read, so that windows, views and scores are those of
any network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.errors import first_line, translate_errors
from segtrain.models.checkpoint import Meta, load_model
from segtrain.models.exported import (
    FORMATS,
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

    def __init__(self, path: Path, run: Run, advice: str = ""):
        super().__init__()
        self.path, self.run, self.advice = path, run, advice

    def forward(self, images: Tensor) -> Tensor:
        def explain(error: Exception) -> str:
            size = "x".join(map(str, images.shape[2:]))
            return f"{self.path}: it can't take {size} ({first_line(error)}){self.advice}"

        with translate_errors(explain), torch.inference_mode():
            return self.run(images.cpu().float().contiguous())


def load_network(path: Path) -> tuple[nn.Module, Meta, str]:
    """Return a checkpoint's or an exported network, its metadata and the hash of its weights.

    Raise SegtrainError for other files.
    """
    if is_exported(path):
        network, meta = load_exported(path)
        return network, meta, hash_content(path)
    model, meta = load_model(path)
    return model, meta, hash_weights(model.state_dict())


def load_exported(path: Path) -> tuple[ExportedNetwork, Meta]:
    """Return a file's network, in as many threads as torch has, and its metadata."""
    meta, card = read_exported(path)
    advice = f"; {advise_on_size(card['padding'][0])}" if card["one_size"] else ""
    with translate_errors(lambda error: f"{path}: it can't be loaded ({first_line(error)})"):
        run = OPENERS[FORMATS[path.suffix]](path)
    return ExportedNetwork(path, run, advice), meta


def _open_onnx(path: Path) -> Run:
    onnx, runtime = load_package("onnx"), load_package("onnxruntime")
    proto = onnx.load(path)
    # scaled views are no whole numbers
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if LOGITS not in [output.name for output in proto.graph.output]:
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(LOGITS))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(proto.SerializeToString(), options)
    name = proto.graph.input[0].name
    return lambda images: torch.from_numpy(session.run([LOGITS], {name: images.numpy()})[0])


def _open_openvino(path: Path) -> Run:
    openvino = load_package("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    model.inputs[0].get_node().set_element_type(openvino.Type.f32)
    if not any(LOGITS in output.get_names() for output in model.outputs):
        model.add_outputs(LOGITS)
    model.validate_nodes_and_infer_types()
    # else some CPUs compute in bfloat16
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)
    logits = compiled.output(LOGITS)
    return lambda images: torch.from_numpy(compiled(images.numpy())[logits].copy())


def _open_pt2(path: Path) -> Run:
    meta, card = read_exported(path)
    least, step = card["padding"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (meta.mean, meta.std))
    # traced at 2 steps or more, it guards against a side of one, where it gives the same
    network = torch.export.load(path).module(check_guards=card["one_size"])
    dtype = torch.float16 if card["precision"] == "16" else torch.float32

    def run(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        bottom, right = (max(least, -(-side // step) * step) - side for side in (height, width))
        padded = F.pad((images - mean) / std, (0, right, 0, bottom))
        logits: Tensor = network(padded.to(dtype))
        return logits[:, :, :height, :width].float()

    return run


OPENERS: dict[str, Callable[[Path], Run]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "pt2": _open_pt2,
}
