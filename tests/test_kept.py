"""Runs of earlier versions of segtrain, kept in kept/: later ones must still read them.

They were made of conftest's pairs in November 2026. U-Net by segtrain 0.1 with torch 2.15:

    segtrain fit --data set --arch unet --encoder tu-test_byobnet --weights none --device cpu \\
        --crop 32x32 --batch-size 2 --epochs 2 --seed 1 --loss ohem+0.5*ghm --name kept \\
        --set train.ema=0.9 --set optim.name=sgd --lr 0.05 --set augment.scale=[1,1] \\
        --set train.steps_per_epoch=40 \\
        --set "model.options={encoder_depth: 3, decoder_channels: [8, 8, 4]}"

PSPNet, whose encoder has stages that no output reaches, by segtrain 0.2 with torch 2.14, which
froze none of them:

    segtrain fit --data set --arch pspnet --encoder tu-test_efficientnet --weights none \\
        --device cpu --precision 32 --crop 32x32 --batch-size 4 --epochs 2 --seed 1 --loss ce \\
        --lr 0.01 --name pspnet --set train.ema=0.9 --set train.steps_per_epoch=40 \\
        --set augment.scale=[1,1] --set "model.options={psp_out_channels: 8}"

Each then predicted image.png. Never replace them by newer runs: a change that can't read them
breaks users' checkpoints.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pairs
from PIL import Image

from segtrain import load

KEPT = Path(__file__).parent / "kept"
IMAGE = KEPT / "image.png"
RATES = {"": 0.05, "pspnet": 0.01}  # U-Net's lies in kept/ itself


@pytest.fixture(params=RATES, ids=lambda name: name or "unet")
def kept(request: pytest.FixtureRequest) -> Path:
    return KEPT / request.param


@pytest.fixture
def run(tmp_path: Path, kept: Path) -> Path:
    write_pairs(tmp_path / "set", 10)
    others = shutil.ignore_patterns(*filter(None, RATES))
    return shutil.copytree(kept, tmp_path / "runs/kept", ignore=others)


def test_it_is_read_and_predicts_what_it_did(cli, run: Path, kept: Path):
    model, meta = load(kept / "checkpoints/best.safetensors")
    assert meta.classes == ["0", "1", "2"]
    assert meta.config.optim.lr == RATES["pspnet" if kept.name == "pspnet" else ""]
    assert meta.step == 80 and meta.miou > 0.5
    image = torch.from_numpy(np.array(Image.open(IMAGE))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        mask = model(image).argmax(1)[0].numpy()
    expected = np.array(Image.open(kept / "image_mask.png"))
    assert (mask == expected).mean() > 0.999  # other versions may round a tie the other way
    assert len(np.unique(expected)) == 3
    predicted = cli("predict", IMAGE, "--checkpoint", run)
    assert predicted.code == 0, predicted.stderr
    assert (np.array(Image.open("predictions/image_mask.png")) == expected).mean() > 0.999


def test_it_is_evaluated(cli, run: Path, kept: Path):
    done = cli("eval", run, "--data", "set", "--workers", "0")
    assert done.code == 0, done.stderr
    scores = json.loads((run / "eval/val/metrics.json").read_text())
    _, meta = load(kept / "checkpoints/best.safetensors")
    assert scores["miou"] == pytest.approx(meta.miou, abs=1e-3)


def test_it_is_resumed(cli, run: Path):
    more = ["--epochs", "3", "--data", "set", "--workers", "0"]
    resumed = cli("fit", "--resume", run, *more)
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step 80 of 120" in resumed.stdout
    assert "epoch 3/3" in resumed.stdout and "epoch 2/3" not in resumed.stdout


def test_what_no_output_reaches_stays_as_it_was_in_a_resumed_run(cli, tmp_path: Path):
    """Its optimizer's state still has a place for those parameters."""
    write_pairs(tmp_path / "set", 10)
    run = shutil.copytree(KEPT / "pspnet", tmp_path / "runs/kept")
    more = ["--epochs", "3", "--data", "set", "--workers", "0"]
    resumed = cli("fit", "--resume", run, *more)
    assert resumed.code == 0, resumed.stderr
    (line,) = [line for line in resumed.stdout.splitlines() if line.endswith(" parameters")]
    assert "41,003 parameters" in line  # 84,127 are in the file
    before, after = (
        torch.load(folder / "checkpoints/last.state.pt", weights_only=True)
        for folder in (KEPT / "pspnet", run)
    )
    for part in ("model", "average"):
        weights = {n: t for n, t in before[part].items() if n.endswith((".weight", ".bias"))}
        same = {name for name, t in weights.items() if torch.equal(t, after[part][name])}
        assert same == {n for n in weights if re.search(r"encoder.model.blocks.[34]", n)}, part
    (sizes, state), again = (
        ([len(group["params"]) for group in saved["optimizer"]["param_groups"]],
         saved["optimizer"]["state"].keys())
        for saved in (before, after)
    )  # fmt: skip
    assert again == (sizes, state)
