"""The losses' benchmark runs under what `fit` sets, as seen from outside in both."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import ANY_NETWORK

from segtrain import __main__
from segtrain.distributed import fabric
from segtrain.losses.build import Loss

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")


@pytest.fixture
def benchmark(monkeypatch):
    """benchmarks/losses.py as a module; the environment that it sets is undone."""
    for variable in __main__.ENVIRONMENT:
        monkeypatch.setenv(variable, "as it was")
        monkeypatch.delenv(variable)
    monkeypatch.syspath_prepend(BENCHMARKS)
    for module in ("product", "losses", "machine"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    import losses

    return losses


@pytest.fixture
def kept_memory(monkeypatch) -> list[bool]:
    """A growing list: an item for each time that the allocator was set."""
    calls: list[bool] = []
    monkeypatch.setattr(fabric, "keep_freed_memory", lambda: calls.append(True))
    return calls


def test_the_benchmark_sets_what_fit_sets(benchmark, kept_memory, cli, pairs, monkeypatch):
    seen = []
    forward = Loss.forward

    def looking(self, logits, target, *rest, **options):
        last = logits.is_contiguous(memory_format=torch.channels_last)
        seen.append((logits.dtype, "channels_last" if last else "contiguous"))
        return forward(self, logits, target, *rest, **options)

    monkeypatch.setattr(Loss, "forward", looking)
    done = cli("fit", "--data", pairs, *ANY_NETWORK, "--precision", "auto",
               "--epochs", "1", "--crop", "64x64", "--batch-size", "2")  # fmt: skip
    assert done.code == 0, done.stderr
    assert kept_memory == [True]

    made, settings = benchmark.start_product(device="cpu")
    assert kept_memory == [True, True]
    cases = benchmark.list_cases("cpu", settings["precision"])
    with made.autocast():
        computed = torch.nn.Conv2d(3, 3, 1)(torch.zeros(1, 3, 2, 2)).dtype
    assert set(seen) == {(computed, settings["layout"])}
    assert set(seen) <= {(case.dtype, case.layout) for case in cases}
    assert settings["threads"] == torch.get_num_threads()


def test_both_set_the_same_environment(benchmark, monkeypatch):
    _, settings = benchmark.start_product()
    by_benchmark = {variable: os.environ[variable] for variable in __main__.ENVIRONMENT}
    assert settings["environment"] == by_benchmark
    for variable in __main__.ENVIRONMENT:
        monkeypatch.delenv(variable)
    by_program: dict[str, str] = {}
    monkeypatch.setattr("segtrain.cli.app.app", lambda **_: by_program.update(os.environ))
    monkeypatch.setattr(__main__, "handle_interrupts", lambda raising: None)
    __main__.main()
    assert by_program.items() >= by_benchmark.items() and by_benchmark


@pytest.mark.parametrize("variable", __main__.ENVIRONMENT)
def test_a_setting_of_the_user_is_left_alone(monkeypatch, variable):
    for each in __main__.ENVIRONMENT:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(variable, "ours")
    before = dict(os.environ)
    __main__.set_environment()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "platform, given, expected",
    [("darwin", None, "1"), ("darwin", "0", "0"), ("linux", None, None), ("win32", None, None)],
)
def test_a_mac_computes_on_its_cpu_what_its_gpu_lacks(monkeypatch, platform, given, expected):
    for each in __main__.ENVIRONMENT:  # which the call may set
        monkeypatch.setenv(each, "ours")
    monkeypatch.setenv(__main__.FALLBACK, given or "")
    if given is None:
        monkeypatch.delenv(__main__.FALLBACK)
    monkeypatch.setattr(sys, "platform", platform)
    __main__.set_environment()
    assert os.environ.get(__main__.FALLBACK) == expected
