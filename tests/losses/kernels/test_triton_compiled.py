"""Triton kernels compiled for sm_90, which needs no GPU: they build and do not spill.

Triton 3.9's ptxas needs no stack for any of them; the one of 3.6 puts up to four registers there.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter does not compile", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {
    **dict.fromkeys(("target", "prefix", "counts"), "*i64"),
    **dict.fromkeys(("nll", "partial", "grad_nll", "grad_mass", "pull_map", "values"), "*fp32"),
    "valid": "*u8",
}
MASSES = {"none": {"P1": -1, "P2": -1}, "both": {"P1": 0, "P2": 1}}
NCHW, NHWC = {"sw": 1, "gw": 1}, {"sc": 1, "gc": 1}  # a stride of 1 is compiled in


@pytest.fixture
def spilled(tmp_path, monkeypatch):
    """Compile a kernel; return whether more than four registers were spilled to memory."""
    if not CUOBJDUMP.exists():
        pytest.skip("this Triton comes without cuobjdump")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))

    def compiled(kernel, dtype: str, num_warps: int = 4, **constants) -> bool:
        names = kernel.arg_names
        pointers = POINTERS | {"logits": f"*{dtype}", "grad": f"*{dtype}"}
        signature = {name: pointers.get(name, "i32") for name in names}
        fixed = {name: value for name, value in constants.items() if name in names}
        # the usual launch: tensors are aligned, and sizes and strides multiples of 16
        odd = {"lb_ignore", "h", "w", "per_cell", *fixed}
        if hasattr(kernel, "do_not_specialize"):
            odd |= set(kernel.do_not_specialize)
        source = ASTSource(
            fn=kernel,
            signature=signature | dict.fromkeys(fixed, "constexpr"),
            constexprs={(names.index(name),): value for name, value in fixed.items()},
            attrs={
                (place,): [["tt.divisibility", 16]]
                for place, name in enumerate(names)
                if name not in odd
            },
        )
        built = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps}
        )
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(built.asm["cubin"])
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        found = re.findall(r"(?:STACK|LOCAL):(\d+)", usage)
        assert len(found) == 2, usage
        return sum(map(int, found)) > 16

    return compiled


@pytest.mark.parametrize("masses", MASSES)
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("classes", [19, 150])
def test_full_resolution_does_not_spill(classes, dtype, order, masses, spilled):
    from segtrain.losses.kernels import triton_nll

    tile = tile_of(dtype, order, 1)
    options = dict(C=classes, S=1, ALIGN=False, **MASSES[masses], **tile)
    options |= NHWC if order == "NHWC" else NCHW
    for kernel in (triton_nll.nll_kernel, triton_nll.grad_kernel):
        assert not spilled(kernel, dtype, **options), kernel


@pytest.mark.parametrize("masses", MASSES)
@pytest.mark.parametrize(
    ("classes", "dtype", "upsample", "align", "order"),
    [
        (2, "fp32", 2, False, "NCHW"),
        (19, "fp32", 4, False, "NCHW"),
        (19, "bf16", 8, False, "NHWC"),
        (19, "bf16", 4, True, "NCHW"),
        (150, "fp32", 8, True, "NHWC"),
        (150, "bf16", 4, False, "NCHW"),
    ],
)
def test_upsampling_does_not_spill(classes, dtype, upsample, align, order, masses, spilled):
    from segtrain.losses.kernels import triton_nll

    options = dict(C=classes, S=upsample, ALIGN=align, **MASSES[masses])
    tile = tile_of(dtype, order, upsample)
    strides = NHWC if order == "NHWC" else NCHW
    passes = [triton_nll.nll_kernel] + [triton_nll.grad_kernel] * (masses == "both")
    for kernel in passes:
        assert not spilled(kernel, dtype, **options, **tile, **strides), kernel
    tile = triton_nll.cell_tile(upsample, masses == "both")
    strides = {} if order == "NHWC" else NCHW  # the class stride is not specialised
    kernel = triton_nll.grad_upsampled_kernel
    assert not spilled(kernel, dtype, **options, **tile, **strides)


@pytest.mark.parametrize("classes", [19, 150])
def test_class_sums_do_not_spill(classes, spilled):
    from segtrain.losses.kernels.triton_reductions import class_sums_kernel

    assert not spilled(class_sums_kernel, "fp32", C=classes, BC=32, BX=128)


@pytest.mark.parametrize(("shift", "width"), [(21, 11), (10, 11), (0, 10)])
def test_digit_counts_do_not_spill(shift, width, spilled):
    from segtrain.losses.kernels.triton_reductions import digit_counts_kernel

    assert not spilled(digit_counts_kernel, "fp32", SHIFT=shift, WIDTH=width, BX=2048)


def tile_of(dtype: str, order: str, upsample: int) -> dict[str, int]:
    """Return the tile that the product chooses for such logits."""
    import torch

    from segtrain.losses.kernels.triton_nll import pixel_tile

    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    logits = torch.empty((1, 3, 2, 2), dtype=torch_dtype)
    if order == "NHWC":
        logits = logits.contiguous(memory_format=torch.channels_last)
    return pixel_tile(logits, upsample)
