"""One run on several devices: the same steps, the same scores. Real processes, on CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, write_pairs
from faults.zygote import Child, Zygote
from same_run import rows_of, weights_of

# batch norm over each process's own images would differ; a mining and a region loss show that
# the loss is that of all images in the batch
SAME = (
    "--batch-size 6 --loss ohem+0.5*dice --set model.freeze_bn=true --set optim.name=sgd"
    " --set data.val_fraction=0.5 --set augment.copy_paste=0.5 --set data.rare_classes=['1']"
).split()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    # 7 to train, 7 to score: no number of devices divides them
    return write_pairs(tmp_path / "set", 14).parent


def fit(zygote: Zygote, *options: object, devices: int, code: str = "") -> Child:
    """Run fit in this folder on so many processes."""
    command = ["fit", "--data", "set", *QUICK, *options, "--devices", devices]
    fitted = zygote.run(*command, cwd=Path.cwd(), devices=devices, code=code)
    assert fitted.code == 0, fitted.stderr
    return fitted


def test_scores_are_the_same_to_the_last_bit(cli, zygote: Zygote, home: Path):
    still = [*SAME, "--lr", "1e-30"]  # the weights stay, whoever averages their gradients
    scores = []
    for devices in (1, 2, 3):
        fitted = fit(zygote, *still, "--name", f"on{devices}", devices=devices)
        assert len([line for line in fitted.stdout.splitlines() if line.startswith("epoch ")]) == 1
        (row,) = rows_of(Path(f"runs/on{devices}"))
        scores.append({name: value for name, value in row.items() if name.startswith("val_")})
    assert scores[0] == scores[1] == scores[2]
    assert 0 < float(scores[0]["val_pixel_accuracy"]) < 1
    assert sorted(path.name for path in Path("runs").iterdir()) == ["latest", "on1", "on2", "on3"]
    assert cli("eval", "runs/on3", "--workers", "0").code == 0  # one process, all seven images
    metrics = json.loads(Path("runs/on3/eval/val/metrics.json").read_text())
    assert metrics["images"] == 7
    for name in ("miou", "pixel_accuracy", "fw_iou"):
        assert metrics[name] == pytest.approx(float(scores[2][f"val_{name}"]), abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        "--set train.accumulate=1",
        "--set train.accumulate=3",
        "--epochs 2 --set optim.freeze_epochs=1",  # what DDP averages changes
        "--set train.max_time=1h",  # steps that are measured and undone
    ],
)
def test_two_processes_take_the_steps_of_one(cli, zygote: Zygote, home: Path, options: str):
    for devices in (1, 2):
        named = ["--lr", "0.1", "--name", f"on{devices}"]
        fit(zygote, *SAME, *named, *options.split(), devices=devices)
    one, two = (rows_of(Path(f"runs/on{devices}"))[0] for devices in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        if one[name]:
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-3, abs=1e-3), name
    ours, theirs = (weights_of(Path(f"runs/on{devices}")) for devices in (1, 2))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_processes_keep_their_own_batch_norm_with_a_note(cli, home: Path):
    """This encoder also has parameters that no loss reaches, which DDP must allow in micro-batches.

    Here the other process is not a fork: `fit` itself starts it.
    """
    network = "--arch fpn --encoder efficientnet-b0 --set model.options={}".split()
    options = [*network, "--batch-size", "8", "--devices", "2", "--set", "train.accumulate=2"]
    fitted = cli("fit", "--data", "set", *QUICK, *options, "--set", "data.val_fraction=0.3")
    assert fitted.code == 0, fitted.stderr
    (note,) = [line for line in fitted.stdout.splitlines() if "batch norm" in line]
    assert "the 2 image(s) of each process" in note


BAD_ON_ONE = """
import torch
from segtrain.losses import Loss

plain, calls = Loss.forward, iter(range(1000))

def forward(self, *args, **kwargs):
    loss = plain(self, *args, **kwargs)
    if next(calls) == 1 and torch.distributed.get_rank() == 1:
        loss = loss * torch.inf
    return loss

Loss.forward = forward
"""


def test_a_step_that_is_bad_on_one_rank_is_skipped_by_all(cli, zygote: Zygote, home: Path):
    """Each rank has its own loss here, so the other rank's loss is finite."""
    options = [*SAME, "--set", "loss.sync=false", "--set", "train.steps_per_epoch=3", "--name", "r"]
    run = fit(zygote, *options, devices=2, code=BAD_ON_ONE)
    (line,) = [line for line in run.stdout.splitlines() if "skipped" in line]
    assert line.startswith("step 2: skipped, its loss or gradient is not finite (1 so far)")
    (row,) = rows_of(Path("runs/r"))
    assert row["skipped_steps"] == "1" and np.isfinite(float(row["train_loss"]))
    assert all(np.isfinite(value).all() for value in weights_of(Path("runs/r")).values())
