"""Indexed masks: values are indices into a palette of the file's own, and either may be meant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from segtrain.config.types import Colour
from segtrain.data.decoding import translate_decoding
from segtrain.data.formats import open_known
from segtrain.data.mask_options import MaskOptions
from segtrain.data.stored_masks import StoredMask
from segtrain.errors import SegtrainError

Palette = Sequence[Colour]
CONTRADICTION = (
    "indices and colours contradict; choose which counts: data.palette_by: colour, or "
    "data.palette_by: index"
)


class ContradictoryPalette(SegtrainError):
    """An indexed mask that means one thing by index and another by colour."""


def resolve_indices(mask: StoredMask, palette: Palette | None, options: MaskOptions) -> StoredMask:
    """Return a mask with what its indices stand for.

    With palette_by "colour" these are colours, and so are grey levels that `palette` has; with
    "index" the indices. By default, indices too, or the levels of a grey palette. Raises
    SegtrainError where an index lacks a colour, ContradictoryPalette by default where the file has
    colours of `palette` at other indices.
    """
    by_colour = options.palette_by == "colour"
    if mask.palette is None:
        if by_colour and palette and not options.grey_ids:
            return replace(mask, values=as_colours(mask.values, palette))
        return mask
    if options.palette_by == "index":
        return mask
    used = np.flatnonzero(np.bincount(mask.values.ravel()))  # far quicker than a sort
    if by_colour:
        if used[-1] >= len(mask.palette):
            raise SegtrainError(
                f"index {used[-1]} has no colour in its palette of {len(mask.palette)}; "
                "data.palette_by: index takes the indices"
            )
        return replace(mask, values=mask.palette[mask.values], palette=None)
    used = used[used < len(mask.palette)]
    if used.any() and (mask.palette[used] == used[:, None]).all():
        return replace(mask, palette=None)  # a grey mask, as GIF stores it: both mean the same
    if palette and is_reordered(mask.palette, used, palette):
        raise ContradictoryPalette(
            f"its own palette has colours of data.palette elsewhere: {CONTRADICTION}"
        )
    if len(used) and is_grey_scale(mask.palette, used):
        levels = np.arange(256, dtype=np.uint8)
        levels[: len(mask.palette)] = mask.palette[:256, 0]
        return replace(mask, values=levels[mask.values], palette=None)
    return mask


def is_indexed(path: Path) -> bool:
    """Return whether an image has a palette, by its header; False where that can't be read."""
    with suppress(SegtrainError), translate_decoding(path), open_known(path) as image:
        return image.mode in ("P", "PA")
    return False


def as_colours(values: np.ndarray, palette: Palette) -> np.ndarray:
    """Return grey levels of 8 bits or 1 as colours (H,W,3) where `palette` has all of them.

    Other values are ids, and returned as they are.
    """
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.dtype != np.uint8 or values.ndim != 2:
        return values
    known = {colour[0] for colour in palette if len(set(colour)) == 1}
    held = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    return np.stack([values] * 3, 2) if known.issuperset(held) else values


def is_reordered(own: np.ndarray, used: np.ndarray, palette: Palette) -> bool:
    """Return whether a file's palette has colours of `palette` at other indices.

    Any coloured one suffices; greys may be levels, so all must be known. Colours that a file has
    twice, and at the right index too, tell nothing.
    """
    known: dict[Colour, set[int]] = {}
    for index, colour in enumerate(palette):
        known.setdefault((colour[0], colour[1], colour[2]), set()).add(index)
    colours = [tuple(colour) for colour in own.tolist()]
    if len({colours[index] for index in used}) < len(used):
        return False  # by colour, classes would merge
    moved = any(
        index not in (right := known.get(colours[index], {index}))
        and not any(colours[other : other + 1] == [colours[index]] for other in right)
        for index in used
    )
    grey = all(len(set(colours[index])) == 1 for index in used)
    return moved and (not grey or all(colours[index] in known for index in used))


def is_grey_scale(own: np.ndarray, used: np.ndarray) -> bool:
    """Return whether the used colours of a palette are grey levels other than their indices.

    An even ramp from black to white isn't: it is put on class ids to show them. Nor is a palette
    that has a level twice, as an all-black one.
    """
    grey = (own == own[:, :1]).all(1)
    levels = np.where(grey, own[:, 0].astype(np.int16), -1)
    if not grey[used].all() or (levels[used] == used).all():
        return False
    first = np.array([np.flatnonzero(levels == levels[index])[0] for index in used])
    if (first != used).any():
        return False
    top = int(levels.argmax())
    ramp = np.arange(len(own)) * levels[top] / max(top, 1)
    return bool(levels[top] < 255 or top == 0 or (np.abs(levels - ramp)[used] > 1).any())
