"""Limits of a device are one sentence with advice; any other error passes."""

from __future__ import annotations

import pytest
import torch

from segtrain.distributed.limits import explain_limits
from segtrain.errors import SegtrainError


def test_a_network_that_cannot_be_compiled_is_one_sentence():
    from torch._dynamo.exc import Unsupported

    with pytest.raises(SegtrainError, match="train.compile: no such op; set it to off"):
        with explain_limits("use less"):
            raise Unsupported("no such op")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, max allowed: 6.80 GB)."),
    ],
    ids=["cuda", "cpu", "python", "mps"],
)
def test_out_of_memory_is_one_sentence_with_advice(error):
    with pytest.raises(SegtrainError, match="^out of memory: use less$"):
        with explain_limits("use less"):
            raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), explain_limits("use less"):
        raise RuntimeError("shapes don't match")


def test_a_real_allocation_that_fails_is_known():
    with pytest.raises(SegtrainError, match="out of memory"), explain_limits("use less"):
        torch.empty(2**60, dtype=torch.uint8)


def test_an_operation_without_a_deterministic_implementation_is_one_sentence():
    text = "put_ does not have a deterministic implementation, but you set 'torch.use_…'. You can"
    with pytest.raises(SegtrainError, match="put_ does not .*; set it to false"):
        with explain_limits("use less"):
            raise RuntimeError(text)
