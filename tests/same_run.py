"""Equality of two runs: each epoch's row, except for times, and every weight, bit for bit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from safetensors import safe_open


def rows_of(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the columns of time."""
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    times = [name for name in rows[0] if name.endswith(("seconds", "per_second"))]
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """Return the tensors of the last and the best checkpoint."""
    tensors = {}
    for which in ("last", "best"):
        with safe_open(run / f"checkpoints/{which}.safetensors", "np") as file:
            tensors |= {f"{which} {name}": file.get_tensor(name) for name in file.keys()}
    return tensors


def assert_same_run(one: Path, other: Path) -> None:
    assert rows_of(one) == rows_of(other)
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []
