"""A run's folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from segtrain.config import Config
from segtrain.errors import SegtrainError, UsageError
from segtrain.runs.folder import create_run, find_checkpoint, find_resumed_run


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


@pytest.fixture
def two_runs(tmp_path: Path, monkeypatch) -> Path:
    """Of one name: one in the folder of all runs, one in the current folder."""
    for run in ("runs/unet", "unet"):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
        (tmp_path / run / "config.yaml").touch()
        (tmp_path / run / "checkpoints/best.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def test_a_plain_name_is_a_run_before_it_is_a_path(two_runs: Path, monkeypatch):
    best = "checkpoints/best.safetensors"
    assert find_checkpoint("unet", two_runs) == Path("runs/unet", best)
    assert find_resumed_run("unet", two_runs) == Path("runs/unet")
    for path in ("./unet", "unet/"):
        assert find_checkpoint(path, two_runs) == Path("unet", best)
        assert find_resumed_run(path, two_runs) == Path("unet")
    assert find_checkpoint("unet", Path("other")) == Path("unet", best)
    monkeypatch.chdir("unet")
    assert find_checkpoint(".", Path("../runs")) == Path(best)
    assert find_checkpoint(best, Path("../runs")) == Path(best)


@pytest.mark.parametrize("name", ["gone", "", "..", "x" * 300, "a\0b"])
def test_a_name_of_nothing_is_one_line(two_runs: Path, name: str):
    for find in (find_checkpoint, find_resumed_run):
        with pytest.raises(UsageError, match="no such run|no checkpoints"):
            find(name, two_runs)
