"""Environment of a run: versions, device, commit and command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from segtrain.errors import first_line, translate_errors
from segtrain.files.whole import save_json
from segtrain.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "albumentations",
    "lightning-fabric",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
)


def collect_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device, git commit and command, which make a score reproducible."""
    on_gpu = device.type == "cuda"
    return {
        "segtrain": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "device": device.type,
        "device_name": device_name(device),
        "cuda": torch.version.cuda if on_gpu else None,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
        "started": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
    }


def package_versions() -> dict[str, str | None]:
    """Return the versions of the packages that a run's numbers depend on."""
    return {package: _version(package) for package in PACKAGES}


def device_name(device: torch.device) -> str:
    """Return the model of the GPU or CPU."""
    if device.type == "mps":
        return torch.backends.mps.get_name()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache  # every checkpoint stores them
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of segtrain's own checkout; None for an installed package."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        # a virtual environment may lie inside another project's checkout, hence the second command
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        tracked = subprocess.run(
            [*command[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == tracked.returncode == 0 else None


def record_start(file: Path, environment: dict[str, Any]) -> None:
    """Write the environment of a run's first start, or append that of a resume to `resumed`."""
    if file.exists():
        damaged = (
            f"{file}: damaged; restore it, or remove it to continue without the earlier starts"
        )
        with translate_errors(lambda error: f"{damaged} ({first_line(error)})"):
            first = json.loads(file.read_text(encoding="utf-8"))
            environment = first | {"resumed": [*first.get("resumed", []), environment]}
    save_json(file, environment)
