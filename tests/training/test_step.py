"""The training step: low-resolution logits go to the loss where all its terms can read them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn

from segtrain.config import ModelConfig, OptimConfig, TrainConfig
from segtrain.distributed.signals import StopRequest
from segtrain.losses import build_loss
from segtrain.losses.kernels.paths import PATHS_TAKEN, KernelPath
from segtrain.models.segmentation import build_model
from segtrain.training.nonfinite import broken_part
from segtrain.training.optim import build_optimizer
from segtrain.training.step import (
    Statistics,
    TrainingModule,
    compile_or_not,
    describe_path,
    train_step,
)

CPU = torch.device("cpu")


def batch(height: int, width: int) -> tuple:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 3, (2, height, width), generator=generator)
    target[0, :9] = 255
    return images, target


def interpolated_loss(model, expression, images, target):
    """What the user thinks happens: the network of the library, its own upsampling, the loss."""
    height, width = images.shape[-2:]
    padded = F.pad((images.float() - model.mean) / model.std, (0, -width % 32, 0, -height % 32))
    upsampled = nn.UpsamplingBilinear2d(scale_factor=model.upsampling)(model.network(padded))
    return build_loss(expression, 3)(upsampled[..., :height, :width], target)


@pytest.mark.parametrize("arch, factor", [("deeplabv3plus", 4), ("deeplabv3", 8), ("fpn", 4)])
@pytest.mark.parametrize("expression", ["ohem+0.5*dice", "ghm", "ohem+0.1*lovasz"])
@pytest.mark.parametrize("size", [(32, 64), (45, 37)])
def test_loss_and_gradients_are_those_of_upsampled_logits(arch, factor, expression, size):
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(arch=arch, encoder="resnet18"), 3
    ).eval()  # batch norm stands still
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
def test_the_path_is_said_with_its_reason(arch, expression, line):
    model = build_model(ModelConfig(arch=arch, encoder="resnet18"), 3)
    assert describe_path(model, build_loss(expression, 3), CPU) == line


def test_kernels_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    model = build_model(ModelConfig(arch="fpn", encoder="resnet18"), 3)
    module = TrainingModule(model, build_loss("ohem", 3))
    PATHS_TAKEN.clear()
    module(*batch(32, 32))
    assert dict(PATHS_TAKEN) == {("plain", 4): 1}
    assert "plain path (SEGTRAIN_KERNELS=0)" in describe_path(model, module.loss, CPU)


def training(
    freeze_bn: bool = False, expression: str = "ce", scaler: bool = False, **optim
) -> tuple:
    """A Fabric, and a network, loss and optimiser that it has wrapped."""
    scaling = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=scaling if scaler else None)
    torch.manual_seed(0)
    options = {"encoder_depth": 3, "decoder_channels": [8, 8, 4]}
    network = ModelConfig(encoder="tu-test_byobnet", freeze_bn=freeze_bn, options=options)
    model = build_model(network, 3)
    module = TrainingModule(model, build_loss(expression, 3))
    optimizer = build_optimizer(model, module.loss, OptimConfig(**optim))
    module, optimizer = fabric.setup(module, optimizer)
    return fabric, module.train(), optimizer


def take(setting: tuple, parts: list, clip_norm: float = 0.0) -> tuple:
    fabric, module, optimizer = setting
    statistics, quiet = Statistics(module), StopRequest(announce=False)
    marks = []
    loss, verdict = train_step(
        fabric, module, optimizer, statistics, parts, clip_norm, False, quiet, marks.append
    )
    assert marks == ["forward", "backward"] * len(parts)
    return loss, verdict.tolist()


def weights(setting: tuple) -> dict:
    return {name: value.clone() for name, value in setting[1].state_dict().items()}


def test_parts_of_a_batch_average_to_the_whole():
    images, target = batch(32, 64)
    target[1, :9] = 255  # as many valid pixels in each part
    whole, split = (training(freeze_bn=True, name="sgd", lr=0.1) for _ in range(2))
    before = weights(whole)
    one, _ = take(whole, [(images, target)])
    two, _ = take(split, [(images[:1], target[:1]), (images[1:], target[1:])])
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(weights(whole)["model.network.segmentation_head.0.weight"],
                           before["model.network.segmentation_head.0.weight"])  # fmt: skip


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("where", [0, 1])
def test_a_bad_step_leaves_no_trace(monkeypatch, name: str, where: int, clip_norm: float):
    part = batch(32, 64)
    spoilt, clean = (training(expression="ghm+ce", name=name, lr=0.01) for _ in range(2))
    term = type(spoilt[1].module.loss.terms[1])
    for step in range(3):
        if step == where:
            before, state = weights(spoilt), spoilt[2].state_dict()["state"]
            before_state = copy.deepcopy(state)
            with monkeypatch.context() as patch:
                patch.setattr(term, "value", lambda self, pixels: pixels.nll.sum() * torch.nan)
                _, verdict = take(spoilt, [part], clip_norm)
            assert verdict == [1, 0]
            counters = [n for n in before if n.endswith("num_batches_tracked")]
            after = weights(spoilt)
            assert [n for n in before if not torch.equal(before[n], after[n])] == counters
            after_state = spoilt[2].state_dict()["state"]
            for place, values in before_state.items():
                for key, value in values.items():
                    assert torch.equal(value, after_state[place][key])
        _, verdict = take(spoilt, [part], clip_norm)
        assert verdict == [0, 0]
        take(clean, [part], clip_norm)
    assert [
        n for n, value in weights(clean).items()
        if not torch.equal(value, weights(spoilt)[n]) and "num_batches" not in n
    ] == []  # fmt: skip


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_gradient_scaler_skips_the_same_steps(monkeypatch, broken: str, clip_norm: float):
    """It looks at gradients alone; a loss that is infinite may have finite ones."""
    setting = training(scaler=True, name="sgd")
    scaler = setting[0].strategy.precision.scaler
    _, verdict = take(setting, [batch(32, 64)], clip_norm)
    assert verdict == [0, 0] and scaler.get_scale() == 4
    before, term = weights(setting), type(setting[1].module.loss.terms[0])
    whole = term.value

    def value(self, pixels):
        good = whole(self, pixels)
        return good + torch.inf if broken == "loss" else good * torch.nan

    with monkeypatch.context() as patch:
        patch.setattr(term, "value", value)
        _, verdict = take(setting, [batch(32, 64)], clip_norm)
    assert verdict == [1, 0] and scaler.get_scale() == 2
    after = weights(setting)
    assert [n for n in before if not torch.equal(before[n], after[n]) and "batches" not in n] == []
    take(setting, [batch(32, 64)], clip_norm)
    head = "model.network.segmentation_head.0.weight"
    assert not torch.equal(weights(setting)[head], after[head])


def test_a_wish_that_comes_in_the_step_is_in_its_verdict():
    fabric, module, optimizer = training()
    stop_request = StopRequest(False)

    def mark(name: str) -> None:
        stop_request.signum = 15

    arguments = [Statistics(module), [batch(32, 32)], 0.0, False, stop_request, mark]
    assert train_step(fabric, module, optimizer, *arguments)[1].tolist() == [0, 15]


def test_gradients_are_clipped_to_their_norm():
    setting = training(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, freeze_bn=True)
    before = weights(setting)
    take(setting, [batch(32, 32)], clip_norm=0.01)
    moved = [(weights(setting)[name] - value).flatten() for name, value in before.items()]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("broken", ["weights", "output", "dice", "ghm"])
def test_what_broke_first_has_a_name(monkeypatch, broken: str):
    fabric, module, _ = training(expression="ohem+0.5*dice+ghm")
    part, inner = batch(32, 32), module.module
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
    assert broken_part(fabric, inner, part) == expected


def test_a_step_that_is_whole_in_itself_blames_the_network():
    fabric, module, _ = training(expression="ohem+0.5*dice")
    assert broken_part(fabric, module.module, batch(32, 32)) == "the gradient inside the network"


@pytest.mark.parametrize(
    "asked, device, path, steps, expected, why",
    [
        ("auto", "cpu", "tiles", 10**6, False, "CPU"),
        ("auto", "cuda", "plain", 10**6, False, "no Triton"),
        ("auto", "cuda", "triton", 1999, False, "1999 steps are too few"),
        ("auto", "cuda", "triton", 2000, True, "2000 steps on a GPU"),
        ("on", "cpu", "tiles", 1, True, "train.compile is on"),
        ("off", "cuda", "triton", 10**6, False, "train.compile is off"),
    ],
)
def test_what_is_compiled_and_why(monkeypatch, asked, device, path, steps, expected, why):
    loss = build_loss("ohem", 3)
    monkeypatch.setattr(loss.reader, "path", lambda *_: KernelPath(path, "no Triton"))
    compiled, reason = compile_or_not(TrainConfig(compile=asked), loss, torch.device(device), steps)
    assert compiled is expected and why in reason


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


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).train()


@pytest.mark.parametrize("bad", [True, False])
def test_batch_norm_forgets_a_bad_step_alone(bad: bool):
    module = network()
    statistics = Statistics(module)
    module(torch.randn(2, 3, 8, 8))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    statistics.keep()
    module(torch.full((2, 3, 8, 8), torch.nan if bad else 1.0))
    during = {k: v.clone() for k, v in module.state_dict().items()}
    assert not torch.equal(before["1.running_var"], during["1.running_var"])
    statistics.restore(torch.tensor(bad))
    for name in ("1.running_mean", "1.running_var"):
        expected = before[name] if bad else during[name]
        assert torch.equal(module.state_dict()[name], expected)
