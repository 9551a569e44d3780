"""Losses over regions: sums per class over the whole batch."""

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError
from segtrain.losses.nll import masked_logits
from segtrain.losses.reduce import global_sum


class Dice(nn.Module):
    """1 - mean over classes of (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth).

    p is the softmax probability and t the one-hot truth; sums run over the valid pixels of the
    whole batch and all devices (Milletari et al. 2016, arXiv:1606.04797, without squares).
    A class that is nowhere counts as matched by smooth / (sum(p) + smooth).
    """

    def __init__(self, num_classes: int, lb_ignore: int = 255, smooth: float = 1e-5):
        super().__init__()
        if not smooth > 0:
            raise UsageError(f"loss: dice's smooth is a number above 0, got {smooth}")
        self.register_buffer("class_ids", torch.arange(num_classes).view(1, -1, 1, 1), False)
        self.lb_ignore = lb_ignore
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (N,C,H,W), target (N,H,W) class ids or lb_ignore -> 0-d."""
        valid, logits = masked_logits(logits, target, self.lb_ignore)
        truth = target.unsqueeze(1) == self.class_ids
        probs = logits.softmax(1).where(valid.unsqueeze(1), 0)
        over_pixels = (0, 2, 3)
        overlap = global_sum(probs.where(truth, 0).sum(over_pixels))
        total = global_sum(probs.sum(over_pixels) + truth.sum(over_pixels))
        dice = (2 * overlap + self.smooth) / (total + self.smooth)
        return 1 - dice.mean()
