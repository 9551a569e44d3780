"""Beginnings and endings of names of images and masks, found by the part that they share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.pairing import drop_zeros, fold_name

PIVOTS = 30  # masks whose names are looked for in those of images
MOST_ENDS = 12  # pairs of beginning and ending that are counted on all files
MOST_CUTS = 40  # beginnings and endings of images that are tried
SHARED = 1 / 8  # share of the stems with a beginning that is tried: of one in several channels
ENOUGH = 0.9  # share of the smaller side that pairs: no longer cut is tried
BOUNDARY = re.compile(
    r"(?<=[a-z])(?=[^a-z])|(?<=[^a-zA-Z])(?=[a-zA-Z])|(?<=\d)(?=\D)|(?<=\D)(?=\d)|(?<=[A-Z])(?=[^a-zA-Z])"
)

SEPARATORS = set("_-. ")
Stem = tuple[str, str]  # what must be equal, such as split and subfolder; stem of the file's name
Ends = tuple[str, str]  # what a stem begins and ends with


@dataclass
class Agreement:
    """An agreement of names of images and of masks: what is cut from both, how many then pair."""

    image: Ends
    mask: Ends
    paired: int = 0  # images with a mask
    # masks of the same beginning by other endings: each may be a class, or another kind of mask
    endings: dict[str, int] = field(default_factory=dict)
    image_endings: dict[str, int] = field(default_factory=dict)  # likewise, of images with a mask
    padded: bool = False  # numbers have leading zeros on one side


def find_agreement(images: Sequence[Stem], masks: Sequence[Stem]) -> Agreement | None:
    """Return the shortest cut after which most names agree; None where no names do.

    Names of masks contain what is left of those of images. Where one list is both, no name pairs
    with itself.
    """
    same = images is masks
    smaller = len(images) / 2 if same else min(len(images), len(masks))
    if not same and (found := _agree(images, masks, ("", ""), False)):
        if found.paired >= ENOUGH * smaller and not any(found.mask):
            return found
    if constant := _match_constant(images, masks):
        return constant
    folded, plain = (
        [[(where, fold(stem)) for where, stem in side] for side in (images, masks)]
        for fold in (fold_name, drop_zeros)
    )
    ways = [(images, masks)]  # exactly, then in any case and Unicode form
    if folded != [images, masks]:
        ways.append((folded[0], folded[0] if same else folded[1]))
    best = _cut_shortest(ways, same, ENOUGH * smaller)
    if plain != folded and (best is None or best.paired < ENOUGH * smaller):
        images, masks = plain[0], plain[0] if same else plain[1]
        found = _cut_shortest([(images, masks)], same, ENOUGH * smaller)
        ends = "".join((*found.image, *found.mask)) if found else ""
        if found and found.paired >= ENOUGH * smaller and not re.search(r"\d", ends):
            best = replace(found, padded=True)
    if best and best.image[1] and not same and len(images) > best.paired:
        cores = {(where, cut_ends(stem, best.mask) or "") for where, stem in masks}
        best.image_endings = _count_endings(cores, images, best.image[0], None)
        longest = sorted(best.image_endings, key=len, reverse=True)
        cut = {(where, cut_longest(stem, best.image[0], longest)[0]) for where, stem in images}
        best.paired = max(best.paired, len(cores & cut))
    return best


def _cut_shortest(
    ways: Sequence[tuple[Sequence[Stem], Sequence[Stem]]], same: bool, enough: float
) -> Agreement | None:
    """Return the shortest cut after which `enough` names agree, else that of most names."""
    tries = [(way, ends) for way in ways for ends in _common_ends([stem for _, stem in way[0]])]
    best = None
    for (mine, theirs), ends in sorted(tries, key=lambda attempt: _length(attempt[1])):
        found = _agree(mine, theirs, ends, same)
        if found and found.paired < 2 and any((*found.image, *found.mask)):
            continue  # of one pair anything can be cut
        if found and (best is None or found.paired > best.paired):
            best = _with_separators(found, mine)
        if best and best.paired >= enough:
            break
    return best


def _match_constant(images: Sequence[Stem], masks: Sequence[Stem]) -> Agreement | None:
    """Return the agreement of sides that have one name each in all folders: img.png, mask.png."""
    names = [{stem for _, stem in side} for side in (images, masks)]
    if len(names[0]) != 1 or len(names[1]) != 1 or len(images) < 2 or names[0] == names[1]:
        return None
    both = {where for where, _ in images} & {where for where, _ in masks}
    return Agreement(("", min(names[0])), ("", min(names[1])), len(both)) if both else None


def _agree(
    images: Sequence[Stem], masks: Sequence[Stem], ends: Ends, same: bool
) -> Agreement | None:
    """Return the best cut of the masks' names for one cut of the images' names."""
    cores = set(images)
    if any(ends):
        cores = {(where, core) for where, stem in images if (core := cut_ends(stem, ends))}
    if not same and ends == ("", ""):
        count = len(cores.intersection(masks))
        if count >= ENOUGH * min(len(cores), len(masks)):
            return Agreement(ends, ends, count, {"": count})
    votes: Counter[Ends] = Counter()
    for where, stem in masks[:: max(1, len(masks) // PIVOTS)]:
        votes.update(_ends_around(where, stem, cores, ends if same else None))
    best, rank = None, (0, False)
    for mask_ends, _ in votes.most_common(MOST_ENDS):
        paired = {
            (where, core)
            for where, stem in masks
            if (core := cut_ends(stem, mask_ends)) and (where, core) in cores
        }
        named = read_name(" ".join(mask_ends)).is_mask  # x_mask_color also holds x_mask
        if best is None or (len(paired), named) > rank:
            best, rank = Agreement(ends, mask_ends, len(paired)), (len(paired), named)
    if best:
        own = ends if same else None
        if same:  # x_mask is no image that x_mask_1 is of
            cores = {(w, c) for w, c in cores if (w, cut_ends(c, best.mask) or "") not in cores}
        best.endings = _count_endings(cores, masks, best.mask[0], own)
    return best


def _ends_around(where: str, stem: str, cores: set[Stem], own: Ends | None) -> Iterator[Ends]:
    """Yield what is around the longest part of a stem that is a core, for each such part."""
    for length in range(len(stem), 0, -1):
        found = [
            (stem[:start], stem[start + length :])
            for start in range(len(stem) - length + 1)
            if (where, stem[start : start + length]) in cores
            and _is_boundary(stem, start)
            and _is_boundary(stem, start + length)
        ]
        found = [ends for ends in found if ends != own]
        yield from found
        if found:
            return


def _is_boundary(stem: str, place: int) -> bool:
    """Return whether a cut at a place divides no number and no word in small letters."""
    before, after = stem[place - 1 : place], stem[place : place + 1]
    return not (before.isdigit() and after.isdigit() or before.islower() and after.islower())


def _count_endings(
    cores: set[Stem], masks: Sequence[Stem], start: str, own: Ends | None
) -> dict[str, int]:
    """Return {ending: masks} of all masks that begin with `start` and go on with a core."""
    endings: Counter[str] = Counter()
    for where, stem in masks:
        for end in range(len(stem), len(start), -1) if stem.startswith(start) else ():
            core = (where, stem[len(start) : end])
            if core in cores and (start, stem[end:]) != own and _is_boundary(stem, end):
                endings[stem[end:]] += 1
                break
    return dict(sorted(endings.items()))


def _with_separators(found: Agreement, images: Sequence[Stem]) -> Agreement:
    """Return the agreement with the separators next to what is cut: mask_ instead of mask."""
    cores = [core for _, stem in images if (core := cut_ends(stem, found.image))]
    (start, end), (mask_start, mask_end) = found.image, found.mask
    first, last = {core[0] for core in cores}, {core[-1] for core in cores}
    if start and mask_start and len(first) == 1 and first <= SEPARATORS:
        start, mask_start = (text + min(first) for text in (start, mask_start))
    if end and mask_end and len(last) == 1 and last <= SEPARATORS:
        end, mask_end = (min(last) + text for text in (end, mask_end))
        found.endings = {min(last) + text: count for text, count in found.endings.items()}
    return replace(found, image=(start, end), mask=(mask_start, mask_end))


def cut_ends(stem: str, ends: Ends) -> str | None:
    """Return what is left of a stem between a beginning and an ending; None for others."""
    start, end = ends
    if len(stem) > len(start) + len(end) and stem.startswith(start) and stem.endswith(end):
        return stem[len(start) : len(stem) - len(end)]
    return None


def cut_longest(stem: str, start: str, endings: Sequence[str]) -> tuple[str, str]:
    """Return (what is left, ending) by the first of some endings, longest first; else two ''."""
    found = ((core, end) for end in endings if (core := cut_ends(stem, (start, end))))
    return next(found, ("", ""))


def _common_ends(stems: Sequence[str]) -> list[Ends]:
    """Return beginnings and endings that most stems have, the shortest first, cut at words."""
    sample = stems[:: max(1, len(stems) // 300)]
    starts = _shared_starts(sample)
    ends = [end[::-1] for end in _shared_starts([stem[::-1] for stem in sample])]
    both = [(start, end) for start in starts for end in ends]
    return sorted(both, key=_length)[:MOST_CUTS]


def _length(ends: Ends) -> tuple[bool, int]:
    """Return the key of an order of cuts: one side before both, then the shortest."""
    return all(ends), len(ends[0]) + len(ends[1])


def _shared_starts(stems: Sequence[str]) -> list[str]:
    """Return the beginnings, up to the end of a word, that a good part of the stems share."""
    counts = Counter(stem[: match.start()] for stem in stems for match in BOUNDARY.finditer(stem))
    least = max(SHARED * len(stems), min(2, len(stems)))
    return ["", *(start for start, count in counts.items() if start and count >= least)]
