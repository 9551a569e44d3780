"""Mask file -> class ids: where silent errors are stopped."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segtrain.data.images import open_upright
from segtrain.errors import SegtrainError, listing

Palette = Sequence[tuple[int, int, int]]
UNKNOWN = -32768  # marks mask values that are neither a class nor ignored
MOST_CLASSES_GUESSED = 32  # beyond, a line that maps them all helps nobody
GREY_MODES = {"1", "L", "P", "I", "I;16", "I;16B"}


def read_values(path: Path, palette: Palette | None) -> np.ndarray:
    """The mask's values (H,W): grey levels, palette indices, or for RGB places in `palette`.

    Raises SegtrainError for a damaged file and for RGB colours that the palette lacks.
    """
    mask = open_upright(path)
    if mask.mode in GREY_MODES:
        return np.asarray(mask).astype(np.int64 if mask.mode == "I" else np.uint16)
    if mask.mode in ("RGB", "RGBA"):
        return _colours_to_values(np.asarray(mask)[..., :3], palette, path)
    if mask.mode == "LA":
        return np.asarray(mask)[..., 0].astype(np.uint16)
    raise SegtrainError(f"{path}: masks are grey, palette or RGB images, this one is {mask.mode}")


def _colours_to_values(rgb: np.ndarray, palette: Palette | None, path: Path) -> np.ndarray:
    codes = _code(rgb)
    if not palette:
        found = _colour_counts(codes)
        raise SegtrainError(
            f"{path}: an RGB mask needs data.palette, the colour of each class in id order; "
            f"found {listing(found)}{lossy_hint(path)}"
        )
    known = _code(np.array(palette, dtype=np.uint8))
    order = known.argsort(kind="stable")
    place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    matched = known[order][place] == codes
    if not matched.all():
        unknown = listing(_colour_counts(codes[~matched])) + lossy_hint(path)
        raise SegtrainError(f"{path}: colours that data.palette lacks: {unknown}")
    return order[place].astype(np.uint16)


def _code(rgb: np.ndarray) -> np.ndarray:
    """(...,3) uint8 -> (...) one integer a colour."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _colour_counts(codes: np.ndarray) -> list[str]:
    found, counts = (part.tolist() for part in np.unique(codes, return_counts=True))
    return [
        f"{code >> 16, code >> 8 & 255, code & 255} ({count} px)"
        for code, count in Counter(dict(zip(found, counts))).most_common()
    ]


def lossy_hint(path: Path) -> str:
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    return " (JPEG changes labels: save masks as PNG)" if lossy else ""


class MaskReader:
    """Reads masks as class ids: the label map applied, anything unknown refused.

    A value that `label_map` names becomes what it says; any other stays as it is and must be a
    class id or `lb_ignore`. Nothing is clipped.
    """

    def __init__(
        self,
        num_classes: int,
        label_map: Mapping[int, int | str] = {},
        lb_ignore: int = 255,
        palette: Palette | None = None,
    ):
        self.num_classes = num_classes
        self.lb_ignore = lb_ignore
        self.palette = palette
        # a table of all values from the lowest to the highest that mean something
        self.lowest = min(0, lb_ignore, *label_map)
        highest = max(num_classes - 1, lb_ignore, *label_map)
        self.table = np.full(highest - self.lowest + 3, UNKNOWN, dtype=np.int16)
        meaning = {i: i for i in (*range(num_classes), lb_ignore)} | dict(label_map)
        for value, label in meaning.items():
            self.table[value - self.lowest + 1] = lb_ignore if label == "ignore" else label

    def __call__(self, path: Path) -> np.ndarray:
        """The mask as (H,W) int16 of class ids and lb_ignore. Raises SegtrainError."""
        values = read_values(path, self.palette)
        ids = self.ids(values)
        if (ids == UNKNOWN).any():
            found, counts = np.unique(values[ids == UNKNOWN], return_counts=True)
            raise SegtrainError(self.explain(path, dict(zip(found.tolist(), counts.tolist()))))
        return ids

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Class ids of mask values (any shape), UNKNOWN where there is none."""
        places = values.astype(np.int64) - self.lowest + 1
        return self.table.take(places, mode="clip")  # both ends mean nothing

    def explain(self, path: Path, unknown: Mapping[int, int]) -> str:
        """What to say of values that are neither a class nor ignored; value: pixels."""
        found = listing(f"{value} ({count} px)" for value, count in sorted(unknown.items()))
        return (
            f"{path} has value {found}, but classes are 0..{self.num_classes - 1} and "
            f"{self.lb_ignore} is ignored{lossy_hint(path)}; mend the mask, or map the value: "
            f"data.label_map: {{{min(unknown)}: ignore}}"
        )


def find_num_classes(values: set[int], label_map: Mapping[int, int | str], lb_ignore: int) -> int:
    """The number of classes where nobody named them: the ids found must be 0..max, two or more.

    Raises SegtrainError with the lines that could be meant where that would be a guess.
    """
    labels = {label_map.get(value, value) for value in values}
    ids = labels - {"ignore", lb_ignore}
    if len(ids) >= 2 and ids == set(range(len(ids))):
        return len(ids)
    raw = sorted(values)
    if len(raw) > MOST_CLASSES_GUESSED:
        raise SegtrainError(
            f"the training masks hold {len(raw)} values ({listing(raw, 8)}), which are not class "
            "ids 0..max; masks drawn with smooth edges or saved as JPEG look so: save them as PNG "
            "without, or name the classes with data.classes and data.label_map"
        )
    renumbered = {value: place for place, value in enumerate(raw) if value != place}
    kept = [value for value in raw if value != lb_ignore and label_map.get(value) != "ignore"]
    ignored = {value: place for place, value in enumerate(kept) if value != place}
    ways = [f"data.label_map: {_yaml_map(renumbered)} makes classes of all {len(raw)} values"]
    if lb_ignore in values:
        ways.append(
            f"data.label_map: {_yaml_map(ignored | {lb_ignore: 'ignore'})} ignores {lb_ignore} and "
            f"leaves {len(kept)} class{'es' if len(kept) != 1 else ''}"
            + (" (too few to train: two are the least)" if len(kept) < 2 else "")
        )
    elif len(ids) >= 2:
        ways.append(f"data.classes with {max(kept) + 1} names keeps the ids as they are")
    raise SegtrainError(
        f"the training masks hold the values {listing(raw, 8)}, which are not class ids 0..max "
        f"of two classes or more (data.lb_ignore is {lb_ignore}); say what they mean: "
        + ", or ".join(ways)
    )


def _yaml_map(labels: Mapping[int, int | str]) -> str:
    return "{" + ", ".join(f"{value}: {label}" for value, label in labels.items()) + "}"


def class_palette(
    num_classes: int, palette: Palette | None, label_map: Mapping[int, int | str]
) -> list[tuple[int, int, int]]:
    """One colour a class: of the first mask value that means it, else evenly spread hues."""
    if not palette:
        hues = (0.58 + 0.618034 * i for i in range(num_classes))  # golden ratio: neighbours differ
        return [_rgb(hue % 1, 0.75, 0.95 - 0.3 * (i % 2)) for i, hue in enumerate(hues)]
    meaning = [label_map.get(value, value) for value in range(len(palette))]
    return [tuple(palette[meaning.index(c) if c in meaning else c]) for c in range(num_classes)]


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
