"""Choice of the path of the pixel pass: plain torch, tiles on the CPU, or Triton kernels."""

from __future__ import annotations

import os
import re
import subprocess
import traceback
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import torch

from segtrain.console import write
from segtrain.errors import first_line

# no C compiler, driver, CUDA or Python.h, a read-only cache: Triton lets each through as it comes
TOOLCHAIN_ERRORS = (RuntimeError, AssertionError, OSError, ImportError, subprocess.SubprocessError)
# of a kernel that was built, in the words of the driver
RUN_ERRORS = re.compile("illegal|misaligned|out of memory|launch failure|device-side assert")
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
        from triton.errors import TritonError
    except ImportError as error:
        reason = f"no Triton ({first_line(error)})"
    else:
        try:
            probe_kernels(torch.device("cuda", device))
            return None
        except (TritonError, *TOOLCHAIN_ERRORS) as error:
            if not _is_build_error(error):
                raise
            reason = f"Triton cannot build kernels ({first_line(error)})"
    write(f"note: losses take the plain path: {reason}", stderr=True)
    return reason


def probe_kernels(device: torch.device | str) -> None:
    """Build and run small cases of all kernels, with gradients in any mode of the caller."""
    from segtrain.losses.kernels import triton_nll, triton_reductions

    with torch.inference_mode(False), torch.enable_grad():
        triton_nll.probe(device)
        triton_reductions.probe(device)


def _is_build_error(error: Exception) -> bool:
    """Return whether Triton or its tools are to blame, not a kernel that ran or our own code."""
    if type(error) not in (RuntimeError, AssertionError):
        return not isinstance(error, RuntimeError)  # a subclass is torch's: out of memory, say
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = frame.f_globals.get("__name__", "")
    in_triton = module.partition(".")[0] == "triton" or "C compiler" in str(error)
    return in_triton and not RUN_ERRORS.search(str(error))
