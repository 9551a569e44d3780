"""A tenth of benchmarks/matrix.py: what a combination of architecture and encoder comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMBINATIONS = json.loads((BENCHMARKS / "results/matrix.json").read_text())["combinations"]
ALL = [(arch, encoder) for arch, by_encoder in COMBINATIONS.items() for encoder in by_encoder]
# steps of 9 meet each architecture twice and each encoder; from 1 on they are quick ones
TENTH = [ALL[20 * row + (18 * row + 9 * half + 1) % 20] for row in range(12) for half in (0, 1)]


@pytest.mark.filterwarnings("ignore")  # of smp, on names of its own that it wants to drop
@pytest.mark.parametrize("arch, encoder", TENTH, ids=map("-".join, TENTH))
def test_a_combination_trains_or_is_refused_before(
    arch: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from matrix import SIZES, try_combination, write_pairs

    data = write_pairs(tmp_path / "data")
    found = try_combination(arch, encoder, data, tmp_path / "run", SIZES[:3])
    assert found["outcome"] == COMBINATIONS[arch][encoder]["outcome"], found
