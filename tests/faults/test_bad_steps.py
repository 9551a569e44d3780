"""A training with NaN or inf stops, names the cause, and keeps the good checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch

import segtrain
from faults.runs import SECONDS, Straight, run_in
from faults.zygote import Zygote

WILD = []
for setting in "optim.lr=1e30 optim.clip_norm=0 optim.warmup=0".split():
    WILD += ["--set", setting]


def test_a_run_whose_loss_is_not_finite_stops(zygote: Zygote, straight: Straight, tmp_path: Path):
    # no validation before the steps are too many: its output would not be finite, either
    more = ["--set", "train.max_bad_steps=3", "--set", "eval.every=2"]
    child = straight.fit(zygote, tmp_path, *WILD, *more)
    assert child.wait(SECONDS) == 1, child.stdout
    assert "3" in child.error and "not finite" in child.error
    bad = run_in(tmp_path) / "bad_batch.pt"
    assert bad.name in child.error
    assert torch.load(bad, weights_only=True)
    for path in run_in(tmp_path).glob("checkpoints/*.safetensors"):
        segtrain.load(path)


def test_a_validation_that_is_not_finite_stops(zygote: Zygote, straight: Straight, tmp_path: Path):
    child = straight.fit(zygote, tmp_path, *WILD)
    assert child.wait(SECONDS) == 1, child.stdout
    assert "val/images" in child.error and "output is not finite" in child.error
    assert "saved after step 3" in child.error and "--resume" in child.error
    assert child.stdout.count("skipped") >= 2
