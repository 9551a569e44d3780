"""Fabric of a run: its devices, processes and precision."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning_fabric.strategies import DDPStrategy

from segtrain.config import TrainConfig
from segtrain.config.types import parse_duration
from segtrain.console import Note
from segtrain.distributed.devices import (
    computes_bf16,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
    set_deterministic,
)
from segtrain.distributed.processes import GATHERING
from segtrain.errors import UsageError, first_line

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs only its own set-up
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
NAMES: dict[str, str] = {name: precision for precision, name in PRECISIONS.items()}


def name_precision(fabric: Fabric) -> str:
    """Return 32, bf16 or fp16: the precision that a fabric computes in."""
    return NAMES[fabric.strategy.precision.precision]


def describe_precision(train: TrainConfig, fabric: Fabric) -> str:
    """Return the precision in words, with a hint where the device only emulates it."""
    precision = name_precision(fabric)
    if precision == "bf16" and not computes_bf16(fabric.device.type):
        return "bf16, which this device emulates: slower than 32"
    return f"{precision} (auto)" if train.precision == "auto" else precision


def make_fabric(train: TrainConfig, changing: bool = False) -> Fabric:
    """Build the Fabric of a run. Raise UsageError for what the machine or launcher lacks.

    changing: other parameters are trained at its end than at its start (optim.freeze_epochs).
    """
    launcher = detect_launcher()
    refuse_launch(train, launcher)
    device = resolve_device(train.device)
    if device == "cuda" and train.devices > torch.cuda.device_count():
        raise UsageError(
            f"train.devices: {train.devices} is more than the {torch.cuda.device_count()} GPU(s) "
            "of this host"
        )
    if device == "mps" and train.devices * train.nodes > 1:  # torch has no collectives for it
        raise UsageError(
            f"train.devices: mps is one GPU, but --devices {train.devices} --nodes {train.nodes} "
            "were given; leave them out, or use --device cpu"
        )
    if device == "cpu":
        keep_freed_memory()
    else:
        set_deterministic(train.deterministic)
    try:
        return Fabric(
            accelerator=device,
            devices=train.devices,
            num_nodes=train.nodes,
            strategy=make_ddp(train, changing) if train.devices * train.nodes > 1 else "auto",
            precision=PRECISIONS[resolve_precision(train.precision, device)],
            # else Fabric takes any job of SLURM's for its launcher, one with a single task, too
            plugins=None if launcher else LightningEnvironment(),
        )
    except (RuntimeError, ValueError) as error:  # Fabric's check of SLURM's variables
        if launcher != "srun":
            raise
        raise UsageError(f"SLURM: {first_line(error)}") from error


def make_lone_fabric(train: TrainConfig) -> Fabric:
    """Build the Fabric of a single process on the first device, whatever launched it."""
    device = resolve_device(train.device)
    return Fabric(
        accelerator=device,
        devices=1,
        precision=PRECISIONS[resolve_precision(train.precision, device)],
        plugins=LightningEnvironment(),
    )


def make_ddp(train: TrainConfig, changing: bool) -> DDPStrategy:
    """Build DDP for networks with parameters that no loss reaches, maybe others in time.

    A static graph is the faster way to allow them; torch lacks it under gradient accumulation.
    """
    static = train.accumulate == 1 and not changing
    limit = timedelta(seconds=max(GATHERING, parse_duration(train.timeout)))
    return DDPStrategy(timeout=limit, static_graph=static, find_unused_parameters=not static)


def detect_launcher() -> str | None:
    """Return the launcher that started this process: torchrun, srun (SLURM), or None."""
    if torch.distributed.is_torchelastic_launched():
        return "torchrun"
    several = os.environ.get("SLURM_NTASKS", "1") != "1"
    return "srun" if several and SLURMEnvironment.detect() else None


def refuse_launch(train: TrainConfig, launcher: str | None) -> None:
    """Raise UsageError where the processes started differ from --devices and --nodes."""
    devices, nodes = train.devices, train.nodes
    if launcher is None:
        if nodes > 1:
            raise UsageError(
                f"train.nodes: a launcher must start the processes of {nodes} hosts; run on each, "
                f"with its own --node-rank from 0 to {nodes - 1}: torchrun --nnodes={nodes} "
                f"--nproc-per-node={devices} --node-rank=0 --master-addr=FIRST_HOST "
                f"--master-port=29500 -m segtrain {shlex.join(sys.argv[1:])}"
            )
        return
    names = {
        "torchrun": ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        "srun": ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    }[launcher]
    # without --ntasks-per-node Fabric's own error says what SLURM needs
    world, per_host = (int(os.environ.get(name) or 0) for name in names)
    if per_host and (world, per_host) != (devices * nodes, devices):
        raise UsageError(
            f"train.devices: {launcher} started {world} processes, {per_host} on each host, but "
            f"--devices {devices} --nodes {nodes} were given; use --devices {per_host} "
            f"--nodes {world // per_host}"
        )


def check_batch_norm(fabric: Fabric, train: TrainConfig, frozen: bool) -> list[Note]:
    """Return a note where batch norm can't use the images of all processes: on CPUs."""
    if fabric.world_size == 1 or fabric.device.type != "cpu" or frozen or not train.sync_bn:
        return []
    images = train.images_per_step // fabric.world_size // train.accumulate
    return [
        Note(
            f"on CPUs batch norm uses the {images} image(s) of each process, not of all processes",
            "note",
        )
    ]
