"""Settings of the process that a device needs."""

from __future__ import annotations

import os

import torch

from segtrain.distributed import devices


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
