"""Trial forward passes of a network on the meta device, whose tensors have a shape and no values.

They take neither memory nor arithmetic, whatever the size. So the sizes that a network takes, and
the parameters that its output depends on, are known before it is trained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from segtrain.errors import SegtrainError, first_line, translate_errors

M = TypeVar("M", bound=nn.Module)
LARGEST = 1024  # pixels: up to it, the least side is searched for


class Padding(NamedTuple):
    """The sides of padded images, in pixels: multiples of `step`, and at least `least`."""

    least: int
    step: int

    def pad(self, side: int) -> int:
        """Return the side that an image's side is padded to."""
        return max(self.least, -(-side // self.step) * self.step)


@dataclass
class ShapeTrials:
    """Results of trials of networks of the same modules and shapes, kept to be made once."""

    padding: Padding | None = None
    unreached: set[str] | None = None
    size_errors: dict[tuple[int, int], str | None] = field(default_factory=dict)  # (height, width)


def copy_shapes(module: M) -> M:
    """Return a copy of a module on the meta device: everything but the values of its tensors."""
    tensors = chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(t): t.detach().to("meta") for t in tensors})


def find_error(network: nn.Module, size: tuple[int, int], channels: int, factor: int) -> str | None:
    """Return a network's error on images of (height, width), None where it has none.

    The network is on the meta device. Its logits must have the size of the images once they are
    upsampled by `factor`.
    """
    try:
        with translate_errors(first_line), torch.no_grad():
            logits = network(torch.empty(1, channels, *size, device="meta"))
    except SegtrainError as error:
        return str(error)
    height, width = (side * factor for side in logits.shape[2:])
    return None if (height, width) == size else f"its logits are {height}x{width}"


def find_padding(network: nn.Module, channels: int, stride: int, factor: int) -> Padding:
    """Return the padding to the least side, a multiple of `stride`, that a network takes.

    Its step is `stride`, or that side itself if only multiples of it fit, as with windows of
    attention. The arguments are those of find_error. Raise ValueError where no side fits.
    """
    error: str | None = None
    for least in range(stride, LARGEST + 1, stride):
        error = find_error(network, (least, least), channels, factor)
        if error is None:
            break
    else:
        raise ValueError(f"it takes no images of up to {LARGEST}x{LARGEST}: {error}")
    if least > stride:
        larger, double = (
            find_error(network, (side, side), channels, factor)
            for side in (least + stride, 2 * least)
        )
        if larger and not double:
            return Padding(least, least)
    return Padding(least, stride)


def find_unreached(network: nn.Module, shape: tuple[int, int, int, int]) -> set[str]:
    """Return the names of the parameters that the logits of images (N,K,H,W) don't depend on.

    The network is on the meta device. The graph of the logits is searched, for want of a loss.
    """
    for parameter in network.parameters():
        parameter.requires_grad_()
    waiting = [network(torch.empty(shape, device="meta")).grad_fn]
    seen, reached = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # a parameter's, at the end of a branch
            reached.add(id(node.variable))
        following = {after for after, _ in node.next_functions if after} - seen
        seen |= following
        waiting += following
    return {name for name, p in network.named_parameters() if id(p) not in reached}
