"""Reads a data set's masks once before training: what is in them, and what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from segtrain.data.formats import Sample
from segtrain.data.images import upright_size
from segtrain.data.masks import UNKNOWN, MaskReader, Palette, read_values
from segtrain.errors import SegtrainError, listing
from segtrain.progress import bar


@dataclass(frozen=True)
class PairFacts:
    """One pair: the upright image's (height, width), and the mask's pixels by value."""

    sample: Sample
    size: tuple[int, int]
    values: dict[int, int]


def scan_pairs(samples: list[Sample], palette: Palette | None) -> list[PairFacts]:
    """Facts of every pair, read on all cores. Raises SegtrainError that names what is wrong.

    Images are read up to their headers only, masks wholly.
    """
    facts = _on_all_cores(lambda sample: _pair_facts(sample, palette), samples)
    _raise_first([fact for fact in facts if isinstance(fact, SegtrainError)])
    return facts


def check_values(facts: list[PairFacts], masks: MaskReader) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class (C,), and valid pixels of the masks that have the class (C,).

    Raises SegtrainError for values that are no class, by file.
    """
    by_mask, problems = np.zeros((len(facts), masks.num_classes), dtype=np.int64), []
    for pixels, fact in zip(by_mask, facts):
        values = np.array(list(fact.values))
        ids = masks.ids(values)
        unknown = {int(v): fact.values[int(v)] for v in values[ids == UNKNOWN]}
        if unknown:
            problems.append(SegtrainError(masks.explain(fact.sample.mask, unknown)))
        for value, class_id in zip(values.tolist(), ids.tolist()):
            if class_id not in (UNKNOWN, masks.lb_ignore):
                pixels[class_id] += fact.values[value]
    _raise_first(problems)
    return by_mask.sum(0), ((by_mask > 0) * by_mask.sum(1, keepdims=True)).sum(0)


def values_found(facts: list[PairFacts]) -> set[int]:
    return set().union(*(fact.values for fact in facts))


def median_size(facts: list[PairFacts]) -> tuple[int, int]:
    """(height, width): the median of each over the images."""
    height, width = np.median([fact.size for fact in facts], axis=0)
    return int(height), int(width)


def _pair_facts(sample: Sample, palette: Palette | None) -> PairFacts | SegtrainError:
    try:
        size = upright_size(sample.image)
        values = read_values(sample.mask, palette)
    except SegtrainError as error:
        return error
    if values.shape != size:
        return SegtrainError(
            f"sizes differ: {sample.image} is {size[1]}x{size[0]} (width x height), "
            f"{sample.mask} is {values.shape[1]}x{values.shape[0]}"
        )
    return PairFacts(sample, size, _pixels_by_value(values))


def _pixels_by_value(values: np.ndarray) -> dict[int, int]:
    if values.dtype == np.uint16:  # counting is far quicker than the sort of np.unique
        histogram = np.bincount(values.ravel())
        found = np.flatnonzero(histogram)
        return dict(zip(found.tolist(), histogram[found].tolist()))
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist()))


def _on_all_cores(function: Callable, items: list) -> list:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
        return list(bar(pool.map(function, items), "reading masks", len(items)))


def _raise_first(problems: list[SegtrainError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SegtrainError(f"{len(problems)} pairs cannot be used: {listing(problems)}")
