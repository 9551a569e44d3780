"""Training from real ImageNet weights, those of the extra `weights`, on real images."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from conftest import QUICK, shared_data, write_pairs

import segtrain
from segtrain.models.imagenet import PACKAGES

ENCODER = "tu-tf_efficientnet_lite0"
CONFIG = Path(__file__).parents[2] / "configs" / "camvid.yaml"
FROZEN = (
    f"--encoder {ENCODER} --weights imagenet --loss ce --crop 96x128 --epochs 8 --lr 3e-3"
    " --device cpu --workers 0 --precision 32 --set optim.encoder_lr=0 --set eval.every=8"
).split()


def link_some(source: Path, target: Path, count: int) -> None:
    files = sorted(source.iterdir())
    target.mkdir(parents=True)
    for path in files[:: len(files) // count][:count]:
        (target / path.name).symlink_to(path)


def test_frozen_imagenet_features_segment_streets(cli):
    camvid = shared_data("camvid")
    for split, count in (("train", 48), ("val", 12)):
        for folder in (split, f"{split}annot"):
            link_some(camvid / folder, Path("set") / folder, count)
    options = ["--set", "model.options={decoder_channels: [64, 32, 16, 16, 16]}", "--name", "r"]
    done = cli("fit", "--config", CONFIG, "--data", "set", *FROZEN, *options)
    assert done.code == 0, done.stderr
    assert PACKAGES[ENCODER].name in done.stdout
    with open("runs/r/metrics.csv") as file:
        *_, last = csv.DictReader(file)
    assert float(last["val_miou"]) > 0.22  # random weights come to 0.17
    model, _ = segtrain.load("runs/r/checkpoints/best.safetensors")
    assert model.mean.flatten().tolist() == [127.5] * 3  # as timm has it, not ImageNet's


def test_another_file_in_the_package_is_not_read(cli, tmp_path: Path, monkeypatch):
    package = PACKAGES[ENCODER]
    other = tmp_path / "other.pth"
    shutil.copy(package.find(), other)
    with open(other, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    monkeypatch.setattr(type(package), "find", lambda self: other)
    data = write_pairs(tmp_path / "set")
    network = [*QUICK, "--encoder", ENCODER, "--weights", "imagenet"]
    failed = cli("fit", "--data", data, *network, "--set", "model.options={}")
    assert failed.code == 1 and package.name in failed.error and package.sha256 in failed.error
    assert not Path("runs").exists()
