"""The hash of weights, and the refusal of NaN in a weights file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segtrain.errors import SegtrainError
from segtrain.models.weights import hash_weights, refuse_nonfinite

WEIGHTS = {
    "conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
    "norm.steps": torch.tensor(3),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def test_the_hash_ignores_order_and_memory_format():
    other = dict(reversed(WEIGHTS.items()))
    other["conv.weight"] = other["conv.weight"].to(memory_format=torch.channels_last)
    assert hash_weights(other) == hash_weights(WEIGHTS)
    assert len(hash_weights(WEIGHTS)) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"norm.steps": torch.tensor(4)},
        {"half": torch.ones(3, dtype=torch.float16)},
        {"conv.weight": WEIGHTS["conv.weight"].reshape(3, 2, 2, 2)},
        {"conv.weight": -WEIGHTS["conv.weight"]},
        {"other": torch.zeros(0)},
    ],
)
def test_any_change_changes_the_hash(change):
    assert hash_weights(WEIGHTS | change) != hash_weights(WEIGHTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite_are_refused(value, dtype):
    spoilt = torch.ones(2, 5, dtype=dtype)
    spoilt[1, 2] = value
    with pytest.raises(SegtrainError, match="x.safetensors: 1 of its 4 tensors .*decoder"):
        refuse_nonfinite(Path("x.safetensors"), WEIGHTS | {"decoder": spoilt})


def test_the_largest_finite_values_pass():
    largest = torch.full((9,), torch.finfo(torch.float32).max)
    refuse_nonfinite(Path("x.safetensors"), WEIGHTS | {"largest": largest})
