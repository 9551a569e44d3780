"""Layers replaced for an export: equal to the ones they replace."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import nn

from segtrain.export.graph import AveragePool, prepare

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


def test_the_network_itself_is_left_as_it_is():
    network = timm.create_model("tf_efficientnet_lite0")
    before = [type(module) for module in network.modules()]
    prepare(network)
    assert [type(module) for module in network.modules()] == before and network.training
