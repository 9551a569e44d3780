"""EXIF orientations of photos, and what the sizes of their masks tell about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.data.findings import Finding
from segtrain.data.images import read_header
from segtrain.data.inspection.scan import PairFacts, UnreadablePair

UNCONFIRMED = (
    "look at 'segtrain check --preview FILE': where masks don't fit, data.exif: false reads photos "
    "as stored; data.exif: true ends this note"
)
LOOKED_AT = 50  # masks of a split whose headers are read for an orientation of their own
ScannedSplits = dict[str, list[PairFacts | UnreadablePair]]  # by split


def weigh_orientations(
    scanned: ScannedSplits, config: DataConfig
) -> tuple[ScannedSplits, list[Finding]]:
    """Find photos that EXIF turns, with masks that are as the camera stored the photos.

    A mask of the stored size of a photo turned by 90 degrees proves it for all turned photos, which
    are then returned with that size, as data.exif: false reads them.
    """
    if config.exif != "auto":
        return scanned, []
    turned = [
        pair
        for pairs in scanned.values()
        for pair in pairs
        if isinstance(pair, PairFacts) and pair.image.orientation != 1 and not _has_own_tag(pair)
    ]
    stored = [pair for pair in turned if pair.mask.size == _stored_size(pair) != pair.image.size]
    upright = any(pair.mask.size == pair.image.size != _stored_size(pair) for pair in turned)
    unproven = [pair for pair in turned if pair.mask.size == _stored_size(pair) == pair.image.size]
    if stored and not upright:
        text = (
            f"EXIF turns {_count_photos(turned)}, but their masks are as the photos are stored: "
            f"the sizes of {len(stored)} show it"
        )
        places = list(map(_describe, sorted(turned, key=lambda pair: pair not in stored)))
        finding = Finding("exif", True, text, places, "turn the masks, too", {"exif": False})
        return {split: [*map(_as_stored, pairs)] for split, pairs in scanned.items()}, [finding]
    if unproven and (stored or not upright):
        text = (
            f"EXIF turns or mirrors {_count_photos(unproven)}, not the masks; no size shows "
            "whether these fit"
        )
        places = list(map(_describe, unproven))
        return scanned, [Finding("exif", False, text, places, UNCONFIRMED)]
    return scanned, _note_turned_masks(scanned)


def _note_turned_masks(scanned: ScannedSplits) -> list[Finding]:
    """Find masks whose files have an orientation, of photos without one, among some of each split.

    Those turned by 90 degrees are errors of their sizes.
    """
    places = []
    for pairs in scanned.values():
        for pair in pairs[:: -(-len(pairs) // LOOKED_AT) or 1]:
            if isinstance(pair, PairFacts) and pair.image.orientation == 1 and _has_own_tag(pair):
                if pair.mask.size == pair.image.size:
                    places.append(str(pair.sample.mask))
    if not places:
        return []
    text = f"EXIF or TIFF turns or mirrors {len(places)} masks, not their photos"
    advice = "look at 'segtrain check --preview FILE': where they don't fit, save the masks again"
    return [Finding("exif", False, text, places, f"{advice}, without an orientation")]


def _describe(pair: PairFacts) -> str:
    return f"{pair.sample.image} (orientation {pair.image.orientation})"


def _has_own_tag(pair: PairFacts) -> bool:
    """Return whether the mask's file has an orientation, too: it is turned as the photo is."""
    mask = pair.sample.mask
    return isinstance(mask, Path) and read_header(mask)[0] != 1


def _stored_size(pair: PairFacts) -> tuple[int, int]:
    height, width = pair.image.size
    return (width, height) if pair.image.turned else (height, width)


def _as_stored(pair: PairFacts | UnreadablePair) -> PairFacts | UnreadablePair:
    if isinstance(pair, PairFacts) and pair.mask.size == _stored_size(pair):
        return replace(pair, image=replace(pair.image, size=_stored_size(pair)))
    return pair


def _count_photos(pairs: list[PairFacts]) -> str:
    return f"{len(pairs)} photo{'s' * (len(pairs) != 1)}"
