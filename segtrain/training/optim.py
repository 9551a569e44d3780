"""Optimizer, the learning rate of every step, and the moving average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segtrain.config import OptimConfig
from segtrain.models.segmentation import SegmentationModel
from segtrain.private import copy_tensors


def build_optimizer(
    model: SegmentationModel, loss: nn.Module, config: OptimConfig
) -> torch.optim.Optimizer:
    """AdamW or SGD, fused, over what is trained of a model and of its loss.

    Norms and biases (at most one dimension) and the loss's parameters are not decayed. Each group
    carries `lr_factor`, which set_lr reads. To be called once both are on their device and in their
    memory format: the fused kernels want state laid out as the parameters are. A step is skipped,
    state and all, where the attribute `found_inf` (float32, 0-d) of the optimiser is 1; nothing
    waits for the device to know. Raises ValueError where nothing is to be trained.
    """
    encoder = set(model.network.encoder.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [], "lr_factor": factor, "weight_decay": decay}
        for factor in (config.encoder_lr, 1.0)
        for decay in (config.weight_decay, 0.0)
    ]
    for parameter in model.parameters():
        place = 2 * (parameter not in encoder) + (parameter.ndim <= 1)
        groups[place]["params"].append(parameter)
    groups[-1]["params"].extend(loss.parameters())
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.momentum:  # torch's own are made in the first step, and left unset if that is skipped
        for group in groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def lr_at(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of a step, in (0, config.lr], by config.schedule.

    poly      lr * (1 - progress) ** power, as in DeepLab (Chen et al. 2017, arXiv:1606.00915)
    cosine    half a cosine from lr to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)
    constant  lr, this and those above after a linear warm-up
    onecycle  half a cosine up, then one down (Smith & Topin 2018, arXiv:1708.07120)
    """
    if config.schedule == "onecycle":
        return one_cycle(step, total_steps, config.lr)
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "cosine":
        return half_cosine(config.lr, 0, progress)
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 - progress) ** config.power


def one_cycle(step: int, total_steps: int, lr: float) -> float:
    """As torch's OneCycleLR by default: lr/25 to lr in 30 % of the steps, then to lr/250,000."""
    peak = 0.3 * total_steps - 1  # in steps, but not always a whole number of them
    if step <= peak:
        return half_cosine(lr / 25, lr, step / peak)
    return half_cosine(lr, lr / 250_000, (step - peak) / (total_steps - 1 - peak))


def half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of a model's parameters, after step 0, 1, ...; buffers are copied.

    average += (1 - d) * (model - average), d = min(decay, (1 + step) / (10 + step)): early steps
    weigh more, as in TensorFlow's ExponentialMovingAverage with num_updates. The average is a deep
    copy of the model. Nothing is read from the device; torch's AveragedModel reads its count there.
    So a skipped step counts as well, with weights as they were.
    """
    decay = min(decay, (1 + step) / (10 + step))
    average_parameters = get_ema_multi_avg_fn(decay)
    average_parameters(list(average.parameters()), list(model.parameters()), step)
    buffers = list(zip(average.buffers(), model.buffers(), strict=True))
    for floats in (True, False):  # a list of one type is copied in one kernel
        pairs = [pair for pair in buffers if pair[0].is_floating_point() is floats]
        if pairs:
            ours, theirs = map(list, zip(*pairs, strict=True))
            copy_tensors(ours, theirs)
