"""Masks of one binary file a class: found by name or folder, merged when read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from segtrain.data.drawn import DrawnMask
from segtrain.data.masks import LOSSY, grey_values
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError, shorten

NUMBER = re.compile(r"[-_. (]*\d+\)?$")  # an object's: mask_1, mask (1)
CLASS_WORDS = {"", "class", "cls", "category", "type"}  # whose numbers are those of classes
SAMPLES = 5  # masks of each class that are read to see that they are binary
MOST_SHARED = 0.25  # of the smaller mask's pixels; classes share a few at their borders


@dataclass(frozen=True)
class ClassMasks(DrawnMask):
    """The mask of one image, merged from a binary file for each class that it has.

    Values are class ids, 0 where no class is, and `overlap` where several are.
    """

    parts: tuple[tuple[int, Path], ...]  # class id, its file
    overlap: int

    def __str__(self) -> str:
        return " + ".join(str(path) for _, path in self.parts)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for _, path in self.parts)

    def values(self, max_pixels: int) -> np.ndarray:
        """Return (H,W) int32. Raises SegtrainError for a file that isn't binary, and for sizes."""
        merged = np.zeros(0, np.int32)
        for class_id, path in self.parts:
            inside = read_binary(path, max_pixels)
            if not merged.size:
                merged = np.zeros(inside.shape, np.int32)
            if inside.shape != merged.shape:
                raise SegtrainError(
                    f"{path}: its size differs from that of {self.parts[0][1].name}, another "
                    "class's mask of the image"
                )
            free = np.isin(merged[inside], (0, class_id))  # objects of a class may touch
            merged[inside] = np.where(free, class_id, self.overlap)
        return merged


def read_binary(path: Path, max_pixels: int) -> np.ndarray:
    """Return where a mask of 0 and one other value isn't 0: bool (H,W). Raises SegtrainError."""
    stored = read_mask(path, max_pixels)
    if stored.lossy:
        raise SegtrainError(f"{path}: {LOSSY}; save masks as PNG")
    values = grey_values(stored.values)
    others = np.unique(stored.values if values is None else values[values != 0])
    if values is None or len(others) > 1:
        raise SegtrainError(
            f"{path}: a mask of one class has 0 and one other value, this one has "
            f"{shorten(others.tolist())}"
        )
    return values != 0


def are_binary(paths: Sequence[Path], max_pixels: int) -> bool:
    """Return whether most of a few masks are binary, and one of them isn't empty."""
    seen = []
    for path in sorted(paths)[:SAMPLES]:
        with suppress(SegtrainError):
            seen.append(bool(read_binary(path, max_pixels).any()))
    return any(seen) and len(seen) > min(len(paths), SAMPLES) / 2


def measure_overlaps(
    variants: Sequence[Mapping[str, str]], root: Path, max_pixels: int
) -> dict[tuple[int, int], float]:
    """Return the share of the smaller one's pixels that two variants have in common, by both.

    Of a few images with most masks, and one of each variant; MOST_SHARED is what classes may have.
    """
    counts = Counter(core for files in variants for core in files)
    most = sorted(counts, key=lambda core: (-counts[core], core))
    first = [next(core for core in most if core in files) for files in variants if files]
    shared: Counter[tuple[int, int]] = Counter()
    smaller: Counter[tuple[int, int]] = Counter()
    for core in dict.fromkeys(most[:SAMPLES] + first):
        inside = {}
        for place, files in enumerate(variants):
            if core in files:
                with suppress(SegtrainError):
                    inside[place] = read_binary(root / files[core], max_pixels)
        for (one, mine), (other, theirs) in combinations(inside.items(), 2):
            if mine.shape == theirs.shape:
                shared[one, other] += int(np.count_nonzero(mine & theirs))
                smaller[one, other] += int(min(mine.sum(), theirs.sum()))
    return {pair: shared[pair] / pixels for pair, pixels in smaller.items() if pixels}


def label_variants(variants: Sequence[str]) -> list[str]:
    """Return the names of classes by what tells their files apart, without what all share."""
    cut = [variant.strip("_-. /") for variant in variants]
    for _ in range(2):  # beginnings, then endings
        words = [re.split("[-_/]", name) for name in cut]
        while len({name[0] for name in words}) == 1 and all(len(name) > 1 for name in words):
            words = [name[1:] for name in words]
        cut = ["_".join(name)[::-1] for name in words]
    return cut


def merge_variants(
    root: Path, variants: Sequence[tuple[int, Mapping[str, str]]]
) -> dict[str, ClassMasks]:
    """Return the masks by what their files' names share, of class ids 1, 2, ... and their files."""
    parts: dict[str, list[tuple[int, Path]]] = {}
    for class_id, files in variants:
        for core, path in files.items():
            parts.setdefault(core, []).append((class_id, root / path))
    overlap = max(class_id for class_id, _ in variants) + 1
    return {core: ClassMasks(tuple(files), overlap) for core, files in parts.items()}


def group_objects(names: Sequence[str]) -> list[str]:
    """Return the names without the number at their end, if several then are one: road_0."""
    words = [NUMBER.sub("", name) for name in names]
    words = [n if w.lower() in CLASS_WORDS else w for w, n in zip(words, names, strict=True)]
    return words if len(set(words)) < len(words) else list(names)
