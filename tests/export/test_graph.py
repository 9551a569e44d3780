"""Layers replaced for an export: equal to the ones they replace."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import nn

from segtrain.export.graph import AveragePool, prepare, refuse_windows
from segtrain.export.onnx_graph import build_graph, convert_network
from segtrain.models.segmentation import SegmentationModel
from segtrain.models.trial import copy_shapes, find_padding

SIDES = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 7), st.integers(1, 7))
def test_average_pools_are_torchs_in_every_size(height: int, width: int, rows: int, columns: int):
    maps = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    twin = nn.AdaptiveAvgPool2d((rows, columns))
    torch.testing.assert_close(AveragePool(rows, columns)(maps), twin(maps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda kernel, stride: Conv2dSame(3, 4, kernel, stride=stride),
        lambda kernel, stride: Conv2dSame(3, 4, kernel, stride=stride, dilation=2),
        lambda kernel, stride: StdConv2dSame(3, 4, kernel, stride=stride),
        lambda kernel, stride: ScaledStdConv2dSame(3, 4, kernel, stride=stride),
        lambda kernel, stride: MaxPool2dSame(kernel, stride=stride),
        lambda kernel, stride: AvgPool2dSame(kernel, stride=stride),
    ],
)
def test_padding_by_the_size_is_constant_at_multiples_of_the_stride(make, kernel, stride):
    layer = nn.Sequential(make(kernel, stride)).eval()
    prepared = prepare(layer)
    for height, width in ((16, 24), (32, 8)):
        maps = torch.randn(2, 3, height, width)
        torch.testing.assert_close(prepared(maps), layer(maps), rtol=0, atol=1e-6)


class OfOneSize(nn.Module):
    """A network with an embedding of each position of 64x64 pixels."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 8, stride=8)
        self.positions = nn.Parameter(torch.randn(1, 64, 4))
        self.segmentation_head = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(images)
        tokens = maps.flatten(2).transpose(1, 2) + self.positions
        maps = tokens.transpose(1, 2).unflatten(2, maps.shape[2:])
        return nn.functional.interpolate(maps, scale_factor=8)


def test_a_network_of_one_size_is_exported_for_it():
    model = SegmentationModel(OfOneSize()).eval()
    model.padding = find_padding(copy_shapes(model.network), 3, 32, 1)
    graph = build_graph(convert_network(model), model, 4, ["logits"], "uint8")
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for size in ((1, 64, 64), (3, 33, 47)):
        images = torch.randint(0, 256, (size[0], 3, *size[1:]), dtype=torch.uint8)
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images))
    for side in (65, 128):
        with pytest.raises(Exception, match="64,64"):
            session.run(None, {"images": np.zeros((1, 3, side, side), np.uint8)})


@pytest.mark.parametrize("window, refused", [(7, True), (8, True), (4, False)])
def test_windows_padded_by_the_size_are_refused(window: int, refused: bool):
    """Of maps of 4 and of 8 pixels a side, windows of 4 are never padded."""

    class Windows(OfOneSize):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.encoder(images)
            pads = [-side % window for side in maps.shape[2:]]
            return nn.functional.pad(maps, (0, pads[1], 0, pads[0]))

    model = SegmentationModel(Windows()).eval()
    with pytest.raises(ValueError, match="windows") if refused else nullcontext():
        refuse_windows(model)


def test_the_network_itself_is_left_as_it_is():
    network = timm.create_model("tf_efficientnet_lite0")
    before = [type(module) for module in network.modules()]
    prepare(network)
    assert [type(module) for module in network.modules()] == before and network.training
