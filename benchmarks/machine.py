"""Environment that each benchmark result records beside its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from segtrain.runs.environment import collect_environment

RESULTS = Path(__file__).parent / "results"


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return versions, device and commit, without what differs from call to call."""
    found = collect_environment(torch.device(device))
    return {key: value for key, value in found.items() if key not in ("command", "started")}
