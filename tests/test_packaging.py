"""The package for pip: one name, and a wheel with every module and data file of the checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import segtrain
from segtrain.version import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = "segtrain tests docs benchmarks configs data .github .ci".split()
TEXTS = {".md", ".py", ".toml", ".yaml", ".yml", ".html", ".cff", ""}


def files_below(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)) for p in paths if "__pycache__" not in p.parts}


def test_one_name_everywhere():
    """On PyPI `segtrain` is another project's package, which no page may name to pip."""
    assert PROJECT["name"] == DISTRIBUTION == "segtrain-cli"
    folders = [ROOT / name for name in FOLDERS]
    files = [path for folder in folders for path in folder.rglob("*") if path != Path(__file__)]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    texts = {p: p.read_text() for p in files if p.is_file() and p.suffix in TEXTS}
    assert ROOT / "README.md" in texts and ROOT / "segtrain/cli/app.py" in texts
    foreign = re.compile(r"pip install[^\n`]*\bsegtrain(?!-cli)\b|\bsegtrain\[")
    assert {p: found for p, text in texts.items() if (found := foreign.findall(text))} == {}


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == segtrain.__version__
    versions = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == segtrain.__version__


def test_the_wheel_has_every_file(tmp_path: Path):
    """With an editable install a folder missing from the wheel goes unnoticed."""
    source, target = tmp_path / "source", tmp_path / "target"
    cache = shutil.ignore_patterns("__pycache__")
    # a copy, as building leaves files beside the source
    shutil.copytree(ROOT / "segtrain", source / "segtrain", ignore=cache)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, source], check=True, timeout=120)
    assert files_below(target / "segtrain") == files_below(ROOT / "segtrain")
    (info,) = target.glob("*.dist-info")
    assert info.name == f"segtrain_cli-{segtrain.__version__}.dist-info"
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()
    assert "segtrain = segtrain.__main__:main" in (info / "entry_points.txt").read_text()
    assert list(info.rglob("LICENSE"))
