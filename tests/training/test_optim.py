"""Parameter groups, the learning rate of every step, skipped steps, the moving average."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.optim import lr_scheduler

from segtrain.config import ModelConfig, OptimConfig
from segtrain.models.segmentation import build_model
from segtrain.models.trial import Padding
from segtrain.training.optim import build_optimizer, lr_at, set_lr, update_average

NAMES = ("adamw", "sgd")
DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
])]  # fmt: skip


class Small(nn.Module):
    """A network with the parts of a SegmentationModel; channels_last."""

    unreached = frozenset()
    padding = Padding(32, 32)
    mean = torch.zeros(1, 3, 1, 1)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Module()
        self.network.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.network.head = nn.Conv2d(4, 2, 3)
        self.to(memory_format=torch.channels_last)


class Block(nn.Module):
    """A block of a network, which a Sequential is not."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.part(maps)


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2))


def give_gradients(module: nn.Module, seed: int) -> None:
    """Give each parameter a gradient, laid out like the parameter, as autograd does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        values = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.zeros_like(parameter).copy_(values)


def step_by(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    give_gradients(module, seed)
    optimizer.step()


def tensors_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return copies of all that a step may change."""
    states = [state[key] for state in optimizer.state.values() for key in sorted(state)]
    return [tensor.detach().clone() for tensor in (*module.parameters(), *states)]


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Make code raise that waits for a GPU."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def same(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.mark.parametrize(
    "step, warmup, power, lr",
    [
        (0, 0.1, 1, 2 * 1 / 11),
        (9, 0.1, 1, 2 * 10 / 11),
        (10, 0.1, 1, 2),
        (55, 0.1, 1, 2 * 45 / 90),
        (55, 0.1, 2, 2 * 0.25),
        (99, 0.1, 1, 2 / 90),
        (0, 0, 0.9, 2),
        (99, 0, 0.5, 2 * 0.1),
    ],
)
def test_poly_by_hand(step, warmup, power, lr):
    assert lr_at(step, 100, OptimConfig(lr=2, warmup=warmup, power=power)) == pytest.approx(lr)


def test_a_warm_up_is_a_number_of_steps_or_a_share():
    shares, steps = OptimConfig(lr=2, warmup=0.1), OptimConfig(lr=2, warmup=10)
    assert [lr_at(s, 100, shares) for s in range(100)] == [lr_at(s, 100, steps) for s in range(100)]
    assert lr_at(9, 1000, steps) == lr_at(9, 100, steps) < 2 == lr_at(10, 1000, steps)
    assert lr_at(0, 100, OptimConfig(lr=2, warmup=1)) == 1


@pytest.mark.parametrize("value", [1.5, -1, -0.1, "many", True])
def test_other_warm_ups_are_refused(value: object):
    with pytest.raises(ValidationError):
        OptimConfig(warmup=value)


@pytest.mark.parametrize(
    "schedule, step, lr",
    [
        ("cosine", 9, 2 * 10 / 11),
        ("cosine", 10, 2),
        ("cosine", 40, 2 * 0.75),  # a third of the way
        ("cosine", 55, 2 * 0.5),
        ("constant", 9, 2 * 10 / 11),
        ("constant", 10, 2),
        ("constant", 99, 2),
        ("onecycle", 0, 2 / 25),
        ("onecycle", 29, 2),
        ("onecycle", 99, 2 / 250_000),
    ],
)
def test_other_schedules_by_hand(schedule, step, lr):
    config = OptimConfig(lr=2, warmup=0.1, schedule=schedule)
    assert lr_at(step, 100, config) == pytest.approx(lr)


TWINS = {
    "poly": lambda optimizer, steps: lr_scheduler.PolynomialLR(optimizer, steps, power=0.9),
    "cosine": lambda optimizer, steps: lr_scheduler.CosineAnnealingLR(optimizer, steps),
    "onecycle": lambda optimizer, steps: lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, total_steps=steps, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 101])
@pytest.mark.parametrize("schedule", TWINS)
def test_schedules_equal_torchs(schedule: str, steps: int):
    warmup = 0.4 if schedule == "onecycle" else 0  # which has a warm-up of its own
    config = OptimConfig(lr=0.5, schedule=schedule, warmup=warmup, power=0.9)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = TWINS[schedule](optimizer, steps)
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        assert lr_at(step, steps, config) == pytest.approx(expected, rel=1e-9, abs=0)
        optimizer.step()
        scheduler.step()


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 300),
    st.floats(0, 0.5),
    st.floats(0.1, 3),
    st.sampled_from(["poly", "cosine"]),
    st.randoms(),
)
def test_lr_rises_to_its_peak_once_and_falls_towards_0(steps, warmup, power, schedule, random):
    config = OptimConfig(lr=0.5, warmup=warmup, power=power, schedule=schedule)
    rates = [lr_at(step, steps, config) for step in range(steps)]
    peak = rates.index(0.5)
    assert rates[: peak + 1] == sorted(set(rates[: peak + 1]))
    assert rates[peak:] == sorted(set(rates[peak:]), reverse=True)
    assert 0 < min(rates) and max(rates) == 0.5
    step = random.randrange(steps)
    assert lr_at(step, steps, config) == rates[step]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["poly", "cosine", "onecycle", "constant"]),
    st.integers(1, 10**7),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
    st.floats(1e-6, 10),
)
def test_lr_is_above_0_and_at_most_the_configs(schedule, steps, share, warmup, lr):
    config = OptimConfig(lr=lr, warmup=warmup, schedule=schedule)
    for step in (round(share * (steps - 1)), 0, steps - 1):
        assert 0 < lr_at(step, steps, config) <= lr


def test_each_part_has_its_learning_rate_and_decay():
    """Without gradients decay alone moves a weight: by lr, the part's factor and the decay."""
    model, loss = Small(), Learned()
    model.network.head.bias.requires_grad_(False)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    for parameter in (*model.parameters(), *loss.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(model, loss, OptimConfig(lr=9, encoder_lr=0.1, weight_decay=0.5))
    set_lr(optimizer, 0.2)
    optimizer.step()
    after = {name: p.unique().item() for name, p in model.network.named_parameters()}
    assert after.pop("encoder.0.weight") == pytest.approx(1 - 0.2 * 0.1 * 0.5)
    assert after.pop("head.weight") == pytest.approx(1 - 0.2 * 0.5)
    assert set(after) == {"encoder.0.bias", "encoder.1.weight", "encoder.1.bias", "head.bias"}
    assert set(after.values()) == {1.0}
    assert loss.matrix.unique().item() == 1  # not decayed, for all its dimensions
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    assert trained == {*model.parameters(), *loss.parameters()} - {model.network.head.bias}


@pytest.mark.parametrize("decay, depth", [(0.5, 3), (1, 1)])
def test_each_layer_of_the_encoder_has_its_learning_rate(decay: float, depth: int):
    """BEiT's rule by hand: decay ** (depth - i); without decay the groups are the former ones."""
    model = Small()
    blocks = [Block(nn.Conv2d(4, 4, 3)) for _ in range(2)]
    model.network.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(*blocks))
    config = OptimConfig(encoder_lr=0.5, layer_decay=decay)
    optimizer = build_optimizer(model, nn.Module(), config)
    factors = {p: group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}
    layers = [model.network.encoder[0], *blocks, model.network.head]
    found = [{factors[p] for p in layer.parameters()} for layer in layers]
    assert found == [{0.5 * decay**3}, {0.5 * decay**2}, {0.5 * decay}, {1.0}]
    assert len(optimizer.param_groups) == 2 * (depth + 1)


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_those_of_plain_torch(name: str):
    """The twin has one unfused optimizer for each parameter."""
    model, twin = Small(), Small()
    config = OptimConfig(name=name, lr=0.1, encoder_lr=0.5, weight_decay=0.3, momentum=0.8)
    optimizer = build_optimizer(model, nn.Module(), config)
    twins = []
    for key, parameter in twin.named_parameters():
        lr = 0.05 if "encoder" in key else 0.1
        decay = 0.3 if parameter.ndim > 1 else 0
        if name == "adamw":
            twins.append(torch.optim.AdamW([parameter], lr, weight_decay=decay, fused=False))
        else:
            twins.append(torch.optim.SGD([parameter], lr, 0.8, weight_decay=decay, fused=False))
    for step in range(4):
        set_lr(optimizer, 0.1)
        step_by(model, optimizer, step)
        give_gradients(twin, step)
        for other in twins:
            other.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_sgds_ready_made_momentum_changes_no_bit(momentum: float):
    model, twin = Small(), Small()
    optimizer = build_optimizer(
        model, nn.Module(), OptimConfig(name="sgd", lr=0.1, weight_decay=0, momentum=momentum)
    )
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=momentum, fused=True)
    for step in range(3):
        step_by(model, optimizer, step)
        step_by(twin, plain, step)
    assert same(list(model.parameters()), list(twin.parameters()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("skipped", [0, 2])
def test_a_bad_step_is_skipped_and_leaves_no_trace(device, name, momentum, skipped):
    model, twin = Small().to(device), Small().to(device)
    config = OptimConfig(name=name, lr=0.1, momentum=momentum)
    optimizer, plain = (build_optimizer(m, nn.Module(), config) for m in (model, twin))
    bad, good = torch.ones((), device=device), torch.zeros((), device=device)
    for step in range(4):
        if step == skipped:
            before = tensors_of(model, optimizer)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, float("nan"))
            optimizer.found_inf = bad
            with no_waiting(device):
                optimizer.step()
            after = tensors_of(model, optimizer)
            assert same(before, after[: len(before)])  # at step 0 adamw makes its state: zeros
            assert not any(tensor.any() for tensor in after[len(before) :])
        optimizer.found_inf = good
        step_by(model, optimizer, step)
        step_by(twin, plain, step)
    assert same(tensors_of(model, optimizer), tensors_of(twin, plain))


@pytest.mark.parametrize("name", NAMES)
def test_state_is_laid_out_as_the_weights_and_survives_a_file(name: str):
    model, loss, config = Small(), nn.Module(), OptimConfig(name=name, encoder_lr=0.1)
    optimizer = build_optimizer(model, loss, config)
    step_by(model, optimizer, 0)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed_model = copy.deepcopy(model)
    resumed = build_optimizer(resumed_model, loss, config)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert [g["lr_factor"] for g in resumed.param_groups] == [0.1, 0.1, 1, 1]
    for parameter, state in resumed.state.items():
        for value in state.values():
            assert value.ndim == 0 or value.stride() == parameter.stride()
    for either, its in ((model, optimizer), (resumed_model, resumed)):
        step_by(either, its, 1)
    assert same(tensors_of(model, optimizer), tensors_of(resumed_model, resumed))


@pytest.mark.parametrize(
    "network",
    [
        {"options": {"decoder_channels": [8] * 5}},
        {"arch": "pspnet", "encoder": "tu-test_efficientnet"},  # it has unreached stages
    ],
)
def test_a_frozen_encoder_is_not_in_the_optimizer(network: dict):
    model = build_model(ModelConfig(**network), 3)
    model.freeze_unreached()
    model.freeze_encoder()
    optimizer = build_optimizer(model, nn.Module(), OptimConfig(encoder_lr=0))
    assert [group["lr_factor"] for group in optimizer.param_groups] == [1, 1]
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    assert trained == set(model.parameters()) - set(model.network.encoder.parameters())


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="empty parameter list"):
        build_optimizer(Small().requires_grad_(False), nn.Module(), OptimConfig())


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_equals_plain_loops(decay: float):
    model = Small()
    average = copy.deepcopy(model)
    expected = [p.detach().double() for p in model.parameters()]
    for step in range(15):
        with torch.no_grad():
            for index, parameter in enumerate(model.parameters()):
                parameter += torch.randn_like(parameter)
                keep = min(decay, (1 + step) / (10 + step))
                expected[index] = keep * expected[index] + (1 - keep) * parameter
        model.network.encoder(torch.randn(2, 3, 5, 5))  # batch norm counts and averages
        update_average(average, model, decay, step)
    for ours, theirs in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    assert same(list(average.buffers()), list(model.buffers()))
    assert average.network.encoder[1].num_batches_tracked == 15
    assert average.network.head.weight.is_contiguous(memory_format=torch.channels_last)


def test_an_average_without_decay_is_the_model():
    model = Small()
    average = copy.deepcopy(model)
    step_by(model, build_optimizer(model, nn.Module(), OptimConfig(lr=0.1)), 0)
    assert not same(list(average.parameters()), list(model.parameters()))
    update_average(average, model, 0, 7)
    assert same(list(average.parameters()), list(model.parameters()))


def test_the_average_reads_nothing_from_the_device():
    """Tensors of the meta device have no values: reading one raises an error."""
    model = Small().to("meta")
    update_average(copy.deepcopy(model), model, 0.9, 3)
