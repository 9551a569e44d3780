"""Triton kernels for sums over classes and counts of digits, for CUDA."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segtrain.losses.kernels.triton_nll import read_labels


@triton.jit
def class_sums_kernel(
    values, target, partial, lb_ignore, pixels,
    C: tl.constexpr, BC: tl.constexpr, BX: tl.constexpr,
):  # fmt: skip
    """Store a program's sums of the pixels of BC classes."""
    n = tl.program_id(2).to(tl.int64)
    k = tl.program_id(0) * BC + tl.arange(0, BC)
    sums = tl.zeros((BC, BX), tl.float32)
    for start in range(tl.program_id(1) * BX, pixels, tl.num_programs(1) * BX):
        pixel = start + tl.arange(0, BX)
        label = read_labels(target, n * pixels + pixel, pixel < pixels, lb_ignore)
        value = tl.load(values + n * pixels + pixel, pixel < pixels, 0.0)
        sums += tl.where((k[:, None] == label) & (label != lb_ignore), value, 0.0)
    address = partial + (n * tl.num_programs(1) + tl.program_id(1)) * C + k
    tl.store(address, tl.sum(sums, 1), k < C)


def class_sums(values: Tensor, target: Tensor, num_classes: int, lb_ignore: int) -> Tensor:
    """Return the sum of values over each class's pixels: (N, num_classes) float32, no autograd.

    values (N,H,W) float32, target (N,H,W) of any integer type; pixels of `lb_ignore`, and of
    labels that are no class, are in no sum.
    """
    N, H, W = target.shape
    BC = min(triton.next_power_of_2(num_classes), 32)
    BX = min(4096 // BC, 1024)
    programs = min(triton.cdiv(H * W, BX), 128)
    # partial sums, added in a fixed order: atomics would add floats in any order
    partial = values.new_empty((N, programs, num_classes))
    with torch.cuda.device_of(values):
        class_sums_kernel[triton.cdiv(num_classes, BC), programs, N](
            values.contiguous(), target.contiguous(), partial, lb_ignore, H * W,
            C=num_classes, BC=BC, BX=BX,
        )  # fmt: skip
    return partial.sum(1)


@triton.jit
def class_values_kernel(
    by_class, target, values, lb_ignore, pixels, C: tl.constexpr, BX: tl.constexpr
):
    """Store the value of each pixel's class."""
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BX + tl.arange(0, BX)
    label = read_labels(target, n * pixels + pixel, pixel < pixels, lb_ignore)
    known = (label != lb_ignore) & (label >= 0) & (label < C)
    value = tl.load(by_class + n * C + label, known, 0.0)
    tl.store(values + n * pixels + pixel, value, pixel < pixels)


def class_values(by_class: Tensor, target: Tensor, lb_ignore: int) -> Tensor:
    """Return the map (N,H,W) with each pixel's value of by_class (N,C), float32; no autograd.

    target (N,H,W) of any integer type; pixels of `lb_ignore`, or of no class, have 0.
    """
    (N, H, W), BX = target.shape, 1024
    values = by_class.new_empty(target.shape)
    with torch.cuda.device_of(by_class):
        class_values_kernel[triton.cdiv(H * W, BX), N](
            by_class.contiguous(), target.contiguous(), values, lb_ignore, H * W,
            C=by_class.shape[1], BX=BX,
        )  # fmt: skip
    return values


@triton.jit
def digit_counts_kernel(
    values, valid, prefix, skip, counts, pixels,
    SHIFT: tl.constexpr, WIDTH: tl.constexpr, BX: tl.constexpr,
):  # fmt: skip
    """Add a program's counts of the digits of some values; end at once where `skip` is set."""
    if tl.load(skip) != 0:
        return
    histogram = tl.zeros((1 << WIDTH,), tl.int32)
    wanted = tl.load(prefix).to(tl.int32)
    stride = tl.num_programs(0).to(tl.int64) * BX
    for start in range(tl.program_id(0).to(tl.int64) * BX, pixels, stride):
        pixel = start + tl.arange(0, BX)
        bits = tl.load(values + pixel, pixel < pixels, 0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        counted = tl.load(valid + pixel, pixel < pixels, 0) != 0
        if SHIFT + WIDTH < 31:  # the first round has no digits before its own
            counted = counted & ((bits >> (SHIFT + WIDTH)) == wanted)
        histogram += tl.histogram((bits >> SHIFT) & ((1 << WIDTH) - 1), 1 << WIDTH, counted)
    # integers: the order of the additions does not matter
    address = counts + tl.arange(0, 1 << WIDTH)
    tl.atomic_add(address, histogram.to(tl.int64), histogram > 0, sem="relaxed")


def digit_counts(
    values: Tensor,
    valid: Tensor,
    prefix: Tensor,
    shift: int,
    width: int,
    skip: Tensor | None = None,
) -> Tensor:
    """Count each digit among the valid values whose higher bits are `prefix`: (1 << width,) int64.

    A value is the 31 bits of its float32 without the sign; its digit is the `width` bits from
    `shift` on. values >= 0 of any shape, valid bool of the same; prefix (1,) int64 on the device,
    which the first round (shift + width = 31) ignores. Where `skip` (0-d bool, on the device) is
    set, nothing is read or counted.
    """
    counts = torch.zeros(1 << width, dtype=torch.int64, device=values.device)
    skip = torch.zeros((), dtype=torch.bool, device=values.device) if skip is None else skip
    BX = 2048
    with torch.cuda.device_of(values):
        digit_counts_kernel[(min(triton.cdiv(values.numel(), BX), 512),)](
            values.contiguous(), valid.contiguous().view(torch.uint8), prefix,
            skip.view(torch.uint8), counts, values.numel(), SHIFT=shift, WIDTH=width, BX=BX,
        )  # fmt: skip
    return counts


def probe(device: torch.device | str) -> None:
    """Build and run small cases of all kernels."""
    values = torch.zeros((1, 2, 2), device=device)
    target = torch.zeros((1, 2, 2), dtype=torch.int64, device=device)
    class_values(class_sums(values, target, 2, 255), target, 255)
    prefix = torch.zeros(1, dtype=torch.int64, device=device)
    for shift in (23, 0):
        digit_counts(values, target == 0, prefix, shift, 8)
