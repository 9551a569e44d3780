"""Wrong options, paths, keys and names are refused before torch is imported: it takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_pairs

KEPT = Path(__file__).parents[1] / "kept"
HEAVY = """torch torchvision timm segmentation_models_pytorch lightning_fabric albumentations
matplotlib tensorboard""".split()
RUN = f"""
import json, sys
from typer.testing import CliRunner
from segtrain.cli.app import app

answers = []
for args in json.load(sys.stdin):
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert not heavy, f"{{args}} imports {{heavy}}"
    answers.append((result.exit_code, result.stdout, result.stderr))
json.dump(answers, sys.stdout)
"""
# a wrong command line, and words of its error; RUN is a run, IMAGE an image
REFUSED = {
    "fit --epochs many": "--epochs integer",
    "fit --loss ohemm": "'ohemm' ohem",
    "fit --loss ohem(threshh=1)": "'threshh' thresh",
    "fit --loss ohem(thresh=2)": "thresh (0, 1] 2",
    "fit --loss ohem+": "'ohem+' expression",
    "fit --loss dice(focal)": "dice inner",
    "fit --thresh 2": "thresh 2",
    "fit --arch unett": "'unett' unet",
    "fit --encoder resnett18": "'resnett18' resnet18",
    "fit --encoder tu-resnett18": "'tu-resnett18' tu-resnet18",
    "fit --dry-run --arch unett": "'unett' unet",
    "fit --set trainn.epochs=2": "trainn train",
    "fit --set train.epoch=2": "train.epoch train.epochs",
    "fit --config no.yaml": "no.yaml",
    "fit --config wrong.yaml": "wrong.yaml trainn",
    "fit --data no": "no folder",
    "fit --crop 12y": "crop 12y",
    "fit --weights no.pt": "no.pt file",
    "fit --resume no": "no run",
    "fit --out runs --name here": "runs/here exists",
    "fit --resume RUN --name new": "--name --resume",
    "fit --resume RUN --set train.epoch=9": "train.epoch train.epochs",
    "predict no.png": "no.png",
    "predict IMAGE": "runs fit",
    "predict IMAGE --checkpoint no": "no checkpoint",
    "predict IMAGE --checkpoint RUN --set predict.opacitty=3": "opacitty",
    "predict IMAGE --checkpoint RUN --set data.on_error=skip": "data.on_error",
    "eval no": "no run checkpoint",
    "export no": "no run checkpoint",
    "export RUN --format onx": "onx onnx",
    "export RUN --outputs id": "id ids",
    "eval no.safetensors": "no.safetensors checkpoint",
    "eval": "runs fit",
    "eval RUN --data no": "no folder",
    "eval RUN --set evall.tta=3": "evall eval",
    "eval RUN --set eval.window=big": "eval.window big",
    "eval IMAGE": "checkpoint",
    "eval --predictions no": "--predictions no",
    "eval --predictions . --data no": "no folder",
    "sweep --loss ce,ohemm": "'ohemm' ohem",
    "sweep --loss ce,ce": "ce once",
    "sweep --set model.arch=unett": "'unett' unet",
    "sweep --set trainn.epochs=2": "trainn train",
    "sweep --data no": "no folder",
    "compare no there": "no folder",
    "check no": "no folder",
    "check . --set trainn.epochs=2": "trainn train",
    "losses ohemm": "'ohemm' ohem",
}
ANSWERED = ["losses", "losses ohem", "fit --help", "--version", "sweep --dry-run --data pairs",
            "check pairs"]  # fmt: skip


def run_without_torch(lines: list[str], cwd: Path) -> list[tuple[int, str, str]]:
    """Run command lines in one fresh process, which fails if one imports a heavy library."""
    places = {"RUN": str(KEPT), "IMAGE": str(KEPT / "image.png")}
    args = [[places.get(arg, arg) for arg in line.split()] for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(args), capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


def test_wrong_command_lines_are_refused_without_torch(tmp_path: Path):
    (tmp_path / "runs/here").mkdir(parents=True)
    (tmp_path / "wrong.yaml").write_text("trainn: {epochs: 2}\n")
    answers = run_without_torch(list(REFUSED), tmp_path)
    wrong = {}
    for (line, words), (code, _, stderr) in zip(REFUSED.items(), answers, strict=True):
        error = stderr.strip().split("\n")[-1]
        missing = [word for word in ["error:", *words.split()] if word not in error]
        if missing or code != (1 if line == "eval IMAGE" else 2):
            wrong[line] = (code, missing, error)
    assert wrong == {}


def test_commands_that_train_nothing_need_no_torch(tmp_path: Path):
    write_pairs(tmp_path / "pairs")
    for code, stdout, stderr in run_without_torch(ANSWERED, tmp_path):
        assert code == 0 and stdout, stderr


@pytest.mark.parametrize("rank", [{"RANK": "1"}, {"SLURM_PROCID": "3"}, {"LOCAL_RANK": "1"}])
def test_another_rank_may_lack_the_files_that_rank_0_has(monkeypatch, rank: dict[str, str]):
    from segtrain.commands.requests import check_training
    from segtrain.config import Config
    from segtrain.errors import UsageError

    config = Config(data={"path": "no/folder"}, model={"weights": "no/file"})
    with pytest.raises(UsageError, match="no/file"):
        check_training(config)
    monkeypatch.setenv(*next(iter(rank.items())))
    check_training(config)
