"""Private names of libraries that have no public replacement; tests/test_private.py tries each."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def copy_tensors(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, all of one dtype in one kernel on a GPU.

    torch.foreach, which is to make this public, is not in a release yet.
    """
    torch._foreach_copy_(targets, sources)


def set_collective_timeout(limit: timedelta) -> None:
    """Set how long each collective of the default process group may last from now on."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(limit)
    else:  # torch before it had the public name
        dist.distributed_c10d._set_pg_timeout(limit)


def has_bf16_instructions() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware: AVX512-BF16, which AMX comes with.

    torch.cpu.get_capabilities, the public way, is missing from older versions of torch.
    """
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def is_compiler_error(error: Exception) -> bool:
    """Return whether torch.compile raised this; its exceptions have no public base class."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
