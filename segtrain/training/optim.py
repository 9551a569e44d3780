"""Optimizer, the learning rate of every layer and step, and the moving average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segtrain.config import OptimConfig
from segtrain.models.layers import number_layers
from segtrain.models.segmentation import SegmentationModel
from segtrain.private import copy_tensors


def build_optimizer(
    model: SegmentationModel, loss: nn.Module, config: OptimConfig
) -> torch.optim.Optimizer:
    """Build fused AdamW or SGD over the trainable parameters of a model and its loss.

    Norms and biases (at most one dimension) and the loss's parameters get no weight decay. Each
    group has an `lr_factor`, which set_lr reads: 1, and in layer i = 0, 1, ... of the encoder's
    `depth` layers encoder_lr * layer_decay ** (depth - i), as in BEiT (Bao et al. 2022,
    arXiv:2106.08254). The model's unreached parameters have a place in their group, as in states
    of older versions, which trained none of them either. Model and loss must be on their device
    and in their memory format: the fused kernels need state laid out like the parameters. A step
    is skipped, state included, if the optimizer's attribute `found_inf` (float32, 0-d) is 1; the
    host doesn't wait to know. Raise ValueError where there is nothing to train.
    """
    encoder = model.network.encoder
    if config.layer_decay == 1:  # one layer, as in the states of runs before it
        layers = dict.fromkeys(encoder.parameters(), 0)
    else:
        layers = number_layers(encoder, model.mean.shape[1], model.padding.least)
    unreached = {p for name, p in model.named_parameters() if name in model.unreached}
    depth = 1 + max((layer for p, layer in layers.items() if p not in unreached), default=0)
    layers = {p: min(layer, depth - 1) for p, layer in layers.items()}
    factors = [config.encoder_lr * config.layer_decay ** (depth - i) for i in range(depth)]
    groups: list[dict[str, Any]] = [
        {"params": [], "lr_factor": factor, "weight_decay": decay}
        for factor in (*factors, 1.0)
        for decay in (config.weight_decay, 0.0)
    ]
    for parameter in model.parameters():
        if parameter.requires_grad or parameter in unreached:
            index = 2 * layers.get(parameter, depth) + (parameter.ndim <= 1)
            groups[index]["params"].append(parameter)
    groups[-1]["params"].extend(p for p in loss.parameters() if p.requires_grad)
    # that of a frozen encoder has nothing to train
    groups = [group for group in groups if group["params"] and group["lr_factor"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.momentum:  # torch's own are made in the first step, but not if it is skipped
        for group in groups:
            for parameter in (p for p in group["params"] if p.requires_grad):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set each group's learning rate to lr * lr_factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def lr_at(step: int, total_steps: int, config: OptimConfig) -> float:
    """Return the learning rate of a step (from 0), in (0, config.lr], by config.schedule.

    poly      lr * (1 - progress) ** power, as in DeepLab (Chen et al. 2017, arXiv:1606.00915)
    cosine    half a cosine from lr to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)
    constant  lr
    onecycle  half a cosine up, then one down (Smith & Topin 2018, arXiv:1708.07120)

    A linear warm-up comes before all but onecycle.
    """
    if config.schedule == "onecycle":
        return one_cycle(step, total_steps, config.lr)
    warmup = count_warmup(total_steps, config)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)  # above 0 from the first step on
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "cosine":
        return half_cosine(config.lr, 0, progress)
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 - progress) ** config.power


def count_warmup(total_steps: int, config: OptimConfig) -> int:
    """Return the number of warm-up steps: config.warmup itself, or the share of all steps."""
    warmup = config.warmup
    return round(warmup * total_steps) if warmup < 1 else int(warmup)


def one_cycle(step: int, total_steps: int, lr: float) -> float:
    """Return the rate of torch's OneCycleLR: lr/25 to lr in 30 % of the steps, then lr/250,000."""
    peak = 0.3 * total_steps - 1  # in steps, not always a whole number
    # torch's defaults: pct_start 0.3, div_factor 25, final_div_factor 1e4
    if step <= peak:
        return half_cosine(lr / 25, lr, step / peak)
    return half_cosine(lr, lr / 250_000, (step - peak) / (total_steps - 1 - peak))


def half_cosine(start: float, end: float, progress: float) -> float:
    """Return a value between start and end, by half a cosine, for a progress of 0..1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of a model after step 0, 1, ...; copy its buffers.

    average += (1 - d) * (model - average), d = min(decay, (1 + step) / (10 + step)): early steps
    weigh more, as in TensorFlow's ExponentialMovingAverage with num_updates. The average is a deep
    copy of the model. Unlike torch's AveragedModel, it reads no count from the device, so a skipped
    step, with unchanged weights, counts too.
    """
    decay = min(decay, (1 + step) / (10 + step))
    update = get_ema_multi_avg_fn(decay)
    weights = zip(average.parameters(), model.parameters(), strict=True)
    trained = [pair for pair in weights if pair[1].requires_grad]  # the others stay equal
    update([mean for mean, _ in trained], [weight for _, weight in trained], step)
    buffers = list(zip(average.buffers(), model.buffers(), strict=True))
    for floats in (True, False):  # one kernel copies a list of one type
        pairs = [pair for pair in buffers if pair[0].is_floating_point() is floats]
        if pairs:
            averages, values = map(list, zip(*pairs, strict=True))
            copy_tensors(averages, values)
