"""A run's folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from segtrain.config import Config
from segtrain.errors import SegtrainError, UsageError
from segtrain.runs.folder import create_run


def test_a_folder_appears_with_its_config(tmp_path: Path, monkeypatch):
    run = create_run(tmp_path / "r", Config())
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    with pytest.raises(UsageError, match="exists"):
        create_run(tmp_path / "r", Config())

    def full(*_: object) -> None:
        raise SegtrainError("cannot write: no space")

    monkeypatch.setattr("segtrain.runs.folder.save_config", full)
    with pytest.raises(SegtrainError, match="no space"):
        create_run(tmp_path / "other", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
