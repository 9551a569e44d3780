"""Photos where masks should be: folders that have changed places, overlays, probability maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segtrain.data.data_set import DataSource
from segtrain.data.findings import Finding
from segtrain.data.inspection.scan import MaskFacts, PairFacts, mask_facts
from segtrain.errors import SegtrainError

MOST_MASK_VALUES = 64  # values or colours of a mask that are counted as few
FREQUENT = 8  # so many values have most pixels of a mask, and few of a photo
DECODED = 6  # images that are read, spread over the set


def find_photos(source: DataSource, facts: Sequence[PairFacts]) -> list[Finding]:
    """Find masks that are photos: exchanged with images that are like masks, or most of all."""
    photos = [fact for fact in facts if _is_photo(fact)]
    if not photos:
        return []
    places = [str(fact.sample.mask) for fact in photos]
    if all(_has_few_values(fact) for fact in photos[:: -(-len(photos) // DECODED)]):
        text = (
            f"images and masks are exchanged: {len(photos)} masks hold photos, and their images "
            f"hold few values, such as {photos[0].sample.image}"
        )
        fix = _exchange(source, facts, photos)
        advice = "" if fix else "name each as the other: files, data.splits or columns of the list"
        return [Finding("exchanged", True, text, places, advice, fix)]
    if 2 * len(photos) < len(facts) or source.merged.classes:  # reported with their masks
        return []
    text = (
        f"{len(photos)} masks hold too many values for classes, and none that most pixels have: "
        "photos, overlays or probability maps?"
    )
    return [Finding("photos", True, text, places, "name the folder of class ids with data.splits")]


def _is_photo(fact: PairFacts) -> bool:
    mask = fact.mask
    height, width = mask.size
    frequent = sorted((mask.colours or mask.values).values())[-FREQUENT:]
    return (
        mask.flat is not None
        and mask.distinct > MOST_MASK_VALUES
        and 2 * sum(frequent) < height * width
    )


def _has_few_values(fact: PairFacts) -> bool:
    try:
        sample = replace(fact.sample, mask=fact.sample.image)
        image: MaskFacts = mask_facts(sample.mask_source, None)
    except SegtrainError:  # an image of many channels, such as .npy
        return False
    return image.distinct <= min(MOST_MASK_VALUES, fact.mask.distinct // 4)


def _exchange(
    source: DataSource, facts: Sequence[PairFacts], photos: Sequence[PairFacts]
) -> dict[str, Any]:
    """Return the data.splits that exchange the folders of photos, but not of others.

    {} where a split has several folders, or only few masks of a folder are photos.
    """
    read, found = (
        Counter(fact.sample.mask.parent for fact in kind if isinstance(fact.sample.mask, Path))
        for kind in (facts, photos)
    )
    if any(2 * count < read[folder] for folder, count in found.items()):
        return {}
    splits: dict[str, dict[str, str]] = {}
    for split, samples in source.splits.items():
        masks = {sample.mask.parent for sample in samples if isinstance(sample.mask, Path)}
        images = {sample.image.parent for sample in samples}
        if len(images) != 1 or len(masks) != 1 or source.format not in ("auto", "pairs"):
            return {}
        (image,), (mask,) = images, masks
        if not (image.is_relative_to(source.root) and mask.is_relative_to(source.root)):
            return {}
        sides = [str(folder.relative_to(source.root)) for folder in (image, mask)]
        if mask in found or mask not in read and found.keys() == read.keys():
            sides.reverse()
        folders = dict(zip(("images", "masks"), sides, strict=True))
        if folders not in splits.values():  # held out of the same folders
            splits[split] = folders
    return {"splits": splits}
