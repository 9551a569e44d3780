"""A trained network as one ONNX graph: images of any size and number in, classes out.

Three graphs are joined: what comes before the network (normalisation and padding), the network at
padded sizes, and what comes after it (upsampling, cropping, choice of the class).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import ModelProto, compose, helper, numpy_helper, parser

from segtrain.export.graph import OPSET, has_one_size, prepare, trace
from segtrain.models.segmentation import SegmentationModel
from segtrain.models.tuning import Tuning

IR_VERSION = 9  # the least of the opset: older runtimes read it
# of each output its type, its shape, and the nodes that make it of the logits (N,C,H,W)
OUTPUTS = {
    "ids": (
        "{ids}[images, height, width]",
        "best = ArgMax<axis=1, keepdims=0>(logits)  ids = Cast<to={ids_code}>(best)",
    ),
    "confidence": (
        "float[images, height, width]",
        "shares = Softmax<axis=1>(logits)  "
        "confidence = ReduceMax<keepdims=0>(shares, channel_axis)",
    ),
    "probs": ("float[images, {classes}, height, width]", "probs = Softmax<axis=1>(logits)"),
    "logits": ("float[images, {classes}, height, width]", ""),
}
BEFORE = """
before ({pixel}[images, {channels}, height, width] images)
=> ({number}[images, {channels}, padded_height, padded_width] padded, int64[2] size)
{{
  pixels = Cast<to=1>(images)
  centred = Sub(pixels, mean)
  normalised = Div(centred, std)
  size = Shape<start=2>(images)
  raised = Add(size, step_less_1)
  steps = Div(raised, step)
  multiples = Mul(steps, step)
  sides = Max(multiples, least)
  missing = Sub(sides, size)
  pads = Concat<axis=0>(no_pads, missing)
  whole = Pad(normalised, pads)
  {check}
  padded = Cast<to={number_code}>(checked)
}}
"""
TUNED = "biased = Add(coarse, biases)  tuned = Div(biased, temperature)"
AFTER = """
after ({number}[images, {classes}, low_height, low_width] low, int64[2] image_size) => ({outputs})
{{
  coarse = Cast<to=1>(low)
  {tuning}
  upsampled = {upsampling}
  logits = Slice(upsampled, corner, image_size, side_axes)
  {nodes}
}}
"""


def build_graph(
    network: ModelProto, model: SegmentationModel, classes: int, outputs: Sequence[str], pixel: str
) -> ModelProto:
    """Return the whole graph around a model's network, which `convert_network` returned.

    outputs: names of OUTPUTS; pixel: "uint8", or "float32" for images of 0..255.
    """
    (low,), (padded,) = network.graph.output, network.graph.input
    code = low.type.tensor_type.elem_type
    ids = "uint16" if classes > 255 else "uint8"
    facts = {
        "pixel": {"uint8": "uint8", "float32": "float"}[pixel],
        "channels": model.mean.shape[1],
        "classes": classes,
        "number": {1: "float", 10: "float16"}[code],
        "number_code": code,
        "ids": ids,
        "ids_code": {"uint8": 2, "uint16": 4}[ids],
    }
    kinds = [f"{OUTPUTS[name][0].format(**facts)} {name}" for name in outputs]
    mode = "align_corners" if model.align_corners else "half_pixel"
    resize = f'Resize<mode="linear", coordinate_transformation_mode="{mode}">(tuned, , scales)'
    after = AFTER.format(
        **facts,
        outputs=", ".join(kinds),
        tuning=TUNED if model.tuning else "tuned = Identity(coarse)",
        upsampling="Identity(tuned)" if model.upsampling == 1 else resize,
        nodes="\n  ".join(OUTPUTS[name][1].format(**facts) for name in outputs),
    )
    least, step = model.padding
    tuning = model.tuning or Tuning([0.0] * classes)
    constants = {
        "mean": model.mean.numpy(),
        "std": model.std.numpy(),
        "step": np.array([step]),
        "step_less_1": np.array([step - 1]),
        "least": np.array([least]),
        "no_pads": np.zeros(6, np.int64),
        "scales": np.array([1, 1, model.upsampling, model.upsampling], np.float32),
        "biases": np.array(tuning.biases, np.float32).reshape(1, -1, 1, 1),
        "temperature": np.array(tuning.temperature, np.float32),
        "corner": np.zeros(2, np.int64),
        "side_axes": np.array([2, 3]),
        "channel_axis": np.array([1]),
        "only": np.array([0, facts["channels"], least, least]),
    }
    # of the only size that the network takes: others must fail
    check = "checked = Reshape(whole, only)" if has_one_size(model) else "checked = Identity(whole)"
    before = BEFORE.format(**facts, check=check)
    first, last = (_parse(text, constants) for text in (before, after))
    low_name, padded_name = f"network/{low.name}", f"network/{padded.name}"
    # onnx checks what it joins, and refuses more than 2 GiB
    middle = compose.add_prefix(network, "network/")
    inputs = [("padded", padded_name)]
    joined = compose.merge_models(first, middle, inputs, outputs=["size", low_name])
    links = [("size", "image_size"), (low_name, "low")]
    joined = compose.merge_models(joined, last, links, name="segtrain")
    del joined.opset_import[1:]  # of each part one, and equal: quantisation wants one
    return joined


def _parse(text: str, constants: dict[str, np.ndarray]) -> ModelProto:
    graph = parser.parse_graph(text)
    used = {name for node in graph.node for name in node.input}
    for name in sorted(used & constants.keys()):
        graph.initializer.append(numpy_helper.from_array(constants[name], name))
    return _wrap(graph)


def _wrap(graph: onnx.GraphProto) -> ModelProto:
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def convert_network(model: SegmentationModel, half: bool = False) -> ModelProto:
    """Return a model's network alone in ONNX: padded images (N,K,h,w) -> low-resolution logits.

    With `half` it computes in float16. Raise whatever torch does where it can't be exported.
    """
    dtype = torch.float16 if half else torch.float32
    program = trace(prepare(model.network).to(dtype), model, dtype)
    made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    assert made is not None  # as it has no path to write to
    return _wrap(made.model_proto.graph)
