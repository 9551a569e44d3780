"""Lovász-softmax, a surrogate of the IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from segtrain.errors import UsageError
from segtrain.losses.argument_types import make_arguments
from segtrain.losses.base import Term
from segtrain.losses.pixel_pass import Pixels
from segtrain.losses.reduce import world_size
from segtrain.losses.region import mean_of_images
from segtrain.losses.region_arguments import LovaszArguments


class Lovasz(Term):
    __doc__ = LovaszArguments.__doc__

    def __init__(
        self,
        classes: str = LovaszArguments.classes,
        per_image: bool = LovaszArguments.per_image,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(LovaszArguments, classes, per_image)
        super().__init__(lb_ignore, reads_logits=True)
        self.present_only, self.per_image = checked.classes == "present", checked.per_image
        self.one_device = checked.one_device

    def value(self, pixels: Pixels) -> Tensor:
        if self.one_device and pixels.sync and world_size() > 1:
            raise UsageError(f"loss: {self.one_device}; on several devices use per_image=True")
        classes = torch.arange(pixels.num_classes, device=pixels.nll.device).view(1, -1, 1, 1)
        truth = (pixels.ids.unsqueeze(1) == classes) & pixels.valid.unsqueeze(1)
        errors = (truth.to(pixels.nll.dtype) - pixels.full_logits.softmax(1)).abs()
        errors = errors.where(pixels.valid.unsqueeze(1), -1)  # below all others: last in the order
        errors, truth = errors.flatten(2), truth.flatten(2)
        if not self.per_image:
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
        counted = true > 0 if self.present_only else torch.ones_like(true, dtype=torch.bool)
        by_image = by_class.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1)
        return mean_of_images(by_image, true, pixels)
