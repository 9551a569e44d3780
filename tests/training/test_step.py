"""The training step: the fused loss, skipped steps, gradient accumulation, and their causes."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn

from segtrain.config import Config, ModelConfig, OptimConfig, TrainConfig
from segtrain.distributed.signals import StopRequest
from segtrain.losses import build_loss
from segtrain.losses.kernels.paths import PATHS_TAKEN, KernelPath
from segtrain.models.segmentation import build_model
from segtrain.training.module import (
    BufferSnapshot,
    TrainingModule,
    decide_compilation,
    describe_loss_path,
)
from segtrain.training.nonfinite import find_nonfinite
from segtrain.training.optim import build_optimizer
from segtrain.training.session import Session
from segtrain.training.state import Training, TrainState
from segtrain.training.step import train_step

CPU = torch.device("cpu")


def batch(height: int, width: int) -> tuple:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 3, (2, height, width), generator=generator)
    target[0, :9] = 255
    return images, target


def interpolated_loss(model, expression, images, target):
    """Compute the same plainly: the library's network, its own upsampling, the loss."""
    height, width = images.shape[-2:]
    padded = F.pad((images.float() - model.mean) / model.std, (0, -width % 32, 0, -height % 32))
    upsampled = nn.UpsamplingBilinear2d(scale_factor=model.upsampling)(model.network(padded))
    return build_loss(expression, 3)(upsampled[..., :height, :width], target)


@pytest.mark.parametrize("arch, factor", [("deeplabv3plus", 4), ("deeplabv3", 8), ("fpn", 4)])
@pytest.mark.parametrize("expression", ["ohem+0.5*dice", "ghm", "ohem+0.1*lovasz"])
@pytest.mark.parametrize("size", [(32, 64), (45, 37)])
def test_loss_and_gradients_are_those_of_upsampled_logits(arch, factor, expression, size):
    torch.manual_seed(0)
    model = build_model(ModelConfig(arch=arch, encoder="resnet18"), 3).eval()  # fixes batch norm
    images, target = batch(*size)
    module = TrainingModule(model, build_loss(expression, 3))
    PATHS_TAKEN.clear()
    value = module(images, target)
    value.backward()
    fused = "lovasz" not in expression
    assert dict(PATHS_TAKEN) == {("tiles", factor if fused else 1): 1}
    weight = model.network.segmentation_head[0].weight
    gradient, weight.grad = weight.grad, None
    expected = interpolated_loss(model, expression, images, target)
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-6)


def test_the_model_upsamples_where_nobody_else_does():
    torch.manual_seed(0)
    model = build_model(ModelConfig(arch="fpn", encoder="resnet18"), 3).eval()
    images, _ = batch(45, 37)
    low = model.low_resolution(images)
    assert low.shape[-2:] == (64 // 4, 64 // 4)
    expected = nn.UpsamplingBilinear2d(scale_factor=4)(low)[..., :45, :37]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    "arch, expression, line",
    [
        ("deeplabv3plus", "ohem+0.5*dice",
         "tiles path (logits are on the CPU), 4x upsampling of logits fused"),
        ("unet", "ohem", "tiles path (logits are on the CPU)"),
        ("fpn", "ce+lovasz",
         "tiles path (logits are on the CPU), 4x upsampling of logits not fused: "
         "lovasz reads full-resolution logits"),
    ],
)  # fmt: skip
def test_the_loss_path_has_its_reason(arch, expression, line):
    model = build_model(ModelConfig(arch=arch, encoder="resnet18"), 3)
    assert describe_loss_path(model, build_loss(expression, 3), CPU, 3) == line


def test_kernels_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    model = build_model(ModelConfig(arch="fpn", encoder="resnet18"), 3)
    module = TrainingModule(model, build_loss("ohem", 3))
    PATHS_TAKEN.clear()
    module(*batch(32, 32))
    assert dict(PATHS_TAKEN) == {("plain", 4): 1}
    assert "plain path (SEGTRAIN_KERNELS=0)" in describe_loss_path(model, module.loss, CPU, 3)


def start(
    freeze_bn: bool = False, expression: str = "ce", scaler: bool = False, **optim
) -> Session:
    """Return the session of a run of a tiny network, as far as a step reads it."""
    scaling = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=scaling if scaler else None)
    torch.manual_seed(0)
    options = {"encoder_depth": 3, "decoder_channels": [8, 8, 4]}
    network = ModelConfig(encoder="tu-test_byobnet", freeze_bn=freeze_bn, options=options)
    model = build_model(network, 3)
    module = TrainingModule(model, build_loss(expression, 3))
    config = Config(optim=OptimConfig(**{"clip_norm": 0.0} | optim))
    optimizer = build_optimizer(model, module.loss, config.optim)
    module, optimizer = fabric.setup(module, optimizer)
    training = Training(
        module.train(), model, module.module.loss, optimizer, None, BufferSnapshot(module),
        TrainState(),
    )  # fmt: skip
    plan, quiet = SimpleNamespace(config=config), StopRequest(announce=False)
    return Session(fabric, plan, Path("run"), training, None, quiet, None)


def take_step(session: Session, micro_batches: list) -> tuple:
    marks = []
    loss, outcome = train_step(session, micro_batches, False, marks.append)
    assert marks == ["forward", "backward"] * len(micro_batches)
    return loss, outcome.tolist()


def weights(session: Session) -> dict:
    return {name: value.clone() for name, value in session.training.module.state_dict().items()}


def optimizer_state(session: Session) -> dict:
    return session.training.optimizer.state_dict()["state"]


def test_micro_batches_average_to_the_whole_batch():
    images, target = batch(32, 64)
    target[1, :9] = 255  # as many valid pixels in each micro-batch
    undivided, split = (start(freeze_bn=True, name="sgd", lr=0.1) for _ in range(2))
    before = weights(undivided)
    one, _ = take_step(undivided, [(images, target)])
    two, _ = take_step(split, [(images[:1], target[:1]), (images[1:], target[1:])])
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    for name, value in weights(undivided).items():
        torch.testing.assert_close(weights(split)[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(weights(undivided)["model.network.segmentation_head.0.weight"],
                           before["model.network.segmentation_head.0.weight"])  # fmt: skip


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("where", [0, 1])
def test_a_bad_step_leaves_no_trace(monkeypatch, name: str, where: int, clip_norm: float):
    micro_batch = batch(32, 64)
    options = {"expression": "ghm+ce", "name": name, "lr": 0.01, "clip_norm": clip_norm}
    spoilt, clean = (start(**options) for _ in range(2))
    term = type(spoilt.training.loss.terms[1])
    for step in range(3):
        if step == where:
            before, before_state = weights(spoilt), copy.deepcopy(optimizer_state(spoilt))
            with monkeypatch.context() as patch:
                patch.setattr(term, "value", lambda self, pixels: pixels.nll.sum() * torch.nan)
                _, outcome = take_step(spoilt, [micro_batch])
            assert outcome == [1, 0]
            counters = [n for n in before if n.endswith("num_batches_tracked")]
            after = weights(spoilt)
            assert [n for n in before if not torch.equal(before[n], after[n])] == counters
            after_state = optimizer_state(spoilt)
            for index, values in before_state.items():
                for key, value in values.items():
                    assert torch.equal(value, after_state[index][key])
        _, outcome = take_step(spoilt, [micro_batch])
        assert outcome == [0, 0]
        take_step(clean, [micro_batch])
    assert [
        n for n, value in weights(clean).items()
        if not torch.equal(value, weights(spoilt)[n]) and "num_batches" not in n
    ] == []  # fmt: skip


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_gradient_scaler_skips_the_same_steps(monkeypatch, broken: str, clip_norm: float):
    """It looks at gradients alone; a loss that is infinite may have finite ones."""
    session = start(scaler=True, name="sgd", clip_norm=clip_norm)
    scaler = session.fabric.strategy.precision.scaler
    _, outcome = take_step(session, [batch(32, 64)])
    assert outcome == [0, 0] and scaler.get_scale() == 4
    before, term = weights(session), type(session.training.loss.terms[0])
    plain_value = term.value

    def value(self, pixels):
        good = plain_value(self, pixels)
        return good + torch.inf if broken == "loss" else good * torch.nan

    with monkeypatch.context() as patch:
        patch.setattr(term, "value", value)
        _, outcome = take_step(session, [batch(32, 64)])
    assert outcome == [1, 0] and scaler.get_scale() == 2
    after = weights(session)
    assert [n for n in before if not torch.equal(before[n], after[n]) and "batches" not in n] == []
    take_step(session, [batch(32, 64)])
    head = "model.network.segmentation_head.0.weight"
    assert not torch.equal(weights(session)[head], after[head])


def test_a_stop_request_during_the_step_is_in_its_outcome():
    session = start()

    def mark(phase: str) -> None:
        session.stop_request.signum = 15

    assert train_step(session, [batch(32, 32)], False, mark)[1].tolist() == [0, 15]


def test_gradients_are_clipped_to_their_norm():
    plain = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    session = start(freeze_bn=True, clip_norm=0.01, **plain)
    before = weights(session)
    take_step(session, [batch(32, 32)])
    moved = [(weights(session)[name] - value).flatten() for name, value in before.items()]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("broken", ["weights", "output", "dice", "ghm"])
def test_what_broke_first_has_a_name(monkeypatch, broken: str):
    session = start(expression="ohem+0.5*dice+ghm")
    inner = session.training.module.module
    expected = f"the network's {broken}"
    if broken == "weights":
        inner.model.network.segmentation_head[0].bias.data[1] = torch.inf
    elif broken == "output":
        inner.model.mean.fill_(-torch.inf)
    else:
        term = inner.loss.terms[inner.loss.names.index(broken)]
        value = type(term).value
        monkeypatch.setattr(type(term), "value", lambda s, pixels: value(s, pixels) * torch.inf)
        expected = f"the loss term {broken}"
    assert find_nonfinite(session.fabric, inner, batch(32, 32)) == expected


def test_a_step_that_is_finite_when_repeated_blames_the_network():
    session = start(expression="ohem+0.5*dice")
    cause = find_nonfinite(session.fabric, session.training.module.module, batch(32, 32))
    assert cause == "the gradient inside the network"


@pytest.mark.parametrize("time, expected", [("25min", False), ("2h", True)])
def test_a_short_time_is_not_spent_on_compiling(monkeypatch, time: str, expected: bool):
    loss = build_loss("ohem", 3)
    monkeypatch.setattr(loss.reader, "path", lambda *_: KernelPath("triton", ""))
    train = TrainConfig(max_time=time)
    assert decide_compilation(train, loss, torch.device("cuda"), 10**6).enabled is expected


@pytest.mark.parametrize(
    "requested, device, path, steps, expected, why",
    [
        ("auto", "cpu", "tiles", 10**6, False, "CPU"),
        ("auto", "cuda", "plain", 10**6, False, "no Triton"),
        ("auto", "cuda", "triton", 1999, False, "1999 steps are too few"),
        ("auto", "cuda", "triton", 2000, True, "2000 steps on a GPU"),
        ("on", "cpu", "tiles", 1, True, "train.compile is on"),
        ("off", "cuda", "triton", 10**6, False, "train.compile is off"),
    ],
)
def test_what_is_compiled_and_why(monkeypatch, requested, device, path, steps, expected, why):
    loss, train = build_loss("ohem", 3), TrainConfig(compile=requested)
    monkeypatch.setattr(loss.reader, "path", lambda *_: KernelPath(path, "no Triton"))
    decided = decide_compilation(train, loss, torch.device(device), steps)
    assert decided.enabled is expected and why in decided.reason


def test_a_compiled_network_keeps_its_names(monkeypatch):
    compiled = []

    def compile(function):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    model = build_model(ModelConfig(), 3)
    module = TrainingModule(model, build_loss("ce", 3), compiled=True)
    assert compiled == [model.low_resolution]
    assert not [name for name in module.state_dict() if "_orig_mod" in name]


@pytest.mark.parametrize("bad", [True, False])
def test_batch_norm_forgets_a_bad_step_alone(bad: bool):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).train()
    buffers = BufferSnapshot(module)
    module(torch.randn(2, 3, 8, 8))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    buffers.take()
    module(torch.full((2, 3, 8, 8), torch.nan if bad else 1.0))
    during = {k: v.clone() for k, v in module.state_dict().items()}
    assert not torch.equal(before["1.running_var"], during["1.running_var"])
    buffers.restore_if(torch.tensor(bad))
    for name in ("1.running_mean", "1.running_var"):
        expected = before[name] if bad else during[name]
        assert torch.equal(module.state_dict()[name], expected)
