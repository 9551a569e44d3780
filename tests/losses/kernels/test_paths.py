"""Choice of the path: by device, precision and environment, once for each loss."""

import pytest
import torch

from segtrain.losses import OhemCE, build_loss
from segtrain.losses.kernels import paths, triton_nll, triton_reductions

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forget_failure():
    paths._triton_failure.cache_clear()
    yield
    paths._triton_failure.cache_clear()


def test_without_a_compiler_the_plain_path_is_taken_and_noted_once(monkeypatch, capsys):
    def fails(device):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(triton_nll, "probe", fails)
    for _ in range(2):
        path, reason = paths.choose_path(GPU, torch.bfloat16)
        assert path == "plain"
        assert reason == "Triton cannot build kernels (Failed to find C compiler.)"
    assert capsys.readouterr().err == f"note: losses take the plain path: {reason}\n"


def test_with_a_compiler_half_and_single_precision_take_triton(monkeypatch):
    for module in (triton_nll, triton_reductions):
        monkeypatch.setattr(module, "probe", lambda device: None)
    assert paths.choose_path(GPU, torch.bfloat16) == ("triton", "logits are on a GPU")
    assert paths.choose_path(GPU, torch.float64).name == "plain"


def test_running_out_of_memory_is_no_missing_compiler(monkeypatch):
    def full(device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(triton_nll, "probe", full)
    with pytest.raises(torch.OutOfMemoryError):
        paths.choose_path(GPU, torch.float32)


@pytest.mark.parametrize("make", [lambda: build_loss("ohem+dice", 3), OhemCE])
def test_the_path_is_chosen_once_for_each_loss(monkeypatch, make):
    chosen = []
    real = paths.choose_path
    monkeypatch.setattr(
        "segtrain.losses.pixel_pass.choose_path",
        lambda *given: chosen.append(given) or real(*given),
    )
    loss = make()
    batch = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    for _ in range(3):
        loss(batch[0].requires_grad_(), batch[1]).backward()
    assert len(chosen) == 1
    monkeypatch.setenv("SEGTRAIN_KERNELS", "0")
    paths.PATHS_TAKEN.clear()
    make()(*batch)
    assert dict(paths.PATHS_TAKEN) == {("plain", 1): 1}
