"""Transforms of albumentations for training pairs; the only file that imports albumentations."""

from __future__ import annotations

import inspect
import os
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before its import, which else asks the network

import albumentations as A
import cv2
import numpy as np
from pydantic import ValidationError

from segtrain.errors import UsageError, did_you_mean, first_line, translate_errors

CHOICES = {"OneOf": A.OneOf, "SomeOf": A.SomeOf, "Sequential": A.Sequential}  # take a list
TRANSFORMS = CHOICES | {
    name: member
    for name, member in vars(A).items()
    if inspect.isclass(member)
    and issubclass(member, A.BasicTransform)
    and member not in (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform, A.Transform3D)
}
PROBES = 3  # trial runs of each transform before training

PADDING = {"padding": "mask"}

Entry = str | dict[str, dict[str, Any]]


def build_transforms(
    entries: list[Entry], shape: tuple[int, int, int], fill: dict[str, Any]
) -> A.Compose | None:
    """Build a list such as [HorizontalFlip, {RandomGamma: {p: 0.3}}]; None if it is empty.

    The result takes image, mask and padding, a second mask that is moved like the first. `shape` is
    that of all images; `fill` has the values `fill` and `fill_mask` of padding in images and masks.
    Raises UsageError for entries that albumentations refuses or training can't use.
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
            f"{where} is not a transform of albumentations {A.__version__}"
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
        args["strict"] = True  # else it replaces some wrong values with its own, with a warning
    with translate_errors(lambda error: f"{where}: {_reason(error)}", UsageError):
        transform = known(**args)
        transform.add_targets(PADDING)
    _refuse_misfit(transform, shape, fill["fill_mask"])
    return transform


def _with_padding(
    where: str, args: dict[str, Any], takes: list[str], fill: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments with the fixed ones. Raises UsageError for other values of these."""
    fixed = {"mask_interpolation": cv2.INTER_NEAREST}
    if "border_mode" in takes:
        fixed |= {"border_mode": cv2.BORDER_CONSTANT} | fill
    elif "fill_mask" in takes:  # holes are ignored, unless the config says otherwise
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
    """Return the library's message in one line, with the argument that has a wrong value."""
    if not isinstance(error.__cause__, ValidationError):
        return first_line(error)
    wrong = error.__cause__.errors()[0]
    given = "" if wrong["type"] == "missing" or not wrong["loc"] else f", got {wrong['input']!r}"
    return ".".join(map(str, wrong["loc"])) + ": " * bool(wrong["loc"]) + wrong["msg"] + given


def _refuse_misfit(
    transform: A.BasicTransform, shape: tuple[int, int, int], lb_ignore: int
) -> None:
    """Raise UsageError for a transform whose results training can't use.

    It must give the same result for the same seed, and must treat masks as labels: swapping two
    labels must swap them in the result, which fails where masks are interpolated or computed with.
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
            with translate_errors(
                lambda error: f"{where} fails on a {shape} image: {_reason(error)}", UsageError
            ):
                # forced, or p would decide whether it is tried at all
                changed = transform(image=image.copy(), mask=mask, force_apply=True)
            for key, given in (("image", image), ("mask", mask)):
                result = changed[key]
                if result.shape != given.shape or result.dtype != given.dtype:
                    raise UsageError(
                        f"{where} turns the {key} of {given.dtype} {given.shape} into "
                        f"{result.dtype} {tuple(result.shape)}; size and type must stay"
                    )
            pairs.append((changed["image"], changed["mask"]))
        (image_one, mask_one), (image_other, mask_other) = pairs
        swapped = mask_one.copy()
        swapped[mask_one == one], swapped[mask_one == other] = other, one
        if not set(np.unique(mask_one)) <= {one, other, lb_ignore} or (swapped != mask_other).any():
            raise UsageError(
                f"{where} changes mask values, but masks hold class ids, which can only be "
                f"moved or set to data.lb_ignore ({lb_ignore})"
            )
        if (image_one != image_other).any():
            raise UsageError(f"{where} is random beyond its seed, so runs could not be repeated")
