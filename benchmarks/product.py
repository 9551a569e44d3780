"""What `segtrain fit` sets in its process: imported before torch, it sets the same here."""

from __future__ import annotations

import os
from typing import Any

from segtrain.__main__ import ENVIRONMENT, set_environment

set_environment()

import torch  # noqa: E402
from lightning_fabric import Fabric  # noqa: E402

from segtrain.config import TrainConfig  # noqa: E402
from segtrain.distributed.fabric import make_fabric  # noqa: E402

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def start_product(threads: int | None = None, **train: Any) -> tuple[Fabric, dict[str, Any]]:
    """Make the Fabric that `fit` makes of a train section, and return it with what is set now.

    Fabric's construction sets the allocator on a CPU, and the choice of kernels on a GPU.
    """
    config = TrainConfig(**train)
    fabric = make_fabric(config)
    if threads:
        torch.set_num_threads(threads)
    return fabric, {
        "environment": {variable: os.environ.get(variable) for variable in ENVIRONMENT},
        "allocator": "keeps freed memory" if fabric.device.type == "cpu" else "torch's own",
        "precision": fabric.strategy.precision.precision,
        "layout": "channels_last" if config.channels_last else "contiguous",
        "threads": torch.get_num_threads(),
    }
