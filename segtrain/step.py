"""The training step's maths: images and target -> loss, in the shape that costs least memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segtrain.losses import Loss
from segtrain.losses.nll import choose_path
from segtrain.model import SegmentationModel


class TrainingModule(nn.Module):
    """What Fabric wraps. The loss is inside: outputs would be copied to float32.

    The loss gets the logits before the head upsamples them. Where every term can read them so,
    it upsamples them on the way, and full-resolution logits are never written.
    """

    def __init__(self, model: SegmentationModel, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor, target: Tensor, observe: bool = False) -> Tensor:
        """uint8 images (N,K,H,W) and target int64 (N,H,W) -> 0-d."""
        model, loss = self.model, self.loss
        return loss(
            model.low_resolution(images),
            model.pad(target, loss.lb_ignore),
            model.upsampling,
            model.align_corners,
            observe,
        )


def describe_path(model: SegmentationModel, loss: Loss, device: torch.device) -> str:
    """Which way the loss will go on that device, and why, in a line."""
    path, reason = choose_path(device, next(model.parameters()).dtype)
    line = f"{path} path ({reason})"
    if model.upsampling > 1:
        needy = " and ".join(loss.reads_logits)
        fused = f"not fused: {needy} reads full-resolution logits" if needy else "fused"
        line += f", {model.upsampling}x upsampling of logits {fused}"
    return line
