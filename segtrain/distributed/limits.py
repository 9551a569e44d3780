"""Limits of a device, explained in one line: memory, compilation, determinism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segtrain.errors import SegtrainError, first_line
from segtrain.private import is_compiler_error

# torch raises a plain RuntimeError for the memory of a CPU, MPS, cuBLAS and cuDNN
NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "MPS backend out of memory",
    "ALLOC_FAILED",
)
NOT_DETERMINISTIC = "does not have a deterministic implementation"


@contextmanager
def explain_limits(advice: str) -> Iterator[None]:
    """Raise SegtrainError where the block exceeds what the device can do; other errors pass.

    The limits are memory (with `advice` how to need less), torch.compile, and operations that have
    no deterministic implementation (train.deterministic).
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise SegtrainError(f"out of memory: {advice}") from error
        if is_compiler_error(error):
            raise SegtrainError(f"train.compile: {first_line(error)}; set it to off") from error
        if NOT_DETERMINISTIC in str(error):
            raise SegtrainError(
                f"train.deterministic: {first_line(error).partition('. ')[0]}; set it to false"
            ) from error
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is for memory, of the device or of the host."""
    no_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return no_memory or any(sign in str(error) for sign in NO_MEMORY)
