"""Weights as named tensors: the hash that identifies them, and the refusal of NaN in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segtrain.errors import SegtrainError, shorten

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all tensors as hexadecimal digits: names, types, shapes and bytes.

    It depends on neither metadata, order, device nor memory format.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_nonfinite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise SegtrainError where a weights file holds NaN, infinities or tensors of other types."""
    for name, tensor in weights.items():
        other = (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype not in FLOATS
        quantised = tensor.dtype in (torch.int8, torch.uint8)
        if other or quantised or tensor.layout != torch.strided:
            kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
            raise SegtrainError(
                f"{path}: {name} is of type {kind}, with which no network can be computed; "
                "save it as torch.float32"
            )
    wrong = [
        name
        for name, tensor in weights.items()
        # the sum of finite values may overflow, that of zeros may not
        if tensor.is_floating_point() and not bool((tensor * 0).sum() == 0)
    ]
    if wrong:
        raise SegtrainError(
            f"{path}: {len(wrong)} of its {len(weights)} tensors hold NaN or infinite values "
            f"({shorten(wrong)}); take an earlier checkpoint"
        )
