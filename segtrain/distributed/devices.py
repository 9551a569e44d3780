"""Device and precision as requested; process-wide settings; moving tensors to the device."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import MPSAccelerator
from torch import Tensor

from segtrain.errors import UsageError
from segtrain.private import has_bf16_instructions

T = TypeVar("T")


def resolve_device(requested: str) -> str:
    """Return "cuda", "mps" or "cpu" for one of them, or for auto.

    Raise UsageError for a GPU that torch doesn't see.
    """
    if requested == "cpu":
        return requested
    if requested != "mps" and torch.cuda.is_available():
        return "cuda"
    if requested != "cuda" and has_mps():
        return "mps"
    if requested == "auto":
        return "cpu"
    needs = " (mps needs a Mac with Apple silicon, and torch 2.14)" if requested == "mps" else ""
    raise UsageError(
        f"train.device: {requested} was given, but torch sees no GPU{needs}; use --device cpu"
    )


def has_mps() -> bool:
    """Return whether torch computes on the GPU of a Mac.

    Before torch 2.14 its fused optimizers there took the step of a NaN gradient (pytorch pull
    request 186360), and its sums of integers overflowed after 32 bits (184028).
    """
    return torch.__version__ >= "2.14" and MPSAccelerator.is_available()


def resolve_precision(requested: str, device: str) -> str:
    """Return "32", "bf16" or "fp16" for a device. Raise UsageError for fp16 on a CPU."""
    if requested == "auto":
        if device == "mps":  # half of the memory, but nobody has shown it to be faster there
            return "32"
        if computes_bf16(device):
            return "bf16"
        return "32" if device == "cpu" else "fp16"
    if requested == "fp16" and device == "cpu":  # torch would silently run it as bf16
        raise UsageError("train.precision: fp16 needs a GPU; on CPU use 32 or bf16")
    return requested


def computes_bf16(device: str) -> bool:
    """Return whether cpu or cuda computes bf16 in hardware; emulated, it is slower than float32.

    Of mps it is not known: True.
    """
    if device == "cpu":
        return torch.backends.mkldnn.is_available() and has_bf16_instructions()
    return device == "mps" or torch.cuda.is_bf16_supported(including_emulation=False)


def set_deterministic(deterministic: bool) -> None:
    """Select deterministic or fast GPU kernels for this process. A CPU is always deterministic."""
    if deterministic:  # for cuBLAS, which reads it as it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # a benchmark times cuDNN's kernels and takes the fastest: not the same one in each run
    torch.backends.cudnn.benchmark = not deterministic


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, so that steps don't map and zero their pages again.

    That takes up to a tenth of a step on a CPU. Other C libraries are not changed.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # M_MMAP_THRESHOLD: smaller blocks come from the heap; some versions refuse more than 32 MiB
        libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: keep the end of the heap


def choose_layout(device: torch.device, channels_last: bool = True) -> torch.memory_format:
    """Return the memory format of images and weights on a device: channels_last, if wanted.

    On MPS it is contiguous: torch's batch norm had wrong gradients or errors in the other (pytorch
    issues 175189 and 188371).
    """
    wanted = channels_last and device.type != "mps"
    return torch.channels_last if wanted else torch.contiguous_format


def copy_to(
    device: torch.device, values: Tensor, layout: torch.memory_format = torch.preserve_format
) -> Tensor:
    """Return a tensor on a device. A copy from pinned memory to CUDA does not wait.

    One to MPS must wait, or it may read memory that was freed meanwhile (pytorch issue 189690).
    """
    return values.to(device, non_blocking=device.type == "cuda", memory_format=layout)


def to_device(maps: Tensor, fabric: Fabric, max_pixels: float = math.inf) -> Tensor:
    """Return maps (...,H,W) on the fabric's device; larger ones than `max_pixels` unchanged."""
    if maps.shape[-2] * maps.shape[-1] > max_pixels:
        return maps
    return copy_to(fabric.device, maps)


def build_predictor(model: Callable[[Tensor], T], fabric: Fabric) -> Callable[[Tensor], T]:
    """Return a function: images (N,K,H,W) on any device -> the model's logits on fabric's."""

    def predict(images: Tensor) -> T:
        images = copy_to(fabric.device, images, choose_layout(fabric.device))
        with torch.inference_mode(), fabric.autocast():
            return model(images)

    return predict


def advise_on_overflow(fabric: Fabric) -> str:
    """Return what to do where a network with finite weights gives NaN or infinite values."""
    if fabric.strategy.precision.precision != "32-true":
        return "mixed precision may have overflowed: try --set train.precision=32"
    return (
        "its weights are too large, as where a training diverges: take an earlier checkpoint, or "
        "train with a lower --lr"
    )
