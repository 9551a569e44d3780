"""Collectives over the ranks of a run."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


def max_over_ranks(value: Tensor) -> Tensor:
    """Replace each element by its maximum over all ranks, in place, and return the tensor.

    Fabric's all_reduce adds a barrier, at which the host would wait for its GPU.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return value


def broadcast_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give all ranks the batch norm statistics of rank 0, which are those of its checkpoints."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
