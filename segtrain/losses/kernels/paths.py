"""Choice of the path of the pixel pass: plain torch, tiles on the CPU, or Triton kernels."""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import torch

from segtrain.console import write
from segtrain.errors import SegtrainError, first_line, translate_errors

# number of passes by (path, the upsampling that was fused into it), for tests and benchmarks
PATHS_TAKEN: Counter[tuple[str, int]] = Counter()


class KernelPath(NamedTuple):
    """Path of a pixel pass and the reason for it."""

    name: str  # plain, two-class, tiles or triton
    reason: str


def choose_path(device: torch.device, dtype: torch.dtype, num_classes: int = 0) -> KernelPath:
    """Return the fastest path for logits of that device, dtype and number of classes (0: any).

    SEGTRAIN_KERNELS=0 in the environment forces the plain one.
    """
    if os.environ.get("SEGTRAIN_KERNELS") == "0":
        return KernelPath("plain", "SEGTRAIN_KERNELS=0")
    if torch.compiler.is_compiling():
        return KernelPath("plain", "torch.compile makes its own kernels")
    if device.type == "cpu":
        if num_classes == 2:
            return KernelPath("two-class", "two classes on the CPU")
        return KernelPath("tiles", "logits are on the CPU")
    if device.type != "cuda":
        return KernelPath("plain", f"no kernels for {device.type}")
    if dtype == torch.float64:
        return KernelPath("plain", "logits are float64")
    reason = _triton_failure(device.index or 0)
    return KernelPath("plain", reason) if reason else KernelPath("triton", "logits are on a GPU")


@lru_cache
def _triton_failure(device: int) -> str | None:
    """Return why the kernels don't build or run on that GPU; None where they do.

    Writes the reason once, since it makes training slower.
    """
    try:
        from segtrain.losses.kernels import triton_nll, triton_reductions
    except ImportError as error:
        reason = f"no Triton ({first_line(error)})"
    else:
        try:  # no C compiler, driver, CUDA or Python.h, a read-only cache: each has its own type
            with translate_errors(lambda e: f"Triton cannot build kernels ({first_line(e)})"):
                triton_nll.probe(torch.device("cuda", device))
                triton_reductions.probe(torch.device("cuda", device))
            return None
        except SegtrainError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):  # the user's to resolve
                raise error.__cause__ from None
            reason = str(error)
    write(f"note: losses take the plain path: {reason}", stderr=True)
    return reason
