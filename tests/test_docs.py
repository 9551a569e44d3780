"""What the documents say is what the code does."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page, write", [("config", "config_tables"), ("losses", "loss_pages")])
def test_the_manual_is_generated_from_the_code(page, write):
    text = runpy.run_path(str(ROOT / "docs/generate.py"))[write]()
    assert (ROOT / f"docs/{page}.md").read_text() == text, "run python docs/generate.py"


def test_the_readme_quotes_the_benchmark():
    found = json.loads((ROOT / "benchmarks/results/demo_losses.json").read_text())["summary"]
    readme = (ROOT / "README.md").read_text()
    for loss, scores in found.items():
        quoted = [
            scores["miou_after_epoch_1"],
            scores["miou"],
            scores["iou"]["pole"],
            scores["iou"]["sign"],
        ]
        cells = [f"{s['mean']:.3f} ({s['min']:.3f}-{s['max']:.3f})" for s in quoted]
        assert f"| `{loss}` | {' | '.join(cells)} |" in readme
