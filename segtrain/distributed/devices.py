"""Device, number of devices and precision as asked for, to a Fabric; limits of devices."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from segtrain.config import TrainConfig
from segtrain.config.types import seconds
from segtrain.distributed.processes import GATHERING
from segtrain.errors import SegtrainError, UsageError, first_line

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its notes are about itself
NOT_DETERMINISTIC = "does not have a deterministic implementation"
NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory", "ALLOC_FAILED")
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def make_fabric(train: TrainConfig) -> Fabric:
    """The Fabric of a run. Raises UsageError for what this machine or its launcher has not."""
    launcher = launched_by()
    refuse_launch(train, launcher)
    device = resolve_device(train.device)
    if device == "cuda" and train.devices > torch.cuda.device_count():
        raise UsageError(
            f"train.devices: {train.devices} were asked for, this host has "
            f"{torch.cuda.device_count()} GPU(s)"
        )
    if device == "cuda":
        set_deterministic(train.deterministic)
    else:
        keep_freed_memory()
    try:
        return Fabric(
            accelerator=device,
            devices=train.devices,
            num_nodes=train.nodes,
            strategy=make_ddp(train) if train.devices * train.nodes > 1 else "auto",
            precision=PRECISIONS[resolve_precision(train.precision, device)],
            plugins=None if launcher else LightningEnvironment(),
        )
    except (RuntimeError, ValueError) as error:
        if launcher != "srun":
            raise
        raise UsageError(f"SLURM: {first_line(error)}") from error  # of its variables


def predictor(model: nn.Module, fabric: Fabric) -> Callable[[Tensor], Tensor]:
    """Images (N,K,H,W), wherever they are -> logits (N,C,H,W) in float32 on the fabric's device."""

    def predict(images: Tensor) -> Tensor:
        images = images.to(fabric.device, non_blocking=True, memory_format=torch.channels_last)
        with torch.inference_mode(), fabric.autocast():
            return model(images).float()

    return predict


def to_device(pixels: Tensor, fabric: Fabric, most: float = math.inf) -> Tensor:
    """Maps (...,H,W) on the fabric's device; those of more than `most` pixels stay where they are.

    From pinned memory without waiting.
    """
    if pixels.shape[-2] * pixels.shape[-1] > most:
        return pixels
    return pixels.to(fabric.device, non_blocking=True)


def make_ddp(train: TrainConfig) -> DDPStrategy:
    """Some networks have parameters that no loss reaches; DDP must be told so, either way.

    Every step runs the same graph, which is the quicker way; torch has it not for a step in parts.
    """
    same = train.accumulate == 1
    limit = timedelta(seconds=max(GATHERING, seconds(train.timeout)))
    return DDPStrategy(timeout=limit, static_graph=same, find_unused_parameters=not same)


def launched_by() -> str | None:
    """What started several processes: torchrun, SLURM's srun, or nobody."""
    if torch.distributed.is_torchelastic_launched():
        return "torchrun"
    several = os.environ.get("SLURM_NTASKS", "1") != "1"
    return "srun" if several and SLURMEnvironment.detect() else None


def refuse_launch(train: TrainConfig, launcher: str | None) -> None:
    """Raises UsageError where processes and hosts aren't as many as --devices and --nodes say."""
    devices, nodes = train.devices, train.nodes
    if launcher is None:
        if nodes > 1:
            raise UsageError(
                f"train.nodes: a launcher starts the processes of {nodes} hosts; type on each, "
                f"with its own --node-rank from 0 to {nodes - 1}: torchrun --nnodes={nodes} "
                f"--nproc-per-node={devices} --node-rank=0 --master-addr=FIRST_HOST "
                f"--master-port=29500 -m segtrain {shlex.join(sys.argv[1:])}"
            )
        return
    names = {
        "torchrun": ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        "srun": ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    }[launcher]
    # without --ntasks-per-node Fabric says what SLURM must be told
    world, here = (int(os.environ.get(name) or 0) for name in names)
    if here and (world, here) != (devices * nodes, devices):
        raise UsageError(
            f"train.devices: {launcher} started {world} processes, {here} on each host, but "
            f"--devices {devices} --nodes {nodes} were asked for; these go with it: "
            f"--devices {here} --nodes {world // here}"
        )


def set_deterministic(wanted: bool) -> None:
    """Whether a GPU repeats itself to the last bit. A CPU does so without being told."""
    if wanted:  # cuBLAS reads it as it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = not wanted


def keep_freed_memory() -> None:
    """Has glibc keep what is freed: else each step has its pages mapped and zeroed anew.

    That is up to a tenth of a step on a CPU. Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # M_MMAP_THRESHOLD: smaller blocks come from the heap; some versions refuse more than 32 MiB
        libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: which keeps its end


def batch_norm_note(fabric: Fabric, train: TrainConfig, frozen: bool) -> str:
    """A line where batch norm can't be over all processes' images, else ''."""
    if fabric.world_size == 1 or fabric.device.type != "cpu" or frozen or not train.sync_bn:
        return ""
    images = train.batch_size // fabric.world_size // train.accumulate
    return f"note: on CPUs batch norm is over the {images} image(s) of each process, not over all"


def max_over_ranks(value: Tensor) -> Tensor:
    """The highest of all ranks' values, element by element, the same on each; in place.

    Fabric's all_reduce would do, but for its barrier, at which a host waits for its GPU.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return value


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


@contextmanager
def limits_explained(advice: str) -> Iterator[None]:
    """Raises SegtrainError for what a device can't do: more memory (with the advice), or an
    operation of the network that has no deterministic way (train.deterministic)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if short or any(sign in str(error) for sign in NO_MEMORY):
            raise SegtrainError(f"out of memory: {advice}") from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise SegtrainError(f"train.compile: {first_line(error)}; set it to off") from error
        if NOT_DETERMINISTIC in str(error):
            raise SegtrainError(
                f"train.deterministic: {first_line(error).partition('. ')[0]}; set it to false"
            ) from error
        raise
