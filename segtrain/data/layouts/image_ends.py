"""Endings of images' names where there are several: one a split, or one a channel."""

from __future__ import annotations

from collections import Counter

from segtrain.data.layouts.name_ends import cut_longest
from segtrain.data.layouts.pair_finder import Candidate

USUAL = 0.5  # share of the most frequent ending's images, below which others are strays


def find_image_ends(found: Candidate) -> dict[str, str]:
    """Return the ending of images by split, where each split has its own: DRIVE's _training."""
    endings = list(found.agreement.image_endings)
    if len(endings) < 2 or are_channels(found, endings):
        return {}
    ends = {}
    for split in found.splits:
        counts = Counter(
            end for cuts in _image_cuts(found, [split], endings).values() for end in cuts
        )
        most = max(counts.values(), default=0)
        clear = [end for end, count in counts.items() if count >= USUAL * most]
        if len(clear) != 1:
            return {}
        ends[split] = clear[0]
    return ends if len(set(ends.values())) > 1 else {}


def are_channels(found: Candidate, endings: list[str]) -> bool:
    """Return whether one image of one split has several of the endings, as a rule."""
    cuts = _image_cuts(found, found.splits, endings)
    several = sum(len(ends) > 1 for ends in cuts.values())
    return several > USUAL * min(sum(end in ends for ends in cuts.values()) for end in endings)


def _image_cuts(
    found: Candidate, splits: list[str], endings: list[str]
) -> dict[tuple[str, ...], set[str]]:
    """Return the endings of each image, by split, subfolder and what is left of its name."""
    longest = sorted(endings, key=len, reverse=True)
    cuts: dict[tuple[str, ...], set[str]] = {}
    for split in splits:
        for where, stem in found.images.stems([split], found.flat, found.keyed):
            core, end = cut_longest(stem, found.agreement.image[0], longest)
            if core:
                cuts.setdefault((split, where, core), set()).add(end)
    return cuts
