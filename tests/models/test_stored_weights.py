"""Checkpoints read without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segtrain.errors import SegtrainError
from segtrain.models.stored_weights import hash_stored_weights
from segtrain.models.weights import hash_weights

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
TYPES += [torch.bool, torch.int8, torch.int16, torch.int32]


def test_the_hash_is_that_of_the_tensors(trained: Path, tmp_path: Path):
    tensors = {f"{kind}": torch.arange(12).reshape(3, 4).to(kind) for kind in TYPES}
    tensors |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "some.safetensors", {"segtrain": "{}"})
    for path in (tmp_path / "some.safetensors", trained / "checkpoints/best.safetensors"):
        digest, metadata = hash_stored_weights(path)
        assert digest == hash_weights(load_file(path)) and "segtrain" in metadata


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"\2\0\0\0\0\0\0\0[]", None])
def test_other_files_are_one_line(trained: Path, tmp_path: Path, content: bytes | None):
    whole = (trained / "checkpoints/best.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:-9] if content is None else content)
    with pytest.raises(SegtrainError, match="x.safetensors: not a checkpoint that can be read"):
        hash_stored_weights(tmp_path / "x.safetensors")
