"""Levels of masks: values at which pixels gather, unlike those along smooth or lossy edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from segtrain.data.inspection.scan import MaskFacts
from segtrain.data.masks import SMOOTH, decode_colour

NEAR, LOSSY_NEAR = 4, 8  # how far a level's values lie from it in copies of lossy files and in them
APART = 16  # smallest distance of levels that lossy compression leaves apart
FLAT = 0.05  # smallest share of flat pixels among those at a level
SECOND = 0.002  # share of a level's even blocks that two values of it have if these are two classes
COVERED = 0.25  # smallest share of flat pixels near levels where these are classes
FEW = 3  # values along edges that may be classes, such as a thin border
MOST_LEVELS = 64
MOST_SCATTERED = 16


@dataclass(frozen=True)
class Levels:
    """Levels of a set of masks, and the values that lie between them."""

    values: list[int]  # by value or colour code; of several near each other, the most frequent
    exact: list[int]  # all values with flat areas, near each other or not
    between: list[int] = field(default_factory=list)  # values far from all levels
    covered: bool = True  # they explain the flat areas, which most pixels are in
    settled: bool = True  # they are two or more, and too far apart for one to be taken for another
    lossy: bool = False  # some masks are compressed with loss
    soft: bool = False  # some masks are lossy or have smooth edges

    @property
    def scattered(self) -> bool:
        """Few values that gather nowhere, as ids of noise with a slip: edges have many."""
        few = len(self.values) + len(self.between) <= MOST_SCATTERED
        return few and not self.covered and not self.lossy


def find_levels(masks: Iterable[MaskFacts], values: Collection[int]) -> Levels:
    """Find the levels of masks among these values, or colour codes where they are coloured.

    Masks without `flat` have hard edges: each of their values is a level.
    """
    total, flat, even = Counter[int](), Counter[int](), Counter[int]()
    lossy = soft = coloured = False
    for mask in masks:
        counts = mask.colours or mask.values
        coloured |= bool(mask.colours)
        total.update(counts)
        flat.update(counts if mask.flat is None else mask.flat)
        even.update(counts if mask.flat is None else mask.even)
        lossy |= mask.lossy
        soft |= mask.lossy or mask.smooth > SMOOTH
    for value in total.keys() - values:  # nodata
        del total[value]
    near = LOSSY_NEAR if lossy else NEAR
    points = _Points(total, coloured)
    exact = points.gather(flat, 0)
    levels = points.gather(flat, near)
    if not coloured:  # lossy compression moves the outermost levels inwards
        ends = [end for end in (0, 255) if end in total]
        levels = [next((e for e in ends if abs(e - v) <= near), v) for v in levels]
    close = points.near(levels, near)
    covered = sum(flat[value] for value in close) >= COVERED * sum(total.values())
    distances = [points.distance(a, b) for a in levels for b in levels if a != b]
    apart = min(distances, default=0) >= APART or not lossy and len(levels) == len(exact)
    alone = not lossy or all(
        sum(even[v] > SECOND * sum(even[w] for w in around) for v in around) <= 1
        for around in (points.near([value], near) for value in levels)
    )
    return Levels(
        values=sorted(levels),
        exact=sorted(exact),
        between=sorted(total.keys() - close),
        covered=covered,
        settled=len(levels) >= 2 and covered and apart and alone,
        lossy=lossy,
        soft=soft,
    )


class _Points:
    """Values on a line, or colours in space, with their pixels."""

    def __init__(self, total: Mapping[int, int], coloured: bool):
        self.total = total
        self.codes = np.array(sorted(total), np.int64)
        self.counts = np.array([total[code] for code in self.codes.tolist()], np.int64)
        self.coloured = coloured
        places = [self._place(code) for code in self.codes.tolist()]
        self.places = np.array(places, np.int64).reshape(len(places), 3 if coloured else 1)

    def _place(self, code: int) -> tuple[int, ...]:
        return decode_colour(code) if self.coloured else (code,)

    def distance(self, a: int, b: int) -> int:
        return max(abs(i - j) for i, j in zip(self._place(a), self._place(b), strict=True))

    def _around(self, code: int, radius: int) -> np.ndarray:
        return np.abs(self.places - np.array(self._place(code))).max(1) <= radius

    def near(self, codes: Iterable[int], radius: int) -> list[int]:
        """Return the values at most `radius` from one of the codes."""
        masks = [self._around(code, radius) for code in codes]
        return self.codes[np.any(masks, axis=0)].tolist() if masks else []

    def gather(self, flat: Counter[int], radius: int) -> list[int]:
        """Return the values with most flat pixels, each with those at most `radius` from it."""
        areas = np.array([flat[code] for code in self.codes.tolist()], np.int64)
        free = areas > 0
        found: list[int] = []
        while free.any() and len(found) < MOST_LEVELS * (1 + 3 * (radius == 0)):
            code = int(self.codes[np.argmax(areas * free)])
            around = self._around(code, radius)
            if areas[around].sum() >= FLAT * self.counts[around].sum():
                found.append(code)
            free &= ~around
        return found
