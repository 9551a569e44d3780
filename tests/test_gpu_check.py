"""benchmarks/gpu_check.py without a GPU: its dry flow, and what a section that fails leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FAILING = """
import os, time
import gpu_check

def crash(visit):
    yield "before", {"right": True}
    os._exit(3)

def raising(visit):
    yield "before", {"right": True}
    raise RuntimeError("lost")

def hanging(visit):
    yield "before", {"right": True}
    time.sleep(60)

def fine(visit):
    yield "after", {"right": True}

gpu_check.SECTIONS = {crash: 60, raising: 60, hanging: 2, fine: 60}
gpu_check.LEAST = 1
gpu_check.main()
"""


def run(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=BENCHMARKS, timeout=300)


def test_the_dry_flow_runs_every_section(tmp_path: Path):
    file = tmp_path / "found.json"
    done = run("gpu_check.py", "--dry", "--out", file, "--commit", "abc")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{file}: all right\n")
    found = json.loads(file.read_text())
    assert found["command"] == "python benchmarks/gpu_check.py --dry --seconds 480"
    assert found["environment"]["git_commit"] == "abc"
    assert found["environment"]["packages"]["torch"]
    sections = found["sections"]
    assert {name: len(section["results"]) for name, section in sections.items()} == {
        "correct": 25,
        "timings": 9,
        "tests": 1,
        "profiles": 6,
        "selection": 2,
        "graphs": 2,
        "large": 2,
    }
    for section in sections.values():
        assert section["error"] is None
        assert all(result.get("right", True) for result in section["results"].values())
    assert sections["correct"]["results"].pop("path")["path"] == "tiles"
    for result in sections["correct"]["results"].values():
        assert result["repeats"] and result["paths"][0].startswith(("tiles x", "two-class x"))
        assert 0 < result["gradient_off"] < 1e-2
    methods = {"reference", "fused", "F.cross_entropy", "fused ce", "fused, with dice"}
    for place, case in enumerate(sections["timings"]["results"].values()):
        assert case["methods"].keys() == methods | ({"plain"} if place == 0 else set())
        assert all(method["ms"] > 0 for method in case["methods"].values())
    assert all(case["launches"] for case in sections["profiles"]["results"].values())


def test_a_section_that_fails_loses_no_other(tmp_path: Path):
    file = tmp_path / "found.json"
    done = run("-c", FAILING, "--dry", "--out", file)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith(f"{file}: 3 wrong\n")
    sections = json.loads(file.read_text())["sections"]
    for name in ("crash", "raising", "hanging"):
        assert sections[name]["results"] == {"before": {"right": True}}
    assert sections["crash"]["error"] == "its process died with exit code 3"
    assert sections["raising"]["error"].endswith("RuntimeError: lost\n")
    assert sections["hanging"]["error"] == "not done within 2 s"
    assert sections["fine"]["results"] == {"after": {"right": True}}
    assert sections["fine"]["error"] is None
