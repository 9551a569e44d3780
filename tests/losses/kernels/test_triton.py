"""Triton kernels against float64, in Triton's interpreter: results, not speed.

The interpreter is chosen when a kernel is decorated, so they run in a process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from parity import CASES

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[3]


def test_kernels_agree_with_float64():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("parity.py")), *CASES],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    # the deviation of each result in units of the allowed one
    off = {line["case"]: line["off"] for line in lines}
    assert off.keys() == CASES.keys()
    assert all(off.values())
    wrong = {
        case: errors for case, errors in off.items() if not all(e <= 1 for e in errors.values())
    }
    assert wrong == {}
