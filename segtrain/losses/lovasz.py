"""Lovász-softmax, a surrogate of the IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.errors import UsageError
from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import Term
from segtrain.losses.pixel_pass import Pixels
from segtrain.losses.reduce import world_size
from segtrain.losses.region import counted_classes, mean_loss
from segtrain.losses.region_arguments import LovaszArguments


class Lovasz(Term):
    __doc__ = LovaszArguments.__doc__

    def __init__(
        self,
        classes: str = LovaszArguments.classes,
        per_image: bool = LovaszArguments.per_image,
        background: bool = LovaszArguments.background,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(LovaszArguments, classes, per_image, background)
        super().__init__(lb_ignore, reads_logits=True)
        self.checked = checked

    def value(self, pixels: Pixels) -> Tensor:
        given = self.checked
        if given.one_device and pixels.sync and world_size() > 1:
            raise UsageError(f"loss: {given.one_device}; on several devices use per_image=True")
        classes = torch.arange(pixels.num_classes, device=pixels.nll.device).view(1, -1, 1, 1)
        truth = (pixels.ids.unsqueeze(1) == classes) & pixels.valid.unsqueeze(1)
        errors = (truth.to(pixels.nll.dtype) - pixels.full_logits.softmax(1)).abs()
        errors = errors.where(pixels.valid.unsqueeze(1), -1)  # below all others: last in the order
        errors, truth = errors.flatten(2), truth.flatten(2)
        if not given.per_image:
            errors, truth = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (errors, truth))
        # stable: the gradient depends on the order of tied errors
        errors, order = errors.sort(stable=True, dim=2, descending=True)
        truth = truth.gather(2, order).long()
        true = truth.sum(2)
        # J after i pixels: the IoU lost when exactly those are wrong
        union = true.unsqueeze(2) + (1 - truth).cumsum(2)
        lost = 1 - (true.unsqueeze(2) - truth.cumsum(2)) / union.to(errors.dtype).clamp(min=1)
        steps = lost.diff(dim=2, prepend=torch.zeros_like(lost[..., :1]))
        by_class = (errors * steps).masked_fill(errors < 0, 0).sum(2)
        counted = counted_classes(true, given.classes, given.background)
        return mean_loss(by_class, counted, true, given.per_image, pixels)
