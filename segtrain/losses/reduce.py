"""Sums over the pixels of all devices; the only file in losses/ that uses torch.distributed."""

import torch
import torch.distributed as dist
from torch import Tensor


class _GlobalSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # DDP averages gradients over the ranks, and each rank has only its own pixels' share
        return gradient * dist.get_world_size()


def world_size() -> int:
    """Return the number of processes in the group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """Return the sum of all ranks' `value` (any shape), the same on each; with one rank, `value`.

    A loss made of global sums has the value, and under DDP the gradient, that one process would
    compute on the joined batch.
    """
    return _GlobalSum.apply(value) if world_size() > 1 else value
