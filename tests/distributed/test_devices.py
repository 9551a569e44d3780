"""Settings of the process that a device needs."""

from __future__ import annotations

import os

import pytest
import torch
from lightning_fabric.accelerators import MPSAccelerator

from segtrain.config import TrainConfig
from segtrain.distributed import devices, fabric
from segtrain.distributed.devices import resolve_device, resolve_precision
from segtrain.errors import UsageError


def test_determinism_can_be_switched_off_again():
    devices.set_deterministic(True)
    try:
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    finally:
        devices.set_deterministic(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize(
    "gpus, found",
    [
        (set(), {"auto": "cpu", "cpu": "cpu", "cuda": None, "mps": None}),
        ({"cuda"}, {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "mps": None}),
        ({"mps"}, {"auto": "mps", "cpu": "cpu", "cuda": None, "mps": "mps"}),
        ({"mps", "cuda"}, {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}),
    ],
    ids=["none", "cuda", "mac", "both"],
)
def test_the_device_is_one_that_is_there(monkeypatch, gpus: set, found: dict):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in gpus)
    monkeypatch.setattr(devices, "has_mps", lambda: "mps" in gpus)
    for requested, expected in found.items():
        if expected:
            assert resolve_device(requested) == expected
        else:
            with pytest.raises(UsageError, match=f"{requested} was given, but torch sees no GPU"):
                resolve_device(requested)


@pytest.mark.parametrize("version, known", [("2.13.1", False), ("2.14.0", True), ("3.0", True)])
def test_a_mac_with_an_old_torch_computes_on_its_cpu(monkeypatch, version: str, known: bool):
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    assert devices.has_mps() == known


def test_a_mac_has_one_gpu_in_full_precision(monkeypatch):
    monkeypatch.setattr(fabric, "resolve_device", lambda requested: "mps")
    with pytest.raises(UsageError, match="mps is one GPU, but --devices 2 --nodes 1 were given"):
        fabric.make_fabric(TrainConfig(devices=2))
    assert resolve_precision("auto", "mps") == "32"
    assert [resolve_precision(given, "mps") for given in ("32", "bf16", "fp16")] == [
        "32", "bf16", "fp16",
    ]  # fmt: skip
