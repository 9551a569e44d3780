"""Centerline Dice: overlap of soft skeletons, for thin structures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import Term
from segtrain.losses.pixel_pass import Pixels
from segtrain.losses.region import counted_classes, mean_loss
from segtrain.losses.region_arguments import ClDiceArguments

CROSS = [(0, 1), (0, -1), (1, 0), (-1, 0)]  # neighbours, by rows and columns
SQUARE = [*CROSS, (1, 1), (1, -1), (-1, 1), (-1, -1)]


class ClDice(Term):
    __doc__ = ClDiceArguments.__doc__

    def __init__(
        self,
        iterations: int = ClDiceArguments.iterations,
        smooth: float = ClDiceArguments.smooth,
        classes: str = ClDiceArguments.classes,
        per_image: bool = ClDiceArguments.per_image,
        background: bool = ClDiceArguments.background,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore, reads_logits=True)
        self.checked = make_arguments(
            ClDiceArguments, iterations, smooth, classes, per_image, background
        )

    def value(self, pixels: Pixels) -> Tensor:
        given, first = self.checked, 0 if self.checked.background else 1
        valid = pixels.valid.unsqueeze(1)
        classes = torch.arange(first, pixels.num_classes, device=valid.device).view(1, -1, 1, 1)
        truth = ((pixels.ids.unsqueeze(1) == classes) & valid).to(pixels.nll.dtype)
        probs = pixels.full_logits.softmax(1)[:, first:].where(valid, 0)
        thin_truth, thin_probs = (soft_skeleton(x, valid, given.iterations) for x in (truth, probs))
        maps = thin_probs * truth, thin_probs, thin_truth * probs, thin_truth
        sums = torch.stack([x.sum((2, 3)) for x in maps])  # (4,N,C)
        size = pixels.by_class(pixels.valid.to(sums.dtype))  # of all classes
        if not given.per_image:
            sums, size = (pixels.total(x.sum(-2, keepdim=True)) for x in (sums, size))
        in_truth, predicted, in_probs, true = sums
        smooth = given.smooth
        # 1 / precision + 1 / sensitivity
        inverse = (predicted + smooth) / (in_truth + smooth) + (true + smooth) / (in_probs + smooth)
        counted = counted_classes(size, given.classes, background=True)[:, first:]
        return mean_loss(1 - 2 / inverse, counted, size, given.per_image, pixels)


def soft_skeleton(maps: Tensor, valid: Tensor, iterations: int) -> Tensor:
    """Return the soft skeleton of maps (N,C,H,W) in 0..1, 0 where valid (N,1,H,W) is false.

    What each opening removes is a part of it: before, and after each thinning.
    """
    skeleton = torch.zeros_like(maps)
    for _ in range(iterations + 1):
        thinner = -pool(-maps, valid, CROSS)
        removed = (maps - pool(thinner, valid, SQUARE)).relu().where(valid, 0)
        skeleton = skeleton + (1 - skeleton) * removed
        maps = thinner
    return skeleton


def pool(maps: Tensor, valid: Tensor, neighbours: list[tuple[int, int]]) -> Tensor:
    """Return the maximum over each pixel of (N,C,H,W) and its neighbours, of valid pixels."""
    outside = -1  # below all of -1..1
    return _Maximum.apply(maps.where(valid, outside), neighbours, outside)


class _Maximum(torch.autograd.Function):
    """Maximum over shifted maps. Unlike max_pool2d: the same bits each time, one byte a choice."""

    @staticmethod
    def forward(ctx, maps, neighbours, outside):
        height, width = maps.shape[2:]
        padded = F.pad(maps, (1, 1, 1, 1), value=outside)
        top, choice = maps, torch.zeros_like(maps, dtype=torch.uint8)
        for number, (y, x) in enumerate(neighbours, 1):
            other = padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]
            if ctx.needs_input_grad[0]:
                choice = choice.masked_fill(other > top, number)
            top = torch.maximum(top, other)
        ctx.save_for_backward(choice)
        ctx.neighbours = neighbours
        return top

    @staticmethod
    def backward(ctx, gradient):
        (choice,) = ctx.saved_tensors
        height, width = choice.shape[2:]
        padded = F.pad(gradient.where(choice == 0, 0), (1, 1, 1, 1))
        for number, (y, x) in enumerate(ctx.neighbours, 1):
            there = padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]
            there += gradient.where(choice == number, 0)
        return padded[..., 1:-1, 1:-1], None, None
