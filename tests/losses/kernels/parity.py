"""Run the Triton kernels in Triton's interpreter against float64 autograd.

A program for test_triton.py, with TRITON_INTERPRET=1 in its environment and names of cases as
arguments: prints one JSON line per case, with the deviation of each result in units of the allowed
one (so at most 1 is right).
"""

import json
import math
import sys
from functools import cache, partial
from inspect import getmembers

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def off(result: Tensor, reference: Tensor, rtol: float = 1e-6, atol: float = 5e-7) -> float:
    """Return the largest deviation in units of rtol * |reference| + atol; NaN where a NaN is."""
    if result.shape != reference.shape:
        return math.nan
    deviation = (result.double() - reference).abs() / (rtol * reference.abs() + atol)
    return deviation.nan_to_num(nan=math.inf).max().item() if deviation.numel() else 0.0


def wrong_unless(right: bool) -> float:
    return 0.0 if right else math.inf


def zero(tensor: Tensor) -> float:
    return wrong_unless(bool((tensor == 0).all()))


def reference(
    logits: Tensor, target: Tensor, upsample: int, align_corners: bool, powers, ignore: int
) -> tuple[Tensor, Tensor]:
    """nll and masses by torch's own ops, in float64."""
    if upsample > 1:
        logits = F.interpolate(
            logits, scale_factor=upsample, mode="bilinear", align_corners=align_corners
        )
    valid = target != ignore
    log_p = logits.where(valid.unsqueeze(1), 0).log_softmax(1)
    nll = -log_p.gather(1, target.where(valid, 0).unsqueeze(1)).squeeze(1).where(valid, 0)
    p = log_p.exp().where(valid.unsqueeze(1), 0)
    masses = [(p**k).sum((2, 3)) for k in powers]
    return nll, torch.stack(masses) if masses else p.new_zeros((0, *p.shape[:2]))


def labels(logits: Tensor, upsample: int, ignored: float = 0.1, ignore: int = IGNORE) -> Tensor:
    n, c, h, w = logits.shape
    target = torch.randint(0, c, (n, h * upsample, w * upsample))
    return target.where(torch.rand(target.shape) >= ignored, ignore)


def compare(
    logits: Tensor,
    target: Tensor,
    upsample: int = 1,
    align_corners: bool = False,
    powers: tuple[int, ...] = (),
    ignore: int = IGNORE,
    weight: Tensor | None = None,
    dense: bool = True,
    rtol: float = 1e-6,
    atol: float = 5e-7,
    grad_atol: float = 5e-6,
) -> dict[str, float]:
    """Compare values and gradients with the reference, for the same random weights of both."""
    from segtrain.losses.kernels.triton_nll import TritonPixels

    if weight is None:
        weight = torch.rand(target.shape)
    pull = torch.randn(len(powers), *logits.shape[:2])
    leaf = logits.detach().requires_grad_()
    nll, mass = TritonPixels.apply(leaf, target, ignore, upsample, align_corners, powers)
    (grad,) = torch.autograd.grad((weight * nll).sum() + (pull * mass).sum(), leaf)

    wide = logits.detach().double().requires_grad_()
    nll64, mass64 = reference(wide, target, upsample, align_corners, powers, ignore)
    (grad64,) = torch.autograd.grad((weight * nll64).sum() + (pull * mass64).sum(), wide)

    rounding = 3e-6 if logits.dtype == torch.float32 else torch.finfo(logits.dtype).eps
    like = grad.dtype == logits.dtype and (grad.stride() == logits.stride() or not dense)
    return {
        "nll": off(nll, nll64, rtol, atol),
        "mass": off(mass, mass64, 2e-6, max(2e-6, grad_atol)),
        "grad": off(grad, grad64, rounding, grad_atol),
        "float32": wrong_unless(nll.dtype == mass.dtype == torch.float32),
        "gradient like the logits": wrong_unless(like),
        "nll of ignored": zero(nll[target == ignore]),
    }


def parity(shape, dtype=torch.float32, channels_last=False, ignore=IGNORE, **kwargs):
    logits = (3 * torch.randn(shape)).to(dtype)
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    target = labels(logits, kwargs.get("upsample", 1), ignore=ignore)
    return compare(logits, target, ignore=ignore, **kwargs)


def strided():
    """Compare on a view that is dense along no axis, and a target that is not contiguous."""
    logits = torch.randn(2, 4, 6, 10)[:, ::2, :, ::2]
    target = torch.randint(0, 2, (2, 5, 6)).transpose(1, 2)
    return compare(logits, target, powers=(1,), dense=False)


def all_ignored(S):
    from segtrain.losses.kernels.triton_nll import TritonPixels

    logits = torch.randn(2, 3, 2, 3).requires_grad_()
    target = torch.full((2, 2 * S, 3 * S), IGNORE)
    nll, mass = TritonPixels.apply(logits, target, IGNORE, S, False, (1, 2))
    (grad,) = torch.autograd.grad(nll.sum() + mass.sum(), logits)
    return {"nll": zero(nll), "mass": zero(mass), "grad": zero(grad)}


def poisoned(powers):
    """NaN and infinities at ignored pixels."""
    logits = torch.randn(1, 3, 4, 5)
    target = labels(logits, 1)
    target[0, 1, :3] = IGNORE
    for column, poison in enumerate((math.nan, math.inf, -math.inf)):
        logits[0, column, 1, column] = poison
    return compare(logits, target, powers=powers)


def poisoned_upsampled():
    """Put a NaN into low-resolution logits where all outputs that blend it are ignored."""
    from segtrain.losses.kernels.triton_nll import TritonPixels

    logits = torch.randn(1, 3, 2, 4)
    target = labels(logits, 2)
    target[0, :, 5:] = IGNORE
    results = []
    for last in (0.0, math.nan):
        logits[0, :, :, 3] = last
        leaf = logits.detach().requires_grad_()
        nll, mass = TritonPixels.apply(leaf, target, IGNORE, 2, False, (1, 2))
        (grad,) = torch.autograd.grad((nll**2).sum() + (mass**2).sum(), leaf)
        results.append((nll, mass, grad))
    return {
        "the same": zero(torch.cat([(a - b).flatten() for a, b in zip(*results, strict=True)])),
        "gradient of the NaN": zero(results[1][2][..., 3]),
    }


def extreme(upsample):
    logits = 1e4 * torch.randint(-1, 2, (1, 5, 2, 12)).float()
    # float32 holds a loss of 1e4 to 1e-3, and so p to 1e-3 of itself
    return compare(logits, labels(logits, upsample), upsample, powers=(1, 2), grad_atol=2e-2)


def easy(classes):
    """Losses of about 1e-6: their digits, and those of the gradient, at the true class too."""
    logits = torch.rand(1, classes, 1, 16)
    target = torch.randint(0, classes, (1, 1, 16))
    gap = 14 + math.log(classes)
    logits.scatter_add_(1, target.unsqueeze(1), torch.full((1, 1, 1, 16), gap))
    return compare(logits, target, weight=torch.ones(1, 1, 16), atol=0, grad_atol=0)


def weightless(upsample):
    """Pixels of weight 0 pass on exactly 0, as under OHEM, even if their logits are infinite."""
    from segtrain.losses.kernels.triton_nll import TritonPixels

    logits = torch.randn(1, 3, 4, 4)
    logits[0, 0, 3, 3] = math.inf
    logits.requires_grad_()
    target = labels(logits, upsample, ignored=0)
    nll, _ = TritonPixels.apply(logits, target, IGNORE, upsample, False, ())
    weight = torch.zeros_like(nll)
    weight[0, 0, 0] = 1
    (grad,) = torch.autograd.grad(nll, logits, weight)
    near = grad[0, :, 0, 0].abs().max().item()
    grad[0, :, 0, 0] = 0
    return {"grad": zero(grad), "grad of the one pixel": wrong_unless(near > 0)}


def unknown_label(dtype):
    """Labels that are no class give NaN: there, and in the gradient, and nowhere else."""
    from segtrain.losses.kernels.triton_nll import TritonPixels

    wrong = {torch.int64: 2**32 + 1, torch.int32: -7, torch.uint8: 200}[dtype]
    target = torch.tensor([[[0, 1, 3, wrong, 255]]], dtype=dtype)
    logits = torch.randn(1, 3, 1, 5).requires_grad_()
    nll, _ = TritonPixels.apply(logits, target, IGNORE, 1, False, ())
    (grad,) = torch.autograd.grad(nll.sum(), logits)
    expected = torch.tensor([[False, False, True, True, False]])
    right = torch.equal(nll.isnan()[0], expected) and torch.equal(
        grad.isnan()[0], expected.expand(3, 1, 5)
    )
    return {"NaN": wrong_unless(right)}


def label_types(dtype, ignore):
    """Labels give the same in any type; a row that no block divides, so that some lie outside."""
    from segtrain.losses.kernels.triton_nll import TritonPixels

    logits, results = torch.randn(1, 3, 2, 5), []
    target = labels(logits, 2, ignore=ignore)
    for given in (target, target.to(dtype)):
        leaf = logits.clone().requires_grad_()
        nll, mass = TritonPixels.apply(leaf, given, ignore, 2, False, (1, 2))
        (nll.sum() + (mass**2).sum()).backward()
        results.append(torch.cat([t.detach().flatten() for t in (nll, mass, leaf.grad)]))
    return {"the same": zero(results[0] - results[1])}


def sums(classes, dtype=torch.int64, ignore=-1):
    from segtrain.losses.kernels.triton_reductions import class_sums, class_values

    values, target = torch.rand(2, 13, 17), torch.randint(0, classes, (2, 13, 17))
    target[torch.rand(target.shape) < 0.2] = ignore
    values[target == ignore] = math.nan
    target[0, 0, :2] = torch.tensor([classes + 1, 117])  # no class, in no sum
    onehot = target.unsqueeze(1) == torch.arange(classes)[:, None, None]
    exact = values.double().unsqueeze(1).where(onehot, 0).sum((2, 3))
    by_class = torch.randn(2, classes)
    spread = by_class[:, :, None, None].where(onehot, 0).sum(1)
    target = target.to(dtype)
    return {
        "sums": off(class_sums(values, target, classes, ignore), exact),
        "values": zero(class_values(by_class, target, ignore) - spread),
    }


def digits():
    """All rounds down to one value, in which every histogram counts."""
    from segtrain.losses.kernels.triton_reductions import digit_counts
    from segtrain.losses.selection import DIGITS

    values = 10 ** torch.empty(3, 11, 101).uniform_(-6, 1)
    values[0, 0] = 0.0
    values[0, 1] = -0.0
    values[0, 2] = 0.625
    valid = torch.rand(values.shape) < 0.8
    bits = [int(b) for b in values.abs().view(torch.int32)[valid]]
    sought = int(values[0, 2].view(torch.int32)[0])
    errors = {}
    for shift, width in DIGITS:
        prefix = sought >> (shift + width)
        expected = [0] * (1 << width)
        for value in bits:
            if value >> (shift + width) == prefix:
                expected[(value >> shift) % (1 << width)] += 1
        counts = digit_counts(values, valid, torch.tensor([prefix]), shift, width)
        right = counts.dtype == torch.int64 and counts.tolist() == expected and sum(expected) > 9
        errors[f"bits from {shift}"] = wrong_unless(right)
    skipped = digit_counts(values, valid, torch.tensor([0]), *DIGITS[0], torch.tensor(True))
    return errors | {"skipped": zero(skipped)}


def whole_losses(expression, upsample):
    """Compare a loss on the Triton path in all of its parts with plain float64."""
    from unittest import mock

    from segtrain.losses import build_loss, pixel_pass
    from segtrain.losses.kernels.paths import KernelPath

    low = torch.randn(2, 5, 2, 15) * 3
    target = torch.randint(0, 5, (2, 2 * upsample, 15 * upsample))
    target[torch.rand(target.shape) < 0.2] = 255
    results = []
    for dtype, path in ((torch.float64, "plain"), (torch.float32, "triton")):
        logits = low.to(dtype).requires_grad_()
        chosen = mock.Mock(return_value=KernelPath(path, ""))
        with mock.patch.object(pixel_pass, "choose_path", chosen):
            value = build_loss(expression, 5)(logits, target, upsample)
            value.backward()
        results.append((value.detach(), logits.grad))
    (expected, slopes), (value, gradient) = results
    return {"value": off(value, expected), "gradient": off(gradient, slopes)}


def probed():
    from segtrain.losses.kernels.paths import probe_kernels

    with torch.inference_mode():
        probe_kernels("cpu")
    return {"runs": 0.0}


def garbage_without_a_share(upsample, align):
    """Make the last column infinite where no valid pixel has a share of it."""
    from segtrain.losses.kernels.triton_nll import TritonPixels

    logits, size = torch.randn(1, 3, 2, 4), 4 * upsample
    clean, target = logits.clone(), torch.randint(0, 3, (1, 2 * upsample, size))
    place = torch.arange(size) * 3 / (size - 1)
    if not align:
        place = (torch.arange(size) + 0.5) / upsample - 0.5
    target[..., place > 2 + 1e-6] = 255
    logits[..., 3] = math.inf
    results = []
    for each in (clean, logits):
        leaf = each.clone().requires_grad_()
        nll, mass = TritonPixels.apply(leaf, target, 255, upsample, align, (1,))
        (nll.sum() + mass[..., 0].sum()).backward()
        results.append((nll.detach(), leaf.grad))
    (nll, grad), (spoilt_nll, spoilt_grad) = results
    same = torch.equal(nll, spoilt_nll) and torch.equal(grad, spoilt_grad)
    return {"same": wrong_unless(same and spoilt_grad[..., 3].eq(0).all())}


def cases() -> dict[str, partial]:
    found = {}
    for powers in ((), (1,), (2,), (1, 2), (2, 1)):
        found[f"direct {powers}"] = partial(parity, (2, 5, 2, 9), powers=powers)
    for shape in ((1, 2, 1, 1), (1, 19, 3, 5), (1, 150, 1, 6)):
        found[f"direct {shape}"] = partial(parity, shape, powers=(1, 2))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for last in (False, True):
            name = f"{str(dtype)[6:]} {'channels_last' if last else 'contiguous'}"
            found[f"direct {name}"] = partial(parity, (2, 19, 2, 6), dtype, last, powers=(1, 2))
            found[f"upsample {name}"] = partial(parity, (1, 5, 2, 3), dtype, last, upsample=2)
    shapes = {2: (2, 5, 2, 3), 3: (1, 9, 3, 2), 4: (1, 2, 2, 3), 8: (1, 2, 1, 2)}
    for upsample, shape in shapes.items():
        for align, powers in ((False, (1, 2)), (True, ())):
            name = f"upsample {upsample} {'corners' if align else 'half pixels'} {powers}"
            kwargs = dict(upsample=upsample, align_corners=align, powers=powers)
            found[name] = partial(parity, shape, **kwargs)
    for name, shape, align in (
        ("one pixel, corners", (1, 3, 1, 1), True),
        ("19 classes, corners", (1, 19, 2, 1), True),
        ("150 classes", (1, 150, 1, 1), False),
        ("wider than a program", (1, 2, 1, 35), False),
        ("higher than a program", (1, 2, 17, 1), False),
    ):
        found[f"upsample {name}"] = partial(parity, shape, upsample=2, align_corners=align)
    kwargs = dict(upsample=4, align_corners=True, powers=(2,))
    found["upsample 4 corners (2,)"] = partial(parity, (1, 3, 2, 2), **kwargs)
    for ignore in (-1, -100, 7):
        found[f"lb_ignore {ignore}"] = partial(parity, (1, 3, 4, 5), ignore=ignore)
    found["direct wider than a program"] = partial(parity, (1, 2, 2, 300), powers=(1,))
    found["strided"] = strided
    for powers in ((), (1, 2)):
        found[f"poisoned {powers}"] = partial(poisoned, powers)
    found["poisoned upsampled"] = poisoned_upsampled
    for upsample in (1, 2):
        found[f"all ignored {upsample}"] = partial(all_ignored, upsample)
        found[f"extreme {upsample}"] = partial(extreme, upsample)
        found[f"weightless {upsample}"] = partial(weightless, upsample)
    for classes in (2, 19, 150):
        found[f"easy {classes}"] = partial(easy, classes)
        found[f"class sums {classes}"] = partial(sums, classes)
    found["class sums uint8"] = partial(sums, 40, torch.uint8, IGNORE)
    for dtype, ignore in ((torch.uint8, IGNORE), (torch.int32, -100), (torch.int16, 300)):
        found[f"label type {dtype}"] = partial(label_types, dtype, ignore)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        found[f"unknown label {dtype}"] = partial(unknown_label, dtype)
    for upsample, align in ((3, False), (4, True), (2, False)):
        name = f"garbage without a share {upsample} {align}"
        found[name] = partial(garbage_without_a_share, upsample, align)
    for expression in ("ohem+0.5*dice", "topk(focal)", "ghm", "dice(squared=True)+jaccard"):
        for upsample in (1, 2):
            name = f"loss {expression} {upsample}"
            found[name] = partial(whole_losses, expression, upsample)
    return found | {"digits": digits, "probe": probed}


CASES = cases()


def index_by_scalars() -> None:
    """Let a loop's bound be an array of one element, which numpy 2.4 denies Triton 3.6."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_index


def remember_builtins() -> None:
    """Look up once what Triton's language has: the interpreter does at each call of a function."""
    from triton.runtime import interpreter

    @cache
    def builtins_of(package) -> list[str]:
        return [name for name, member in getmembers(package) if is_builtin(member)]

    def patch_builtin(package, builder, scope):
        for name in builtins_of(package):
            if is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    is_builtin = interpreter.tl.core.is_builtin
    interpreter._patch_builtin = patch_builtin


if __name__ == "__main__":
    index_by_scalars()
    remember_builtins()
    for case in sys.argv[1:]:
        torch.manual_seed(0)
        print(json.dumps({"case": case, "off": CASES[case]()}), flush=True)
