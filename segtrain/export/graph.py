"""A network as torch.export traces it, for images of all the sizes that it takes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segtrain.models.segmentation import SegmentationModel
from segtrain.models.trial import copy_shapes
from segtrain.models.upsampling import upsample

OPSET = 20  # of ONNX
# timm's layers that pad as TensorFlow does, by the image's size, and torch's own without padding
SAME_POOLS: dict[type[nn.Module], type[nn.Module]] = {
    MaxPool2dSame: nn.MaxPool2d,
    AvgPool2dSame: nn.AvgPool2d,
}
STANDARDISED = (StdConv2dSame, ScaledStdConv2dSame)


class AveragePool(nn.Module):
    """nn.AdaptiveAvgPool2d as two products with matrices, which are traced for any size."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        down = weigh_cells(self.rows, height).to(maps)
        across = weigh_cells(self.columns, width).to(maps)
        return down @ maps @ across.T


def weigh_cells(cells: int, pixels: int) -> Tensor:
    """Return the weights (cells, pixels) with which torch averages pixels into cells."""
    cell, pixel = torch.arange(cells).unsqueeze(1), torch.arange(pixels)
    first, after = cell * pixels // cells, -(-(cell + 1) * pixels // cells)
    return ((pixel >= first) & (pixel < after)) / (after - first)


def prepare(network: nn.Module) -> nn.Module:
    """Return a copy of a network in which layers that can't be traced are replaced by equal ones.

    It takes images whose sides are multiples of its encoder's stride.
    """
    prepared = copy.deepcopy(network).eval()
    for module in list(prepared.modules()):
        for name, child in list(module.named_children()):
            setattr(module, name, _replace(child))
    return prepared


def _replace(layer: Any) -> nn.Module:
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        size = layer.output_size
        rows, columns = size if isinstance(size, tuple) else (size, size)
        if rows is None or columns is None or rows == columns == 1:
            return layer  # None keeps a side; one cell is the mean, which is traced as it is
        return AveragePool(rows, columns)
    padding = _find_padding(layer)
    if padding is None:
        return layer
    left, right, top, bottom = padding
    value = -torch.inf if isinstance(layer, MaxPool2dSame) else 0.0
    if isinstance(layer, STANDARDISED):
        layer.same_pad = False
    else:
        layer.__class__ = SAME_POOLS.get(type(layer), nn.Conv2d)
        layer.padding = (0, 0)
    return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), value), layer)


def _find_padding(layer: Any) -> tuple[int, int, int, int] | None:
    """Return the padding (left, right, top, bottom) of a layer of timm's that pads by the size.

    Where a side is a multiple of the stride, the padding is the same for all sides.
    """
    standardised = isinstance(layer, STANDARDISED) and layer.same_pad
    if not standardised and not isinstance(layer, (Conv2dSame, *SAME_POOLS)):
        return None
    sides = []
    for axis in (1, 0):
        kernel, stride, dilation = (
            _pick(getattr(layer, name, 1), axis) for name in ("kernel_size", "stride", "dilation")
        )
        both = max(0, (kernel - 1) * dilation + 1 - stride)
        sides += [both // 2, both - both // 2]
    left, right, top, bottom = sides
    return left, right, top, bottom


def _pick(value: int | tuple[int, int], axis: int) -> int:
    return value[axis] if isinstance(value, tuple) else value


class WholeNetwork(nn.Module):
    """Normalised and padded images (N,K,H,W) -> logits (N,C,H,W)."""

    def __init__(self, model: SegmentationModel):
        super().__init__()
        self.network = prepare(model.network)
        self.factor, self.align_corners = model.upsampling, model.align_corners

    def forward(self, padded: Tensor) -> Tensor:
        low: Tensor = self.network(padded)
        height, width = (side * self.factor for side in low.shape[2:])
        return upsample(low, self.factor, self.align_corners, (height, width))


def has_one_size(model: SegmentationModel) -> bool:
    """Return whether a model takes images of one padded size only, as position embeddings may."""
    side = model.padding.least + 1
    return model.find_size_error([(side, side)]) is not None


class _Pads(TorchFunctionMode):
    """Paddings of maps, remembered while a network runs."""

    def __init__(self) -> None:
        super().__init__()
        self.pads = list[Sequence[int]]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is F.pad:
            self.pads.append(args[1])
        return function(*args, **(kwargs or {}))


def refuse_windows(model: SegmentationModel) -> None:
    """Raise ValueError where a network pads by the image's size within, as Swin's windows do.

    torch.export doesn't come to an end with such sizes.
    """
    network, (least, step) = copy_shapes(prepare(model.network)), model.padding
    found = []
    for side in (least, least + step):
        with _Pads() as pads, torch.no_grad():
            network(torch.empty(1, model.mean.shape[1], side, side, device="meta"))
        found.append(pads.pads)
    if found[0] != found[1]:
        raise ValueError("its windows of attention are padded by the image's size")


def trace(module: nn.Module, model: SegmentationModel, dtype: torch.dtype) -> ExportedProgram:
    """Trace a module on images of the model's padded sizes. Raise whatever torch does if it can't.

    The sides of the images are multiples of the padding's step, or the only ones that it takes.
    """
    least, step = model.padding
    side = max(least, 2 * step)  # of one step torch makes a constant
    fixed = has_one_size(model)
    sides = (least, least) if fixed else (side, side + step)
    images = torch.zeros(2, model.mean.shape[1], *sides, dtype=dtype)
    shapes = {0: Dim("images", min=1)}
    if not fixed:
        refuse_windows(model)
        shapes |= {
            axis: step * Dim(name, min=max(1, least // step))
            for axis, name in ((2, "rows"), (3, "columns"))
        }
    with torch.no_grad():
        return torch.export.export(module, (images,), dynamic_shapes=(shapes,), strict=False)
