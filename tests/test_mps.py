"""The GPU of a Mac: a stand-in that holds no values, and tests that need a real one.

The stand-in is torch's fake tensors: each knows its shape, dtype and device, here `mps`, so the
product takes the path of that device. They refuse to mix devices without a copy, and to be read.
torch can't differentiate them without a Mac's driver, so backward is run on the CPU, in the same
plain path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import QUICK, write_pairs
from lightning_fabric.accelerators import MPSAccelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from segtrain.config import EvalConfig, ModelConfig, OptimConfig
from segtrain.data.loading.dataset import Batch
from segtrain.distributed.devices import build_predictor, choose_layout, copy_to
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.prediction import Prediction, join_bands
from segtrain.losses import perceptual, pixel_pass, selection
from segtrain.losses.build import build_loss, build_mining
from segtrain.losses.kernels.plain import double_device
from segtrain.losses.spec import parse_loss
from segtrain.metrics.calibration import measure_confidence
from segtrain.metrics.confusion import average_iou
from segtrain.models.inference import CheckedPredictor, predict_bands
from segtrain.models.segmentation import build_model
from segtrain.models.tuning import Tuning
from segtrain.render.overlay import blend_classes, build_colour_table
from segtrain.training.module import TrainingModule
from segtrain.training.optim import build_optimizer, update_average
from segtrain.training.step import clip_gradient, copy_to_device

MAC = torch.device("mps", 0)
DOUBLE = (torch.float64, torch.complex128)
EXPRESSIONS = [
    "ce", "ce(label_smoothing=0.1)", "ce(weight=[1, 2, 3])", "ohem", "ohem(focal)",
    "ohem(per_image=True)", "topk(keep=0.3)", "topk(keep=7)", "focal", "ghm", "poly", "border",
    "dice", "dice(average=generalised, background=False)", "tversky(gamma=1.5)", "jaccard",
    "lovasz", "lovasz(per_image=True)", "cldice", "vgg(weights=none)", "ohem+0.5*dice",
]  # fmt: skip


class NoDouble(TorchDispatchMode):
    """Fails where an operator makes a tensor in double precision on a device."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.device.type == self.device.type:
                assert value.dtype not in DOUBLE, f"{operator} makes {value.dtype}"
        return made


class WithoutDriver(TorchFunctionMode):
    """Does on the host, without values, what torch asks a device's driver for, as for an index.

    A view becomes a copy: that changes neither shape, dtype nor device.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "not linked with support for mps" not in str(error):
                raise
        args, kwargs = tree_map(to_host, (args, kwargs or {}))
        return tree_map(to_device, function(*args, **kwargs))


def to_device(value: object) -> object:
    return value.to(MAC) if isinstance(value, Tensor) else value


def to_host(value: object) -> object:
    if isinstance(value, Tensor):
        return value.cpu()
    return torch.device("cpu") if value == MAC else value


def to_mac(module: nn.Module) -> nn.Module:
    """Module.to, which can't exchange tensors without values."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                if value is not None:
                    moved = torch.empty(value.shape, dtype=value.dtype, device=MAC)
                    is_weight = tensors is part._parameters
                    tensors[name] = nn.Parameter(moved, value.requires_grad) if is_weight else moved
    return module


@contextmanager
def stand_in() -> Iterator[None]:
    """Tensors may be made on `mps`, and hold no values."""
    with FakeTensorMode(), torch.no_grad(), NoDouble(MAC), WithoutDriver():
        yield


@pytest.fixture
def mac():
    with stand_in():
        yield


def test_the_stand_in_finds_what_a_mac_refuses(mac):
    count = torch.ones((), device=MAC)
    with pytest.raises(AssertionError, match=r"makes torch\.float64"):
        count.double()
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + torch.ones(2, device=MAC)
    assert torch.ones(2).double().device.type == "cpu"


def labels(height: int, width: int, device: torch.device) -> Tensor:
    random = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, height, width), generator=random, dtype=torch.int16)
    target[:, :3] = 255
    return target.to(device)


@pytest.mark.parametrize("upsample", [1, 4])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_losses_take_no_double_precision_forward(monkeypatch, expression: str, upsample: int):
    loss = build_loss(expression, 3)
    monkeypatch.setattr(nn.Sequential, "to", lambda network, dtype: network)  # vgg's, as it is
    with stand_in():
        to_mac(loss)
        logits = torch.randn(2, 3, 32 // upsample, 48 // upsample, device=MAC)
        target = torch.randint(0, 3, (2, 32, 48), device=MAC, dtype=torch.int16)
        value = loss(logits, target, upsample, observe=True)
    assert (value.device, value.dtype, value.shape) == (MAC, torch.float32, ())
    assert loss.reader.path(MAC, torch.float32, 3) == ("plain", "no kernels for mps")


@pytest.mark.parametrize("upsample", [1, 4])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_nor_backward_and_the_value_is_that_of_the_cpu(monkeypatch, expression, upsample: int):
    torch.manual_seed(0)
    target = labels(32, 48, torch.device("cpu"))
    logits = 3 * torch.randn(2, 3, 32 // upsample, 48 // upsample)
    found = []
    for plain in (False, True):
        if plain:  # as mps takes it
            monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
            for module in (pixel_pass, selection):
                monkeypatch.setattr(module, "reads_freely", lambda values: False)
        torch.manual_seed(0)  # of vgg's random weights
        perceptual._load_features.cache_clear()
        leaf = logits.clone().requires_grad_()
        value = build_loss(expression, 3)(leaf, target, upsample)
        with NoDouble(value.device):
            value.backward()
        found.append((value.detach(), leaf.grad))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_rest_of_a_step_takes_no_double_precision(name: str):
    torch.manual_seed(0)
    model = build_model(ModelConfig(encoder="resnet18"), 3)
    average = build_model(ModelConfig(encoder="resnet18"), 3)
    module = TrainingModule(model, build_loss("ghm", 3))
    optimizer = build_optimizer(model, module.loss, OptimConfig(name=name))
    target = labels(32, 64, torch.device("cpu"))
    images = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    with NoDouble(target.device):
        module(images, target).backward()
        bad = ~torch.isfinite(clip_gradient(module, 1.0))
        optimizer.found_inf = bad.float()
        optimizer.step()
        update_average(average, model, 0.9, 0)


def test_a_step_of_the_network_on_a_mac(mac):
    """The copy of a batch, forward, and all that follows the gradient but the fused optimizer."""
    fabric = SimpleNamespace(device=MAC)
    model, average = (
        to_mac(build_model(ModelConfig(arch="fpn", encoder="resnet18"), 3)) for _ in "ab"
    )
    module = to_mac(TrainingModule(model, build_loss("ohem+dice", 3)))
    image = torch.zeros(2, 3, 40, 64, dtype=torch.uint8).to(memory_format=torch.channels_last)
    batch = Batch(image, torch.zeros(2, 40, 64, dtype=torch.int16), [0, 1], [])
    ((images, target),) = copy_to_device(fabric, [batch], channels_last=True)
    assert images.is_contiguous() and (images.device, target.device) == (MAC, MAC)
    assert module(images, target, observe=True).device == MAC
    for parameter in module.parameters():
        parameter.grad = torch.zeros(parameter.shape, device=MAC)
    assert clip_gradient(module, 1.0).device == MAC
    update_average(average, model, 0.9, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"tta": ["hflip", "vflip", 1.25]},
        {"max_pixels": 1, "window": (32, 32), "overlap": 0.5},
        {},
    ],
    ids=["tta", "windows", "whole"],
)
def test_an_evaluation_takes_no_double_precision(mac, settings: dict):
    fabric = SimpleNamespace(device=MAC, autocast=torch.no_grad)
    model = to_mac(build_model(ModelConfig(arch="fpn", encoder="resnet18"), 3).eval())
    network = CheckedPredictor(build_predictor(model, fabric))
    images = copy_to(MAC, torch.zeros(1, 3, 48, 40, dtype=torch.uint8))
    target = copy_to(MAC, torch.zeros(1, 48, 40, dtype=torch.int16))
    mining = build_mining(parse_loss("topk(keep=0.3)"), 3)
    submitted = []
    with Accumulator(3, 255, MAC, calibrated=True, tuning=Tuning([0.0, 1.0, 2.0])) as sums:
        sums._threads.submit = lambda count, *counted: submitted.append(counted)
        bands = predict_bands(network, images, EvalConfig(**settings))
        ids, nll = join_bands(bands, target, 255, mining, sums)
        sums.add(Prediction(0, target[0], ids[0], mining.kept(nll, target)[0]))
        sums._waiting.clear()
    assert ids.device == nll.device == sums.confusion.matrix.device == MAC
    assert sums.kept.dtype == torch.float64 and sums.kept.device.type == "cpu"
    assert average_iou(sums.confusion.matrix).dtype == torch.float32
    # threads that compute on mps end the process
    ((prediction, matrix),) = submitted
    on_threads = (prediction.class_ids, prediction.target, matrix)
    assert {values.device.type for values in on_threads} == {"cpu"} and prediction.kept is None


def test_a_prediction_takes_no_double_precision(mac):
    logits = torch.randn(1, 3, 8, 8, device=MAC)
    best, image = logits[0].max(0).indices, torch.zeros(3, 8, 8, dtype=torch.uint8, device=MAC)
    colours = build_colour_table([(0, 0, 0), (9, 9, 9), (0, 9, 0)], MAC)
    assert blend_classes(image, best, colours, 0.5).device == MAC
    assert measure_confidence(logits).dtype == torch.float32
    assert Tuning([0.0, 1.0, 2.0], 1.5).apply(logits).dtype == torch.float32


@pytest.mark.parametrize(
    "device, double, layout",
    [
        ("cpu", "cpu", torch.channels_last),
        ("cuda:1", "cuda:1", torch.channels_last),
        ("mps:0", "cpu", torch.contiguous_format),
    ],
)
def test_only_a_mac_is_an_exception(device: str, double: str, layout: torch.memory_format):
    assert double_device(torch.device(device)) == torch.device(double)
    assert choose_layout(torch.device(device)) == layout
    assert choose_layout(torch.device(device), False) == torch.contiguous_format


needs_a_mac = pytest.mark.skipif(
    not MPSAccelerator.is_available(), reason="torch sees no GPU of a Mac here"
)


@needs_a_mac
@pytest.mark.mps
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16"])
def test_the_three_commands_on_a_mac(cli, tmp_path: Path, precision: str):
    write_pairs(tmp_path / "set")
    options = ["--device", "mps", "--precision", precision, "--loss", "ohem+topk(keep=0.3)+dice"]
    fitted = cli("fit", "--data", "set", *QUICK, *options, "--set", "train.ema=0.9")
    assert fitted.code == 0, fitted.stderr
    assert cli("eval", "--device", "mps", "--set", "eval.tta=[hflip, 1.25]").code == 0
    assert cli("predict", "set/images", "--device", "mps").code == 0
    assert len(list(Path("predictions").glob("*_mask.png"))) == 6


@needs_a_mac
@pytest.mark.mps
def test_scores_on_a_mac_are_those_on_a_cpu(cli, tmp_path: Path):
    write_pairs(tmp_path / "set")
    assert cli("fit", "--data", "set", *QUICK, "--device", "cpu", "--name", "run").code == 0
    found = []
    for device in ("cpu", "mps"):
        answer = cli("eval", "runs/run", "--device", device, "--json")
        assert answer.code == 0, answer.stderr
        found.append(json.loads(answer.stdout))
    for key in ("miou", "boundary_iou", "ece"):
        assert found[1][key] == pytest.approx(found[0][key], abs=5e-3), key


@needs_a_mac
@pytest.mark.mps
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_losses_on_a_mac_are_those_on_a_cpu(expression: str):
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(2, 3, 32, 48), labels(32, 48, torch.device("cpu"))
    loss, found = build_loss(expression, 3), []
    for device in ("cpu", "mps"):
        leaf = logits.to(device).requires_grad_()
        value = loss.to(device)(leaf, target.to(device))
        value.backward()
        found.append((value.detach().cpu(), leaf.grad.cpu()))
    for host, metal in zip(*found, strict=True):
        torch.testing.assert_close(metal, host, rtol=1e-3, atol=1e-5)
