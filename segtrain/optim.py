"""Optimiser and learning rate."""

from __future__ import annotations

import torch
from torch import nn

from segtrain.config import Optim


def build_optimizer(module: nn.Module, config: Optim) -> torch.optim.AdamW:
    """AdamW; norms and biases (parameters of one dimension) are not decayed."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


def lr_at(step: int, total_steps: int, config: Optim) -> float:
    """Learning rate of a step: a linear warm-up to config.lr, then a polynomial decay to 0.

    lr * (1 - progress) ** power, as in DeepLab (Chen et al. 2017, arXiv:1606.00915).
    """
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    return config.lr * (1 - progress) ** config.power
