"""Triton kernels compiled for sm_90, which needs no GPU: what a launch builds does not spill.

Triton 3.8's ptxas needs no stack for any of them; the one of 3.6 puts up to four registers there.
"""

import os
import sys
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter does not compile", allow_module_level=True)
sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import torch  # noqa: E402
from kernels_sm90 import BATCHES, CUOBJDUMP, describe, launched_by  # noqa: E402

describe_once = cache(describe)  # of each build: batches share kernels of their selection


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_builds_of_launches_do_not_spill_and_load_neighbours_together(batch, tmp_path, monkeypatch):
    if not CUOBJDUMP.exists():
        pytest.skip("this Triton comes without cuobjdump")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    # with sums of p and of p^2, or neither
    expression = "ohem+dice+dice(squared=True)" if batch.classes == 19 else "ohem"
    launches = launched_by(expression, batch)
    assert {"nll_kernel", "digit_counts_kernel 4"} <= launches.keys()
    assert ("grad_upsampled_kernel" in launches) == (batch.upsample > 1)
    for name, launch in launches.items():
        counts = describe_once(launch.cubin)
        assert counts["spilled"] <= 16, name
        assert counts["fences"] == 0, name
        # strides of 1 and multiples of 16 are known to the compiler, as in a launch
        dense = batch.upsample == 1 and batch.layout == torch.contiguous_format
        if name in ("nll_kernel", "grad_kernel") and dense:
            assert "x128" in counts["loads"], name
