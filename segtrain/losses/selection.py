"""Selection of the largest values of a map over all devices, without sort or host sync."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from segtrain.losses.kernels.maps import keep_bits
from segtrain.losses.pixel_pass import Pixels, reads_freely
from segtrain.losses.reduce import global_sum, world_size

# shift and width of the digits of a float32 without its sign: for wider ones Triton 3.6 would need
# thousands of instructions
DIGITS = (23, 8), (15, 8), (7, 8), (0, 7)
CHUNK = 1 << 15  # values that one thread takes at once, in its cache
SAMPLED = 61  # one of so many values, and no divisor of usual widths


def select_hardest(
    pixels: Pixels, least: Tensor, threshold: float = math.inf
) -> tuple[Tensor, Tensor]:
    """Select the pixels with an NLL above `threshold`, or the `least` largest if those are fewer.

    Return their weights in a mean, (N,H,W) floats 0..1 without gradient, and the cutoff (0-d): the
    threshold, or the smallest NLL selected. NLLs tied at the cutoff share what is left of `least`
    (a 0-d integer over all devices, at least 1) evenly, so that nothing depends on an order.
    """
    nll, valid, total = pixels.nll.detach(), pixels.valid, pixels.total
    hard = nll > threshold  # no ignored pixel: their NLL is 0
    enough = total(torch.count_nonzero(hard)) >= least
    if reads_freely(nll) and enough:
        return hard.to(nll.dtype), nll.new_tensor(threshold)
    cutoff = kth_largest(nll, valid, least, pixels.sync, pixels.path == "triton", unused=enough)
    above, tied = nll > cutoff, (nll == cutoff).logical_and_(valid)
    left = least - total(torch.count_nonzero(above))
    share = left / total(torch.count_nonzero(tied)).clamp(min=1)
    weights = above.to(nll.dtype).masked_fill_(tied, share)
    if reads_freely(nll):  # and not enough
        return weights, cutoff
    return torch.where(enough, hard, weights), cutoff.masked_fill(enough, threshold)


def kth_largest(
    values: Tensor,
    valid: Tensor,
    k: Tensor,
    sync: bool = True,
    in_triton: bool = False,
    unused: Tensor | None = None,
) -> Tensor:
    """Return the k-th largest of the valid values (0-d), exactly; with `sync` over all devices.

    Values are >= 0, so the bits of float32 order as integers. One process on a CPU partitions them.
    Else four rounds of a histogram each narrow the k-th value down to one digit; histograms add
    over devices. `k` is a 0-d integer tensor, at least 1; with no valid value the result is 0.
    Where `unused` (0-d bool) is set, the result may be anything, and a GPU does not look for it.
    float64, which only tests use, has no 32-bit key and is sorted (one process).
    """
    if not values.numel():
        return values.new_zeros(())
    if values.dtype == torch.float64:
        descending = values.where(valid, 0).flatten().sort(descending=True).values
        return descending.gather(0, k.reshape(1) - 1).squeeze(0)
    if reads_freely(values) and (not sync or world_size() == 1):
        bits = keep_bits(valid, values.dtype).bitwise_and_(values.view(torch.int32))
        bits &= torch.iinfo(bits.dtype).max  # a loss of -0.0, or a NaN, may have the sign bit set
        found = kth_largest_key(bits.flatten().numpy(), int(k))
        return values.new_tensor(found.view(np.float32))
    total = global_sum if sync else (lambda counts: counts)
    count = digit_counter(in_triton, unused)
    prefix = torch.zeros(1, dtype=torch.int64, device=values.device)
    for shift, width in DIGITS:
        counts = total(count(values, valid, prefix, shift, width))
        at_least = counts.flip(0).cumsum(0).flip(0)  # values with this digit or a larger one
        chosen = ((at_least >= k).sum() - 1).clamp(min=0).reshape(1)
        k = k - (at_least - counts).gather(0, chosen)  # gather: an index by tensor would sync
        prefix = (prefix << width) | chosen
    return prefix.to(torch.int32).view(torch.float32).squeeze(0)


def kth_largest_key(keys: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th largest of the integers, (); it may change their order.

    A sample gives a bound that somewhat more than k exceed: a quarter of the time of all, most of
    which are small. Where fewer do, all are partitioned.
    """
    sample = np.sort(keys[::SAMPLED])
    bound = sample[max(0, len(sample) - 8 - int(1.3 * k / SAMPLED))]
    larger = keys[keys > bound]
    keys = larger if len(larger) >= k else keys
    keys.partition(len(keys) - k)
    return keys[len(keys) - k]


def digit_counter(
    in_triton: bool, unused: Tensor | None = None
) -> Callable[[Tensor, Tensor, Tensor, int, int], Tensor]:
    """Return the function that counts digits: (values, valid, prefix, shift, width) -> counts."""
    if in_triton:
        from segtrain.losses.kernels import triton_reductions

        return partial(triton_reductions.digit_counts, skip=unused)
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
        if shift + width < 31:
            counted = counted & (bits >> (shift + width) == prefix)
        digits = (bits >> shift) & ((1 << width) - 1)
        counts.scatter_add_(0, digits.long(), counted.long())
    return counts
