"""Large images: TIFFs of more than data.windowed pixels become samples of one area each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise, product

from segtrain.console import Note
from segtrain.data.areas import Area
from segtrain.data.sample import Sample
from segtrain.data.tiff import read_tiff_size

SIDE = 4096  # pixels of an area, at most


def cut_splits(
    splits: Mapping[str, list[Sample]], windowed: int
) -> tuple[dict[str, list[Sample]], list[Note]]:
    """Return the splits with the areas of images of more than `windowed` pixels, and a note."""
    cut = {
        split: [part for sample in samples for part in _cut(sample, windowed)]
        for split, samples in splits.items()
    }
    areas = [s for samples in cut.values() for s in samples if s.area]
    if not areas:
        return cut, []
    images = len({sample.image for sample in areas})
    text = f"{images} image{'s' * (images > 1)} of more than {windowed} pixels (data.windowed)"
    side = min(SIDE, math.isqrt(windowed))
    return cut, [Note(f"{text}: read as {len(areas)} areas of up to {side}x{side}")]


def _cut(sample: Sample, windowed: int) -> Iterator[Sample]:
    """Yield the sample, or samples of areas of about one size that together are all of it."""
    height, width = whole = read_tiff_size(sample.image)
    if height * width <= windowed:
        yield sample
        return
    side = min(SIDE, math.isqrt(windowed))
    for (top, bottom), (left, right) in product(_divide(height, side), _divide(width, side)):
        yield replace(sample, area=Area(whole, top, bottom, left, right))


def _divide(length: int, longest: int) -> list[tuple[int, int]]:
    """Return the first pixel of each part of a side, and the one behind it."""
    count = -(-length // longest)
    return list(pairwise([i * length // count for i in range(count + 1)]))
