"""Tests that need a GPU; skipped, with the reason, where there is none."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ANY_NETWORK, QUICK, write_pairs

from segtrain import load
from segtrain.config import Config, ModelConfig, OptimConfig, TrainConfig
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.signals import StopRequest
from segtrain.losses import build_loss
from segtrain.losses.kernels.paths import PATHS_TAKEN
from segtrain.models.segmentation import build_model
from segtrain.training.module import BufferSnapshot, TrainingModule
from segtrain.training.nonfinite import OutcomeReader
from segtrain.training.optim import build_optimizer
from segtrain.training.session import Session
from segtrain.training.state import Training, TrainState
from segtrain.training.step import train_step
from segtrain.training.timing import StepTimer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "32"])
def test_the_three_commands_on_a_gpu(cli, tmp_path: Path, precision: str):
    write_pairs(tmp_path / "set")
    fitted = cli("fit", "--data", "set", *QUICK, "--device", "cuda", "--precision", precision)
    assert fitted.code == 0, fitted.stderr
    assert cli("eval").code == 0
    assert cli("predict", "set/images").code == 0
    assert len(list(Path("predictions").glob("*_mask.png"))) == 6


@pytest.mark.parametrize(
    "settings", [[], ["eval.max_pixels=700", "eval.window=32"], ["eval.tta=[hflip, 1.25]"]]
)
def test_scores_on_a_gpu_are_those_on_a_cpu(cli, tmp_path: Path, settings: list[str]):
    write_pairs(tmp_path / "set")
    fitted = cli("fit", "--data", "set", *QUICK, "--name", "run")
    assert fitted.code == 0, fitted.stderr
    sets = [word for entry in [*settings, "train.precision=32"] for word in ("--set", entry)]
    found = []
    for device in ("cpu", "cuda"):
        answer = cli("eval", "runs/run", "--device", device, "--json", *sets)
        assert answer.code == 0, answer.stderr
        found.append(json.loads(answer.stdout))
    for key in ("miou", "boundary_iou", "ece"):
        assert found[1][key] == pytest.approx(found[0][key], abs=5e-3), key


EXPRESSIONS = [
    "ce", "ohem", "topk", "focal", "ghm", "dice", "dice(squared=True)", "jaccard", "lovasz",
    "ohem(focal)", "ohem+0.5*dice", "tversky(per_image=True)", "ce(label_smoothing=0.1)",
    "cldice", "dice(average=generalised, background=False)", "tversky(gamma=1.5)",
    f"ohem(weight={[1 + c for c in range(19)]})",
]  # fmt: skip


def batch(dtype: torch.dtype, upsample: int) -> tuple:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 19, 32 // upsample, 48 // upsample, generator=random)
    target = torch.randint(0, 19, (2, 32, 48), generator=random)
    target[:, :4] = 255
    return logits.to(dtype), target


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("upsample, align_corners", [(1, False), (4, False), (4, True)])
def test_losses_do_not_synchronise_and_equal_the_cpu(expression, dtype, upsample, align_corners):
    logits, target = batch(dtype, upsample)
    logits.requires_grad_()
    on_cpu = build_loss(expression, 19)(logits, target, upsample, align_corners)
    on_cpu.backward()
    loss = build_loss(expression, 19).cuda()
    moved, target = logits.detach().cuda().requires_grad_(), target.cuda()
    loss(moved, target, upsample, align_corners).backward()  # once before: kernels are built
    loss, moved.grad = build_loss(expression, 19).cuda(), None
    PATHS_TAKEN.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = loss(moved, target, upsample, align_corners)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reads_logits = expression.startswith(("lovasz", "cldice", "ce(label"))
    path = "triton", 1 if reads_logits else upsample
    assert dict(PATHS_TAKEN) == {path: 1}
    assert value.item() == pytest.approx(on_cpu.item(), rel=1e-5)
    rtol, atol = (1e-4, 1e-7) if dtype == torch.float32 else (2e-2, 1e-5)
    torch.testing.assert_close(moved.grad.cpu(), logits.grad, rtol=rtol, atol=atol)


@pytest.mark.parametrize("expression", ["ohem", "ohem+0.5*dice"])
@pytest.mark.parametrize("upsample", [1, 4])
def test_a_loss_can_be_captured_in_a_graph(expression: str, upsample: int):
    logits, target = (x.cuda() for x in batch(torch.float32, upsample))
    loss = build_loss(expression, 19).cuda()
    logits.requires_grad_()

    def step() -> torch.Tensor:
        logits.grad = None
        value = loss(logits, target, upsample)
        value.backward()
        return value

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = step().item()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()
    value.zero_()
    graph.replay()
    assert value.item() == expected


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_same_input_gives_the_same_bits(expression: str):
    logits, target = (x.cuda() for x in batch(torch.float32, 1))
    results = []
    for _ in range(2):
        again = logits.clone().requires_grad_()
        value = build_loss(expression, 19).cuda()(again, target)
        value.backward()
        results.append((value.detach(), again.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("arch", ["deeplabv3plus", "unet"])
def test_training_on_a_gpu_takes_the_kernels(cli, tmp_path: Path, arch: str):
    write_pairs(tmp_path / "set")
    PATHS_TAKEN.clear()
    options = ["--arch", arch, "--device", "cuda", "--loss", "ohem+0.5*dice"]
    fitted = cli("fit", "--data", "set", *ANY_NETWORK, *options)
    assert fitted.code == 0, fitted.stderr
    assert dict(PATHS_TAKEN) == {("triton", 4 if arch == "deeplabv3plus" else 1): 2}


@pytest.mark.parametrize("precision", ["32", "bf16", "fp16"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_never_waits_for_the_device(precision: str, clip_norm: float):
    fabric = make_fabric(TrainConfig(device="cuda", precision=precision))
    model = build_model(ModelConfig(), 3)
    module = TrainingModule(model, build_loss("ohem+0.5*dice", 3)).to(fabric.device)
    config = Config(optim=OptimConfig(clip_norm=clip_norm))
    optimizer = build_optimizer(model, module.loss, config.optim)
    module, optimizer = fabric.setup(module, optimizer)
    buffers, outcomes = BufferSnapshot(module), OutcomeReader(fabric.device)
    training = Training(module, model, module.module.loss, optimizer, None, buffers, TrainState())
    plan, quiet = SimpleNamespace(config=config), StopRequest(announce=False)
    session = Session(fabric, plan, Path("run"), training, None, quiet, None)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, device="cuda")
    micro_batch = images, torch.randint(0, 3, (2, 64, 64), device="cuda")
    timer = StepTimer(fabric.device, {})
    module.train()
    for step in range(4):
        # kernels are compiled in the first step
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            _, outcome = train_step(session, [micro_batch], step == 2, timer.mark)
            outcomes.add(step + 1, outcome)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [known.step for known in outcomes.read()] == ([step] if step else [])
    assert [known.step for known in outcomes.read(wait=True)] == [4]
    timer.settle()
    assert timer.seconds["forward"] > 0 and timer.seconds["backward"] > 0


def test_a_deterministic_run_is_resumed_to_the_last_bit(cli, pairs: Path, monkeypatch):
    options = "--device cuda --epochs 2 --set train.deterministic=true --set train.ema=0.9".split()
    command = ["fit", "--data", pairs, *QUICK, *options, "--set", "train.checkpoint_every=1"]
    assert cli(*command, "--name", "straight").code == 0

    from segtrain.training import loop

    whole, calls = loop.train_step, iter(range(1, 100))

    def stopping(*args):
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        assert cli(*command, "--name", "stopped").code == 143
    resumed = cli("fit", "--resume", "runs/stopped")
    assert resumed.code == 0, resumed.stderr
    one, other = (load(f"runs/{name}/checkpoints/last.safetensors")[0] for name in
                  ("straight", "stopped"))  # fmt: skip
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_compiled_network_trains(cli, pairs: Path):
    compiled = ["--device", "cuda", "--set", "train.compile=on"]
    fitted = cli("fit", "--data", pairs, *QUICK, *compiled)
    assert fitted.code == 0, fitted.stderr
    assert "torch.compile: on" in fitted.stdout


def test_synchronised_batch_norm_is_that_of_one_device(cli, tmp_path: Path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    write_pairs(tmp_path / "set", 10)
    losses = []
    for devices in ("1", "2"):
        options = ["--device", "cuda", "--precision", "32", "--batch-size", "4", "--devices"]
        command = [sys.executable, "-m", "segtrain", "fit", "--data", "set", *QUICK, *options,
                   devices, "--name", devices]  # fmt: skip
        subprocess.run(command, check=True, timeout=300)
        with open(f"runs/{devices}/metrics.csv") as file:
            losses.append(float(next(csv.DictReader(file))["train_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
