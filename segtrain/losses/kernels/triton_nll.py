"""Triton kernels of the pixel pass for CUDA; plain.py is their reference.

Logits of any dtype and strides are read as they are; everything else is float32 in registers. With
`upsample` > 1 low-resolution logits are interpolated in registers too, so full-resolution logits
never exist. No float atomics: results repeat bit by bit. No host sync: a pass can be captured in a
CUDA graph.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segtrain.losses.kernels.first_order import first_order
from segtrain.losses.kernels.triton_bilinear import cell_start, fraction, lerp, neighbours

# ---- digits that tl.log and tl.exp lose near 0


@triton.jit
def log1p(u):
    """Return log(1 + u) for u >= 0."""
    t = u / (2 + u)  # log(1 + u) = 2 atanh(t)
    t2 = t * t
    series = 2 * t * (1 + t2 * (1 / 3 + t2 * (1 / 5 + t2 * (1 / 7 + t2 * (1 / 9)))))
    return tl.where(u < 0.5, series, tl.log(1 + u))


@triton.jit
def expm1(z):
    """Return exp(z) - 1 for z <= 0."""
    series = 1 + z / 5 * (1 + z / 6 * (1 + z / 7 * (1 + z / 8)))
    series = z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4 * series)))
    return tl.where(z > -0.5, series, tl.exp(z) - 1)


# ---- the pixel pass: a program has BX neighbouring pixels of one row, and loops over BC classes


@triton.jit
def read_labels(target, pixel, inside, lb_ignore):
    """Return labels of any integer type as int32, and `lb_ignore` outside."""
    label = tl.load(target + pixel, inside, 0)
    narrow = label.to(tl.int32)
    label = tl.where(narrow == label, narrow, -(2**31))  # of int64: no class either
    return tl.where(inside, label, lb_ignore)


@triton.jit
def segment(
    target, lb_ignore, h, w, H, W, sh, sw, S: tl.constexpr, ALIGN: tl.constexpr, BX: tl.constexpr
):
    """Return the image, offsets in maps (N,H,W), which are inside, labels, low-res positions."""
    n = tl.program_id(2).to(tl.int64)
    y = tl.program_id(1)
    x = tl.program_id(0) * BX + tl.arange(0, BX)
    pixel = (n * H + y) * W + x
    label = read_labels(target, pixel, x < W, lb_ignore)
    y0, y1, ty = neighbours(y, h, H, S, ALIGN)
    x0, x1, tx = neighbours(x, w, W, S, ALIGN)
    return n, pixel, x < W, label, (y0, y1, ty, x0, x1, tx, sh, sw)


@triton.jit
def read(plane, at, mask, other, S: tl.constexpr):
    """Return full-resolution logits at `at`; `plane` points to the first logit of the class."""
    y0, y1, ty, x0, x1, tx, sh, sw = at
    upper = plane + y0.to(tl.int64) * sh
    value = tl.load(upper + x0 * sw, mask, other).to(tl.float32)
    if S > 1:
        lower = plane + y1.to(tl.int64) * sh
        left = lerp(value, tl.load(lower + x0 * sw, mask, other).to(tl.float32), ty)
        right = tl.load(upper + x1 * sw, mask, other).to(tl.float32)
        right = lerp(right, tl.load(lower + x1 * sw, mask, other).to(tl.float32), ty)
        value = lerp(left, right, tx)
    return value


@triton.jit
def read_true(image, sc, label, valid, at, C, S: tl.constexpr):
    """Return logits of the true class. A label out of range gives NaN, no read out of bounds."""
    known = valid & (label >= 0) & (label < C)
    return read(image + tl.where(known, label, 0) * sc, at, known, float("nan"), S)


@triton.jit(do_not_specialize=["plain_sc"])
def nll_kernel(
    logits, target, nll, partial, lb_ignore, h, w, H, W, sn, sc, sh, sw, plain_sc,
    C: tl.constexpr, S: tl.constexpr, ALIGN: tl.constexpr, DENSE: tl.constexpr,
    P1: tl.constexpr, P2: tl.constexpr, BC: tl.constexpr, BX: tl.constexpr,
):  # fmt: skip
    """Store nll, and sums of p in slot P1 and of p^2 in slot P2; a slot of -1 means no sum."""
    n, pixel, inside, label, at = segment(target, lb_ignore, h, w, H, W, sh, sw, S, ALIGN, BX)
    valid = label != lb_ignore
    sc = sc if DENSE else plain_sc
    image = logits + n * sn
    x_y = read_true(image, sc, label, valid, at, C, S)
    # sum_c exp(x_c - x_y) = exp(top) * (others + exp(-top)): the true class, whose term is 1 before
    # the scaling, is not in `others`, so small sums keep their digits
    top = tl.zeros((BX,), tl.float32)
    others = tl.zeros((BX,), tl.float32)
    for c0 in range(0, C, BC):
        c = (c0 + tl.arange(0, BC))[:, None]
        # the mask knows nothing of labels: with it, a thread loads neighbours in one instruction
        d = read(image + c.to(tl.int64) * sc, at, inside & (c < C), 0.0, S) - x_y
        d = tl.where((c < C) & (c != label), d, float("-inf"))
        higher = tl.maximum(top, tl.max(d, 0))
        others = others * tl.exp(top - higher) + tl.sum(tl.exp(d - higher), 0)
        top = higher
    loss = tl.where(valid, top + log1p(others + (tl.exp(-top) - 1)), 0.0)
    tl.store(nll + pixel, loss, inside)

    if (P1 >= 0) or (P2 >= 0):
        program = (n * H + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        programs = tl.num_programs(2).to(tl.int64) * H * tl.num_programs(0)
        for c0 in range(0, C, BC):
            k = c0 + tl.arange(0, BC)
            c = k[:, None]
            d = read(image + c.to(tl.int64) * sc, at, inside & (c < C), 0.0, S) - x_y
            p = tl.where(valid & (c < C), tl.exp(d - loss), 0.0)
            if P1 >= 0:
                tl.store(partial + (P1 * programs + program) * C + k, tl.sum(p, 1), k < C)
            if P2 >= 0:
                tl.store(partial + (P2 * programs + program) * C + k, tl.sum(p * p, 1), k < C)


@triton.jit
def mass_slope(grad_mass, n, c, C, P1: tl.constexpr, P2: tl.constexpr):
    """Return g1 and 2 g2 of the classes c: the masses' gradient by p is g1 + 2 g2 p."""
    g1, g2 = 0.0, 0.0
    if P1 >= 0:
        g1 = tl.load(grad_mass + (P1 * tl.num_programs(2) + n) * C + c, c < C, 0.0)
    if P2 >= 0:
        g2 = 2 * tl.load(grad_mass + (P2 * tl.num_programs(2) + n) * C + c, c < C, 0.0)
    return g1, g2


@triton.jit
def logit_grad(p, true, loss, weight, g1, g2, pull, MASS: tl.constexpr):
    """Return the gradient by full-res logits; pull is the pixel's sum_c p_c (g1_c + 2 g2_c p_c)."""
    grad = weight * tl.where(true, expm1(-loss), p)  # p - 1, exact on easy pixels
    if MASS:
        grad += p * (g1 + g2 * p - pull)
    return grad


@triton.jit(do_not_specialize=["plain_sc"])
def grad_kernel(
    logits, target, nll, grad_nll, grad_mass, grad, pull_map, lb_ignore, h, w, H, W,
    sn, sc, sh, sw, gn, gc, gh, gw, plain_sc,
    C: tl.constexpr, S: tl.constexpr, ALIGN: tl.constexpr, DENSE: tl.constexpr,
    P1: tl.constexpr, P2: tl.constexpr, BC: tl.constexpr, BX: tl.constexpr,
):  # fmt: skip
    """Store the gradient by full-resolution logits; for S > 1 only the map of the pull."""
    MASS: tl.constexpr = (P1 >= 0) or (P2 >= 0)
    n, pixel, inside, label, at = segment(target, lb_ignore, h, w, H, W, sh, sw, S, ALIGN, BX)
    loss = tl.load(nll + pixel, inside, 0.0)
    weight = tl.load(grad_nll + pixel, inside, 0.0)
    live = label != lb_ignore
    if not MASS:
        live = live & (weight != 0)
    # nothing is read where no pixel of the program is live; a mask by pixels would split the loads
    read_any = inside & (tl.max(live.to(tl.int32), 0) > 0)
    sc = sc if DENSE else plain_sc
    image = logits + n * sn
    x_y = read_true(image, sc, label, live, at, C, S)
    pull = tl.zeros((BX,), tl.float32)
    if MASS:
        for c0 in range(0, C, BC):
            c = (c0 + tl.arange(0, BC))[:, None]
            logit = read(image + c.to(tl.int64) * sc, at, read_any & (c < C), 0.0, S)
            p = tl.exp(logit - x_y - loss)
            g1, g2 = mass_slope(grad_mass, n, c, C, P1, P2)
            pull += tl.sum(tl.where(live & (c < C), p * (g1 + g2 * p), 0.0), 0)
    if S > 1:
        tl.store(pull_map + pixel, pull, inside)
    else:
        y, _, _, x, _, _, _, _ = at
        for c0 in range(0, C, BC):
            c = (c0 + tl.arange(0, BC))[:, None]
            logit = read(image + c.to(tl.int64) * sc, at, read_any & (c < C), 0.0, S)
            p = tl.exp(logit - x_y - loss)
            g1, g2 = mass_slope(grad_mass, n, c, C, P1, P2)
            value = logit_grad(p, c == label, loss, weight, g1, g2, pull, MASS)
            value = tl.where(live, value, 0.0).to(grad.dtype.element_ty)
            address = grad + n * gn + c.to(tl.int64) * gc + y.to(tl.int64) * gh + x * gw
            tl.store(address, value, inside & (c < C))


# Not specialized: a class stride known to be 1, as in channels_last, would spread the classes over
# threads, and each would repeat the reads of label, nll and weight.
@triton.jit(do_not_specialize=["sc", "gc"])
def grad_upsampled_kernel(
    logits, target, nll, grad_nll, grad_mass, grad, pull_map, lb_ignore, h, w, H, W,
    sn, sc, sh, sw, gn, gc, gh, gw, per_cell,
    C: tl.constexpr, S: tl.constexpr, ALIGN: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    BC: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Gradient by low-resolution logits: the transposed interpolation, cell by cell.

    A program owns BH rows and BW - 1 columns of BC classes; a thread keeps the corners of its cells
    and their gradients in registers. The share of a cell's right corners moves to the next thread,
    that of the lower corners to the next row of cells. Only the cells above and left of the
    program's own are computed twice.
    """
    MASS: tl.constexpr = (P1 >= 0) or (P2 >= 0)
    n = tl.program_id(2).to(tl.int64)
    blocks: tl.constexpr = (C + BC - 1) // BC
    c = ((tl.program_id(0) % blocks) * BC + tl.arange(0, BC))[:, None]
    column = tl.arange(0, BW)
    cell_x = (tl.program_id(0) // blocks) * (BW - 1) - 1 + column
    x_start = cell_start(cell_x, w, W, S, ALIGN)
    x_end = cell_start(cell_x + 1, w, W, S, ALIGN)
    x0 = tl.minimum(tl.maximum(cell_x, 0), w - 1)
    x1 = tl.minimum(cell_x + 1, w - 1)
    previous = tl.maximum(column - 1, 0) + tl.zeros((BC, BW), tl.int32)
    inside = (c < C) & (cell_x < w)
    image = logits + n * sn
    g1, g2 = mass_slope(grad_mass, n, c, C, P1, P2)
    first_row = tl.program_id(1) * BH
    below = tl.zeros((BC, BW), tl.float32)
    for cell_y in range(first_row - 1, tl.minimum(first_row + BH, h)):
        y0 = tl.maximum(cell_y, 0)
        y1 = tl.minimum(cell_y + 1, h - 1)
        upper = image + c * sc + y0 * sh
        lower = image + c * sc + y1 * sh
        upper_left = tl.load(upper + x0 * sw, inside, 0.0).to(tl.float32)
        lower_left = tl.load(lower + x0 * sw, inside, 0.0).to(tl.float32)
        upper_right = tl.load(upper + x1 * sw, inside, 0.0).to(tl.float32)
        lower_right = tl.load(lower + x1 * sw, inside, 0.0).to(tl.float32)
        total = below
        below = tl.zeros((BC, BW), tl.float32)
        y_end = cell_start(cell_y + 1, h, H, S, ALIGN)
        for y in range(cell_start(cell_y, h, H, S, ALIGN), y_end):
            ty = fraction(y, cell_y, h, H, S, ALIGN)
            x_left = lerp(upper_left, lower_left, ty)
            x_right = lerp(upper_right, lower_right, ty)
            left = tl.zeros((BC, BW), tl.float32)
            right = tl.zeros((BC, BW), tl.float32)
            for step in range(0, per_cell):
                x = x_start + step
                tx = fraction(x, cell_x, w, W, S, ALIGN)
                pixel = (n * H + y) * W + x
                label = read_labels(target, pixel, x < x_end, lb_ignore)
                live = label != lb_ignore
                loss = tl.load(nll + pixel, live, 0.0)
                weight = tl.load(grad_nll + pixel, live, 0.0)
                pull = 0.0
                if MASS:
                    pull = tl.load(pull_map + pixel, live, 0.0)
                else:
                    live = live & (weight != 0)
                x_y = read_true(image, sc, label, live, (y0, y1, ty, x0, x1, tx, sh, sw), C, S)
                p = tl.exp(lerp(x_left, x_right, tx) - x_y - loss)
                d = logit_grad(p, c == label, loss, weight, g1, g2, pull, MASS)
                d = tl.where(live, d, 0.0)
                left += (1 - tx) * d
                right += tx * d
            row = left + tl.gather(right, previous, 1)
            total += (1 - ty) * row
            below += ty * row
        if cell_y >= first_row:
            address = grad + n * gn + c * gc + cell_y * gh + cell_x * gw
            tl.store(address, total.to(grad.dtype.element_ty), inside & (column > 0))


def _slots(powers: tuple[int, ...]) -> dict[str, int]:
    """Return where the kernels put the sums of p and of p^2; -1 for a power not wanted."""
    return {f"P{k}": powers.index(k) if k in powers else -1 for k in (1, 2)}


def pixel_tile(logits: Tensor, upsample: int, stores: bool = False) -> dict[str, int]:
    """Return classes and pixels of a block; `stores`: it stores a gradient like the logits.

    DENSE tells the compiler the class stride. In channels_last, known to be 1, it spreads the
    classes over threads, which then exchange sums and repeat the reads of label, nll and weight. So
    it is known only where many classes, or stores, would touch too many lines of memory at once.
    """
    classes, last = triton.next_power_of_2(logits.shape[1]), logits.stride(1) == 1
    if last and upsample == 1 and (stores or logits.shape[1] * logits.element_size() > 64):
        return {"BC": min(classes, 8), "BX": 128, "num_warps": 4, "DENSE": True}
    # at full resolution one load of 16 bytes gives a thread several neighbouring pixels
    warps = 4 if upsample > 1 or last else 1
    return {"BC": min(classes, 4), "BX": 128, "num_warps": warps, "DENSE": not last}


def cell_tile(upsample: int, masses: bool) -> dict[str, int]:
    """Return classes, rows and columns of a block of low-res logits, as registers can hold."""
    return {"BC": 4 if masses else 8, "BH": triton.cdiv(32, upsample), "BW": 32, "num_warps": 1}


class TritonPixels(torch.autograd.Function):
    """Compute the NLL of each pixel, and class masses, directly from the logits.

    apply(logits, target, lb_ignore, upsample, align_corners, powers) -> nll, mass

    logits (N,C,h,w): float32, bfloat16 or float16, any strides. target (N,H,W) int64 with
    H = h * upsample and W = w * upsample: 0..C-1, or `lb_ignore`. With upsample > 1 the softmax is
    that of the logits after F.interpolate(scale_factor=upsample, mode="bilinear").

    nll (N,H,W) float32: -log softmax of the true class, exactly 0 at ignored pixels.
    mass (len(powers),N,C) float32: sum of softmax ** k over valid pixels, k of `powers` 1 or 2.
    Ignored pixels get no gradient, whatever their logits hold. Any other label outside 0..C-1 gives
    NaN.
    """

    @staticmethod
    def forward(ctx, logits, target, lb_ignore, upsample, align_corners, powers):
        (N, C, h, w), (_, H, W) = logits.shape, target.shape
        target = target.contiguous()
        tile = pixel_tile(logits, upsample)
        columns = triton.cdiv(W, tile["BX"])
        nll = torch.empty((N, H, W), dtype=torch.float32, device=logits.device)
        partial = nll.new_empty((len(powers), N, H * columns, C))
        with torch.cuda.device_of(logits):
            nll_kernel[(columns, H, N)](
                logits, target, nll, partial, lb_ignore, h, w, H, W, *logits.stride(),
                logits.stride(1), C=C, S=upsample, ALIGN=align_corners, **_slots(powers), **tile,
            )  # fmt: skip
        ctx.save_for_backward(logits, target, nll)
        ctx.options = lb_ignore, upsample, align_corners, powers
        return nll, partial.sum(2)

    @staticmethod
    @first_order
    def backward(ctx, grad_nll, grad_mass):
        logits, target, nll = ctx.saved_tensors
        lb_ignore, upsample, align_corners, powers = ctx.options
        (N, C, h, w), (_, H, W) = logits.shape, target.shape
        grad = torch.empty_like(logits)
        pull_map = torch.empty_like(nll) if powers and upsample > 1 else nll
        tensors = logits, target, nll, grad_nll.contiguous(), grad_mass.contiguous(), grad, pull_map
        shape = lb_ignore, h, w, H, W, *logits.stride(), *grad.stride()
        options = dict(C=C, S=upsample, ALIGN=align_corners, **_slots(powers))
        if powers or upsample == 1:
            tile = pixel_tile(logits, upsample, stores=upsample == 1)
            grad_kernel[triton.cdiv(W, tile["BX"]), H, N](
                *tensors, *shape, logits.stride(1), **options, **tile
            )
        if upsample > 1:
            tile = cell_tile(upsample, bool(powers))
            blocks = triton.cdiv(w, tile["BW"] - 1) * triton.cdiv(C, tile["BC"])
            # with align_corners the cells are a little wider than `upsample`
            per_cell = triton.cdiv(W - 1, max(w - 1, 1)) if align_corners else 0
            grad_upsampled_kernel[blocks, triton.cdiv(h, tile["BH"]), N](
                *tensors, *shape, max(per_cell, upsample), **options, **tile
            )
        return grad, *[None] * 5


# ---- does Triton work on this machine?


def probe(device: torch.device | str) -> None:
    """Build and run small cases of all kernels; raise whatever Triton raises where it can't."""
    for upsample in (1, 2):
        logits = torch.zeros((1, 2, 2, 2), device=device, requires_grad=True)
        target = torch.zeros((1, 2 * upsample, 2 * upsample), dtype=torch.int64, device=device)
        nll, mass = TritonPixels.apply(logits, target, 255, upsample, False, (1,))
        (nll.sum() + mass.sum()).backward()
