"""Which device, how many, in which precision: what the user asked for -> a Fabric."""

from __future__ import annotations

import logging

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from segtrain.config import Train
from segtrain.errors import UsageError

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its notes are about itself
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(train: Train) -> Fabric:
    """The Fabric of a run. Raises UsageError for what this machine has not."""
    device = resolve_device(train.device)
    if device == "cuda" and train.devices > torch.cuda.device_count():
        raise UsageError(
            f"train.devices: {train.devices} were asked for, this host has "
            f"{torch.cuda.device_count()} GPU(s)"
        )
    world = train.devices * train.nodes
    return Fabric(
        accelerator=device,
        devices=train.devices,
        num_nodes=train.nodes,
        # every step runs the same graph; saying so lets DDP bear parameters that it doesn't reach
        strategy=DDPStrategy(static_graph=True) if world > 1 else "auto",
        precision=PRECISIONS[resolve_precision(train.precision, device)],
    )


def share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Gives all ranks rank 0's batch norm statistics: those are what a checkpoint holds."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


def resolve_device(asked: str) -> str:
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UsageError(
            "train.device: cuda was asked for, but torch sees no GPU; use --device cpu"
        )
    return "cuda" if available and asked != "cpu" else "cpu"


def resolve_precision(asked: str, device: str) -> str:
    if asked == "auto":
        if device == "cpu":
            return "32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if asked == "fp16" and device == "cpu":  # torch would run it as bf16 without a word
        raise UsageError("train.precision: fp16 needs a GPU; on CPU use 32 or bf16")
    return asked
