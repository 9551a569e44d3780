"""A list of albumentations for training pairs; the only file that knows albumentations."""

from __future__ import annotations

import inspect
import os
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before its import: it never calls home

import albumentations as A
import cv2
import numpy as np
from pydantic import ValidationError

from segtrain.errors import UsageError, did_you_mean, first_line

CHOICES = {"OneOf": A.OneOf, "SomeOf": A.SomeOf, "Sequential": A.Sequential}  # of a list
TRANSFORMS = CHOICES | {
    name: found
    for name, found in vars(A).items()
    if inspect.isclass(found)
    and issubclass(found, A.BasicTransform)
    and found not in (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform, A.Transform3D)
}
# what a transform may raise that is given a wrong value, or a pair that it can't change
REFUSALS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    ImportError,
    OSError,
    cv2.error,
)
PROBES = 3  # runs of each transform before training

PADDING = {"padding": "mask"}

Entry = str | dict[str, dict[str, Any]]


def build_transforms(
    entries: list[Entry], shape: tuple[int, int, int], fill: dict[str, Any]
) -> A.Compose | None:
    """The transforms of a list such as [HorizontalFlip, {RandomGamma: {p: 0.3}}]; None if empty.

    Called with image, mask and padding, a second mask that is moved as the first is. shape is
    that of all images; fill has `fill` and `fill_mask`, what padding is in images and masks.
    Raises UsageError for what albumentations doesn't take or training can't use.
    """
    transforms = [_build(entry, shape, fill) for entry in entries]
    return A.Compose(transforms, additional_targets=PADDING) if transforms else None


def _build(
    entry: Entry, shape: tuple[int, int, int], fill: dict[str, Any]
) -> A.BasicTransform | A.BaseCompose:
    if not (isinstance(entry, str) or isinstance(entry, dict) and len(entry) == 1):
        raise UsageError(
            f"augment.transforms: expected a name or {{name: {{argument: value}}}}, got {entry!r}"
        )
    name, args = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    where = f"augment.transforms: {name}"
    if name not in TRANSFORMS:
        raise UsageError(
            f"{where} is no transform of albumentations {A.__version__}"
            f"{did_you_mean(name, TRANSFORMS)}"
        )
    known, args = TRANSFORMS[name], args or {}
    takes = [key for key in inspect.signature(known).parameters if key != "strict"]
    for key in args:
        if key not in takes:
            raise UsageError(
                f"{where} has no argument {key!r}{did_you_mean(key, takes)}; "
                f"it takes {', '.join(takes)}"
            )
    if name in CHOICES:
        args = args | {"transforms": [_build(e, shape, fill) for e in args.get("transforms", [])]}
    else:
        args = _with_padding(where, args, takes, fill)
    if "InitSchema" in vars(known):
        args["strict"] = True  # else it warns of some wrong values and takes its own
    try:
        transform = known(**args)
        transform.add_targets(PADDING)
    except REFUSALS as error:
        raise UsageError(f"{where}: {_reason(error)}") from error
    _refuse_misfit(transform, shape, fill["fill_mask"])
    return transform


def _with_padding(
    where: str, args: dict[str, Any], takes: list[str], fill: dict[str, Any]
) -> dict[str, Any]:
    """The arguments with those of them that are always the same. Raises UsageError for others."""
    fixed = {"mask_interpolation": cv2.INTER_NEAREST}
    if "border_mode" in takes:
        fixed |= {"border_mode": cv2.BORDER_CONSTANT} | fill
    elif "fill_mask" in takes:  # holes count nowhere, unless told otherwise
        args = {"fill_mask": fill["fill_mask"]} | args
    fixed = {key: value for key, value in fixed.items() if key in takes}
    for key, value in fixed.items():
        if not np.array_equal(args.get(key, value), value):
            raise UsageError(
                f"{where}: {key} is always {value}, not {args[key]}: images are padded with the "
                "mean, masks with data.lb_ignore, and never interpolated; leave it out"
            )
    return args | fixed


def _reason(error: BaseException) -> str:
    """What the library says in one line: of a wrong value, which argument's it is."""
    if not isinstance(error.__cause__, ValidationError):
        return first_line(error)
    wrong = error.__cause__.errors()[0]
    given = "" if wrong["type"] == "missing" or not wrong["loc"] else f", got {wrong['input']!r}"
    return ".".join(map(str, wrong["loc"])) + ": " * bool(wrong["loc"]) + wrong["msg"] + given


def _refuse_misfit(
    transform: A.BasicTransform, shape: tuple[int, int, int], lb_ignore: int
) -> None:
    """Raises UsageError for a transform whose results training can't use.

    It must repeat itself under the same seed, and masks are labels: other names for the classes
    must give the same mask by those names. What is interpolated or taken for numbers does not.
    """
    where, rng = f"augment.transforms: {type(transform).__name__}", np.random.default_rng(0)
    one, other = [label for label in (1, 2, 3) if label != lb_ignore][:2]
    dtype = np.uint8 if 0 <= lb_ignore <= 255 else np.int16
    image, first = rng.integers(256, size=shape, dtype=np.uint8), rng.random(shape[:2]) < 0.5
    for seed in range(PROBES):
        pairs = []
        for labels in ((one, other), (other, one)):
            mask = np.where(first, *labels).astype(dtype)
            transform.set_random_seed(seed)
            try:
                changed = transform(image=image.copy(), mask=mask, force_apply=True)
            except REFUSALS as error:
                raise UsageError(f"{where} fails on a {shape} image: {_reason(error)}") from error
            for key, given in (("image", image), ("mask", mask)):
                result = changed[key]
                if result.shape != given.shape or result.dtype != given.dtype:
                    raise UsageError(
                        f"{where} makes {result.dtype} {tuple(result.shape)} of the {key}'s "
                        f"{given.dtype} {given.shape}, which must stay"
                    )
            pairs.append((changed["image"], changed["mask"]))
        (image_one, mask_one), (image_other, mask_other) = pairs
        renamed = mask_one.copy()
        renamed[mask_one == one], renamed[mask_one == other] = other, one
        if not set(np.unique(mask_one)) <= {one, other, lb_ignore} or (renamed != mask_other).any():
            raise UsageError(
                f"{where} takes masks for numbers, but they hold class ids, which can only "
                f"be moved or ignored ({lb_ignore})"
            )
        if (image_one != image_other).any():
            raise UsageError(f"{where} is random beyond its seed, so that no run could be repeated")
