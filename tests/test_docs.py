"""What the documents say is what the code does."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_config_manual_is_generated_from_the_config():
    tables = runpy.run_path(str(ROOT / "docs/generate.py"))["config_tables"]()
    assert (ROOT / "docs/config.md").read_text() == tables, "run python docs/generate.py"
