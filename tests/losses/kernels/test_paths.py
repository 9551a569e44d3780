"""Choice of the path: by device, precision and environment, once for each loss."""

import subprocess

import pytest
import torch
from triton.runtime.errors import OutOfResources, PTXASError

from segtrain.errors import first_line
from segtrain.losses import OhemCE, build_loss
from segtrain.losses.kernels import paths, triton_nll, triton_reductions

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forget_failure():
    paths._triton_failure.cache_clear()
    yield
    paths._triton_failure.cache_clear()


def failing(error: Exception, module: str = "triton.runtime.build"):
    """Return a probe that raises an error in code of that module."""
    scope = {"__name__": module, "error": error}
    exec("def probe(device):\n    raise error", scope)
    return scope["probe"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler.\nPlease specify via CC"),
        RuntimeError("0 active drivers ([]). There should only be one."),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        AssertionError("libcuda.so cannot found!"),
        subprocess.CalledProcessError(1, ["gcc"]),
        FileNotFoundError(2, "No such file or directory", "gcc"),
        PermissionError(13, "Permission denied", "/root/.triton"),
        ImportError("cuda_utils.so: undefined symbol"),
        PTXASError("Internal Triton PTX codegen error"),
        OutOfResources(300_000, 232_448, "shared memory"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:40],
)
def test_where_triton_cannot_build_the_plain_path_is_taken_and_noted_once(
    error, monkeypatch, capsys
):
    monkeypatch.setattr(triton_nll, "probe", failing(error))
    for _ in range(2):
        path, reason = paths.choose_path(GPU, torch.bfloat16)
        assert path == "plain"
        assert reason == f"Triton cannot build kernels ({first_line(error)})"
    assert capsys.readouterr().err == f"note: losses take the plain path: {reason}\n"


@pytest.mark.parametrize(
    ("error", "module"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "torch"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "triton.backends.nvidia.driver"),
        (
            RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
            "triton.backends.nvidia.driver",
        ),
        (torch.AcceleratorError("CUDA error: misaligned address"), "torch.cuda"),
        (RuntimeError("element 0 of tensors does not require grad"), "torch.autograd.graph"),
        (TypeError("dynamic_func() missing 1 required argument"), "triton.runtime.jit"),
        (KeyError("Keyword argument BZ was specified but unrecognised"), "triton.runtime.jit"),
        (AssertionError("ours"), "segtrain.losses.kernels.triton_nll"),
    ],
    ids=str,
)
def test_any_other_error_shows(error, module, monkeypatch):
    monkeypatch.setattr(triton_nll, "probe", failing(error, module))
    with pytest.raises(type(error)) as raised:
        paths.choose_path(GPU, torch.float32)
    assert raised.value is error


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_first_use_without_gradients_does_not_decide_for_all(mode, monkeypatch):
    def probe(device):
        (2 * torch.zeros(1, requires_grad=True)).sum().backward()

    for module in (triton_nll, triton_reductions):
        monkeypatch.setattr(module, "probe", probe)
    with mode():
        assert paths.choose_path(GPU, torch.float32).name == "triton"
    assert paths.choose_path(GPU, torch.float32).name == "triton"


def test_with_a_compiler_half_and_single_precision_take_triton(monkeypatch):
    for module in (triton_nll, triton_reductions):
        monkeypatch.setattr(module, "probe", lambda device: None)
    assert paths.choose_path(GPU, torch.bfloat16) == ("triton", "logits are on a GPU")
    assert paths.choose_path(GPU, torch.float64).name == "plain"


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
