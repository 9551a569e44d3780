"""The state of a training: scores, counts, and the checkpoints that are kept."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QUICK

from segtrain import load
from segtrain.errors import SegtrainError
from segtrain.metrics.confusion import Confusion, score_matrix
from segtrain.models.checkpoint import read_meta, save_model
from segtrain.training.checkpoints import keep_last
from segtrain.training.resume import find_state
from segtrain.training.state import TrainState, select_score


def test_the_best_score_and_how_long_it_stands():
    state = TrainState()
    seen = [(score, state.improve(score), state.stale) for score in (0.2, 0.1, None, 0.2, 0.3)]
    assert [better for _, better, _ in seen] == [True, False, False, False, True]
    assert [stale for *_, stale in seen] == [0, 1, 2, 3, 0]
    assert state.best == 0.3


def test_bad_steps_in_a_row():
    state = TrainState()
    in_a_row = []
    for bad in (True, True, False, True):
        state.count_step(bad)
        in_a_row.append(state.bad_in_a_row)
    assert in_a_row == [1, 2, 0, 1] and state.skipped == 3


def test_the_monitored_score():
    confusion = Confusion(3, 255, torch.device("cpu"))
    confusion.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    scores = score_matrix(confusion.matrix, ["road", "car", "sky"])
    assert select_score(scores, "iou:car") == pytest.approx(2 / 3)
    assert select_score(scores, "iou:road") == pytest.approx(1 / 2)
    assert select_score(scores, "iou:sky") is None
    assert select_score(scores, "miou") == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_monitor_keep_and_patience(cli, pairs: Path):
    options = (
        "--epochs 9 --set train.steps_per_epoch=2 --lr 1e-30 --set train.monitor=iou:1"
        " --set train.patience=2 --set train.keep=2 --set train.checkpoint_every=1 --name r"
    ).split()
    fitted = cli("fit", "--data", pairs, *QUICK, *options)
    assert fitted.code == 0, fitted.stderr
    # the network learns nothing: only batch norm's statistics change the score
    epochs = [line for line in fitted.stdout.splitlines() if line.startswith("epoch ")]
    assert 3 <= len(epochs) < 9
    assert "early stopping: 2 validations without improvement of iou:1" in fitted.stdout
    run = Path("runs/r")
    steps = 2 * len(epochs)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    others = [f"step-{step:09d}.safetensors" for step in (steps - 2, steps - 1)]
    assert kept == ["best.safetensors", "last.safetensors", "last.state.pt", *others]
    for name, step in zip(others, (steps - 2, steps - 1), strict=True):
        assert read_meta(run / "checkpoints" / name).step == step
        load(run / "checkpoints" / name)
    assert read_meta(run / "checkpoints/best.safetensors").step == steps - 4
    assert re.search(r"val mIoU [\d.]+ \(best iou:1 [\d.]+\)", epochs[0])
    # a resumed run is out of patience, too; with more of it, it continues
    again = cli("fit", "--resume", run)
    assert again.code == 0 and "early stopping" in again.stdout and "epoch " not in again.stdout
    more = cli("fit", "--resume", run, "--set", "train.patience=3")
    assert more.code == 0 and f"epoch {len(epochs) + 1}/9" in more.stdout


@pytest.mark.parametrize("links", [True, False])
def test_the_newest_checkpoints_are_kept(trained: Path, tmp_path: Path, monkeypatch, links: bool):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    model, meta = load(trained / "checkpoints/best.safetensors")
    last = tmp_path / "last.safetensors"

    def kept() -> list[int]:
        return [int(path.stem[5:]) for path in sorted(tmp_path.glob("step-*"))]

    seen = []
    for step in (2, 4, 6, 6, 8):
        if last.exists():
            keep_last(tmp_path, 2, step)
        seen.append(kept())
        save_model(last, model, replace(meta, step=step))
    assert seen == [[], [2], [2, 4], [2, 4], [4, 6]]
    save_model(last, model, replace(meta, step=None))  # as older versions wrote it
    keep_last(tmp_path, 1, 10)
    last.write_bytes(b"damaged")
    keep_last(tmp_path, 1, 12)
    assert kept() == [6]
    assert load(tmp_path / "step-000000006.safetensors")[1].step == 6


@pytest.mark.parametrize("monitor, near", [("iou:one", ""), ("mIuO", "did you mean miou")])
def test_an_unknown_monitor_is_refused(cli, pairs: Path, monitor: str, near: str):
    refused = cli("fit", "--data", pairs, *QUICK, "--set", f"train.monitor={monitor}")
    assert refused.code == 2
    assert f"there is no '{monitor}'" in refused.error and near in refused.error
    assert "miou, iou:0, iou:1, iou:2" in refused.error


def test_a_state_of_an_older_segtrain_is_refused(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    assert find_state(tmp_path) is None
    torch.save({"model": {}, "epoch": 3}, tmp_path / "checkpoints/last.state.pt")
    with pytest.raises(SegtrainError, match="older segtrain"):
        find_state(tmp_path)
