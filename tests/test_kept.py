"""A run of an earlier segtrain, kept in kept/: later versions must still read it.

It was made of conftest's pairs by segtrain 0.1 with torch 2.15 (November 2026):

    segtrain fit --data set --arch unet --encoder tu-test_byobnet --weights none --device cpu \\
        --crop 32x32 --batch-size 2 --epochs 2 --seed 1 --loss ohem+0.5*ghm --name kept \\
        --set train.ema=0.9 --set optim.name=sgd --lr 0.05 --set augment.scale=[1,1] \\
        --set train.steps_per_epoch=40 \\
        --set "model.options={encoder_depth: 3, decoder_channels: [8, 8, 4]}"
    segtrain predict image.png --checkpoint runs/kept

Never replace it by a newer run: a change that can't read it breaks users' checkpoints.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pairs
from PIL import Image

from segtrain import load

KEPT = Path(__file__).parent / "kept"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "set", 10)
    return shutil.copytree(KEPT, tmp_path / "runs/kept")


def test_it_is_read_and_predicts_what_it_did(cli, run: Path):
    model, meta = load(KEPT / "checkpoints/best.safetensors")
    assert meta.classes == ["0", "1", "2"] and meta.config.optim.lr == 0.05
    assert meta.step == 80 and meta.miou > 0.5
    image = torch.from_numpy(np.array(Image.open(KEPT / "image.png"))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        mask = model(image).argmax(1)[0].numpy()
    expected = np.array(Image.open(KEPT / "image_mask.png"))
    assert (mask == expected).mean() > 0.999  # other versions may round a tie the other way
    assert len(np.unique(expected)) == 3
    predicted = cli("predict", KEPT / "image.png", "--checkpoint", run)
    assert predicted.code == 0, predicted.stderr
    assert (np.array(Image.open("predictions/image_mask.png")) == expected).mean() > 0.999


def test_it_is_evaluated(cli, run: Path):
    done = cli("eval", run, "--data", "set", "--workers", "0")
    assert done.code == 0, done.stderr
    scores = json.loads((run / "eval/val/metrics.json").read_text())
    _, meta = load(KEPT / "checkpoints/best.safetensors")
    assert scores["miou"] == pytest.approx(meta.miou, abs=1e-3)


def test_it_is_resumed(cli, run: Path):
    more = ["--epochs", "3", "--data", "set", "--workers", "0"]
    resumed = cli("fit", "--resume", run, *more)
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step 80 of 120" in resumed.stdout
    assert "epoch 3/3" in resumed.stdout and "epoch 2/3" not in resumed.stdout
