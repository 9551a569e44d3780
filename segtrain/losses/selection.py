"""Selection of the k largest values of a map over all devices, without sort or host sync."""

from collections.abc import Callable

import torch
from torch import Tensor

from segtrain.losses.pixel_pass import Pixels
from segtrain.losses.reduce import global_sum

CHUNK = 1 << 15  # values that one thread takes at once, in its cache


def kth_largest(
    values: Tensor,
    valid: Tensor,
    k: Tensor,
    total: Callable[[Tensor], Tensor] = global_sum,
    in_triton: bool = False,
) -> Tensor:
    """Return the k-th largest of the valid values over all devices (0-d), exactly.

    Values are >= 0, so the bits of float32 order as integers: three rounds of a histogram, on 11,
    11 and 10 bits, each narrow the k-th value down to one digit. Histograms add over devices.
    `k` is a 0-d integer tensor; with no valid value the result is 0.
    float64, which only tests use, has no 32-bit key and is sorted (one process).
    """
    if values.dtype == torch.float64:
        descending = values.where(valid, 0).flatten().sort(descending=True).values
        return descending.gather(0, k.reshape(1) - 1).squeeze(0)
    count = digit_counter(in_triton)
    prefix = torch.zeros(1, dtype=torch.int64, device=values.device)
    for shift, width in ((21, 11), (10, 11), (0, 10)):
        counts = total(count(values, valid, prefix, shift, width))
        at_least = counts.flip(0).cumsum(0).flip(0)  # values with this digit or a larger one
        chosen = ((at_least >= k).sum() - 1).clamp(min=0).reshape(1)
        k = k - (at_least - counts).gather(0, chosen)  # gather: an index by tensor would sync
        prefix = (prefix << width) | chosen
    return prefix.to(torch.int32).view(torch.float32).squeeze(0)


def digit_counter(in_triton: bool) -> Callable[[Tensor, Tensor, Tensor, int, int], Tensor]:
    """Return the function that counts digits: (values, valid, prefix, shift, width) -> counts."""
    if in_triton:
        from segtrain.losses.kernels import triton_reductions

        return triton_reductions.digit_counts
    return digit_counts


def digit_counts(values: Tensor, valid: Tensor, prefix: Tensor, shift: int, width: int) -> Tensor:
    """Count valid values by the `width` bits above `shift`: int64 (2 ** width,).

    Only those count whose bits above the digit are `prefix` (1,).
    """
    counts = torch.zeros(1 << width, dtype=torch.int64, device=values.device)
    prefix = prefix.to(torch.int32)
    # on the CPU in chunks that stay in the cache
    size = CHUNK if values.device.type == "cpu" and not torch.compiler.is_compiling() else -1
    size = size if size > 0 else max(1, values.numel())
    parts = zip(values.flatten().split(size), valid.flatten().split(size), strict=True)
    for part, counted in parts:
        bits = part.abs().view(torch.int32)  # abs: a loss of -0.0 would have the sign bit set
        if shift + width < 32:
            counted = counted & (bits >> (shift + width) == prefix)
        digits = (bits >> shift) & ((1 << width) - 1)
        counts.scatter_add_(0, digits.long(), counted.long())
    return counts


def select_largest(pixels: Pixels, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the pixels in a mean over the k largest NLLs, and the k-th NLL (0-d).

    Weights (N,H,W) are floats like the NLL, 0..1 and without gradient. Values tied at the k-th
    share what is left of k evenly, so that nothing depends on an order.
    """
    nll, valid = pixels.nll.detach(), pixels.valid
    cutoff = kth_largest(nll, valid, k, pixels.total, pixels.path == "triton")
    above, tied = (nll > cutoff) & valid, (nll == cutoff) & valid
    left = k - pixels.total(above.sum())
    share = left / pixels.total(tied.sum()).clamp(min=1)
    return tied.to(nll.dtype).mul_(share).add_(above), cutoff
