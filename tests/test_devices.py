"""One run on several devices: the same steps, the same scores. Real processes, on CPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, write_pairs
from test_fit import rows_of, weights_of

# batch norm of each process's own images would differ, and a mining and a region loss show
# whether each is that of the whole batch
SAME = (
    "--batch-size 6 --loss ohem+0.5*dice --set model.freeze_bn=true --set optim.name=sgd"
    " --set data.val_fraction=0.5"
).split()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "set", 14).parent  # 7 to train, 7 to score: no number shares them


def test_scores_are_the_same_to_the_last_bit(cli, home: Path):
    still = [*SAME, "--lr", "1e-30"]  # weights as they began, whoever averages their gradients
    scores = []
    for devices in (1, 2, 3):
        options = ["--devices", devices, "--name", f"on{devices}"]
        fitted = cli("fit", "--data", "set", *QUICK, *still, *options)
        assert fitted.code == 0, fitted.stderr
        (row,) = rows_of(Path(f"runs/on{devices}"))
        scores.append({name: value for name, value in row.items() if name.startswith("val_")})
    assert scores[0] == scores[1] == scores[2]
    assert 0 < float(scores[0]["val_pixel_accuracy"]) < 1


@pytest.mark.parametrize("parts", [1, 3])
def test_two_processes_take_the_steps_of_one(cli, home: Path, parts: int):
    split = ["--lr", "0.1", "--set", f"train.accumulate={parts}"]
    for devices in (1, 2):
        options = [*split, "--devices", devices, "--name", f"on{devices}"]
        fitted = cli("fit", "--data", "set", *QUICK, *SAME, *options)
        assert fitted.code == 0, fitted.stderr
    one, two = (rows_of(Path(f"runs/on{devices}"))[0] for devices in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        if one[name]:
            assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-3, abs=1e-3), name
    ours, theirs = (weights_of(Path(f"runs/on{devices}")) for devices in (1, 2))
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_processes_keep_their_own_batch_norm_and_say_so(cli, home: Path):
    """And DDP bears parameters that no loss reaches, which this encoder has, in a step in parts."""
    network = "--arch fpn --encoder efficientnet-b0 --set model.options={}".split()
    options = [*network, "--batch-size", "8", "--devices", "2", "--set", "train.accumulate=2"]
    fitted = cli("fit", "--data", "set", *QUICK, *options, "--set", "data.val_fraction=0.3")
    assert fitted.code == 0, fitted.stderr
    (note,) = [line for line in fitted.stdout.splitlines() if "batch norm" in line]
    assert "over the 2 image(s) of each process" in note
