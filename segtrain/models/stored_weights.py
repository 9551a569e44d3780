"""Checkpoints read without torch: the hash of their weights, and their metadata."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from segtrain.errors import first_line, translate_errors

TORCH_NAMES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
MAX_HEADER = 100_000_000  # bytes, as safetensors itself has it


def hash_stored_weights(path: Path) -> tuple[str, dict[str, str]]:
    """Return `hash_weights` of a .safetensors file's tensors, and its metadata.

    Raise SegtrainError for any other file.
    """

    def explain(error: Exception) -> str:
        return f"{path}: not a checkpoint that can be read ({first_line(error)})"

    with translate_errors(explain), open(path, "rb") as file:
        header = _read_header(file.read(8), file)
        start, metadata = file.tell(), header.pop("__metadata__", {})
        digest = hashlib.sha256()
        for name in sorted(header):
            tensor = header[name]
            kind = TORCH_NAMES[tensor["dtype"]]
            digest.update(f"{name} torch.{kind} {list(tensor['shape'])}\n".encode())
            first, last = tensor["data_offsets"]
            file.seek(start + first)
            while first < last:
                block = file.read(min(last - first, 1 << 20))
                if not block:
                    raise ValueError("the file ends early")
                digest.update(block)
                first += len(block)
    return digest.hexdigest(), metadata


def _read_header(size: bytes, file: Any) -> dict[str, Any]:
    """Return a .safetensors file's header, of which `size` are the first bytes."""
    (length,) = struct.unpack("<Q", size)
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(file.read(length))
    return header
