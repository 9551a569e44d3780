"""The pairs of folders in no published layout: one of the candidates, or an error with them all."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.class_masks import (
    MOST_SHARED,
    NUMBER,
    are_binary,
    group_objects,
    label_variants,
    measure_overlaps,
    merge_variants,
)
from segtrain.data.layouts.explicit import describe_split, find_splits, split_sides
from segtrain.data.layouts.folder_words import NEITHER_WORDS, read_name
from segtrain.data.layouts.folders import ONE_FILE, join_path, walk_folder
from segtrain.data.layouts.image_ends import are_channels, find_image_ends
from segtrain.data.layouts.name_ends import cut_ends
from segtrain.data.layouts.pair_finder import Candidate, find_candidates, splits_line
from segtrain.data.layouts.pairing import ClassSource, Group, Listing, drop_zeros
from segtrain.errors import SegtrainError, shorten
from segtrain.files.places import relative_path

MOST_LINES = 4  # that a message offers
CLEAR = 0.5  # share of the best candidate's pairs that makes another one its rival
CHANNEL = re.compile(r"_\d{4}")  # nnU-Net's ending of an image's channel


def find_folder_pairs(config: DataConfig, root: Path, only_split: bool = False) -> Listing | None:
    """Find the folders of images and of masks by their names; None where nothing tells them apart.

    Raises SegtrainError where several could be meant, with the lines that choose.
    """
    candidates = find_candidates(list(walk_folder(root)))
    rivals = rank_candidates([c for c in candidates if not only_split or _has_train(c)])
    rivals = [replace(c, image_ends=find_image_ends(c)) for c in rivals]
    if not rivals:
        return None
    found = rivals[0]
    if len(rivals) > 1:
        lines, variants = [str(c) for c in rivals], variants_by_folder(rivals)
        if variants and (names := name_variants(variants, lines, root, config.max_pixels)):
            return list_class_masks(root, found, variants, names)
        raise_choice(root, "several folders could hold the masks", lines)
    refuse_channels(found, root)
    splits, variants = found.split_configs(), find_variants(found)
    if len(variants) > 1:
        refuse_parts(found, variants, root)
        lines = [splits_line(splits_of_variant(found, label)) for label in variants]
        if names := name_variants(variants, lines, root, config.max_pixels):
            return list_class_masks(root, found, variants, names)
        splits = choose_variant(found, variants, root)
    listing = find_splits(config.model_copy(update={"splits": splits}), root)
    if not config.exclude:  # by which the user has settled it
        refuse_second_masks(listing, root)
    listing.unlabelled = frozenset(found.images.files) - splits.keys()
    listing.layout += describe_rest(found, splits, len(variants) > 1)
    return listing


def rank_candidates(candidates: list[Candidate]) -> list[Candidate]:
    """Return the best of the candidates, several for a tie; none without evidence for any.

    Words come before file types, splits before none.
    """
    evidence = max((candidate.evidence for candidate in candidates), default=0)
    rivals = list({str(c): c for c in candidates if c.evidence == evidence > 0}.values())
    most = max((c.agreement.paired for c in rivals), default=0)
    rivals = [c for c in rivals if c.agreement.paired >= CLEAR * most]
    for is_better in (
        _has_train,
        _has_image_word,
        _is_no_rendering,
        _has_subfolders,
    ):
        rivals = [c for c in rivals if is_better(c)] or rivals
    if len({id(c.images) for c in rivals}) > 1:
        rivals = [c for c in rivals if _has_same_words(c)] or rivals
    return rivals


def variants_by_folder(rivals: list[Candidate]) -> dict[str, dict[str, str]]:
    """Return {folder: {what names share: path}} of masks of the same images; {} for others."""
    first = rivals[0]
    if any(c.images is not first.images for c in rivals):
        return {}
    if len({c.agreement.image for c in rivals}) > 1:
        return {}
    return {
        "/".join(part.template for part in c.masks.words_beside(first.images)): {
            _pair_key(c, f"{where}/{core}"): join_path(folder, name)
            for where, stem, folder, name in c.masks.keyed_files(
                list(c.masks.files), c.flat, c.keyed
            )
            if (core := cut_ends(stem, c.agreement.mask))
        }
        for c in rivals
    }


def raise_choice(root: Path, problem: str, lines: list[str]) -> None:
    """Raise SegtrainError about a choice that only the user can make."""
    raise SegtrainError(f"{root}: {problem}; name them with {', or '.join(lines)}")


def _has_train(candidate: Candidate) -> bool:
    return (candidate.images.is_split or candidate.masks.is_split) and "train" in candidate.splits


def _has_image_word(candidate: Candidate) -> bool:
    return any(part.is_image for part in candidate.images.parts)


def _is_no_rendering(candidate: Candidate) -> bool:
    parts = candidate.masks.words_beside(candidate.images)
    return not any(part.is_rendering for part in (*parts, read_name(candidate.agreement.mask[1])))


def _has_same_words(candidate: Candidate) -> bool:
    """Return whether the folders differ in their role only: images_2 and masks_2."""
    rests = [
        {word for part in side for word in part.words if not part.is_role(word)}
        for side in (candidate.images.parts, candidate.masks.parts)
    ]
    return rests[0] == rests[1]


def _has_subfolders(candidate: Candidate) -> bool:
    return not candidate.flat


def find_variants(found: Candidate) -> dict[str, dict[str, str]]:
    """Return {ending or subfolder: {what names share: path}} of the masks.

    There are several where an image has several masks, or where masks alone are in subfolders.
    """
    start, end = found.agreement.mask
    # the longest first: of _car and _red_car
    endings = sorted(found.agreement.endings if end else {end}, key=len, reverse=True)
    variants: dict[str, dict[str, str]] = {}
    if len(endings) < 2 and not found.flat:
        return variants
    for split, files in found.masks.files.items():
        for below, folder, name in files:
            stem, split_key = os.path.splitext(name)[0], split if found.keyed else ""
            ending = next((e for e in endings if cut_ends(stem, (start, e))), None)
            if ending is None:
                continue
            core = cut_ends(stem, (start, ending))
            label = below.split("/")[0] if found.by_folder else ending
            where = "" if found.flat else below.casefold()
            key = _pair_key(found, f"{split_key}/{where}/{core}")
            variants.setdefault(label, {})[key] = join_path(folder, name)
    return dict(sorted(variants.items()))


def _pair_key(found: Candidate, name: str) -> str:
    return drop_zeros(name) if found.agreement.padded else name


def name_variants(
    variants: dict[str, dict[str, str]], lines: list[str], root: Path, max_pixels: int
) -> list[str]:
    """Return the names of the classes where each variant is the binary mask of one; else [].

    Raises SegtrainError where they cover the same pixels, with the line that names each alone.
    """
    names = label_variants(list(variants))
    meanings = [read_name(name) for name in names]
    if any(meaning.is_mask or meaning.is_rendering for meaning in meanings):
        return []
    if not all(any(c.isalpha() for c in name) for name in names):  # numbers are objects
        return []
    paths = [[root / path for path in files.values()] for files in variants.values()]
    if not all(are_binary(files, max_pixels) for files in paths):
        return []
    # what no other class covers may be stored as anything
    covering = [
        {} if n == "background" else v for n, v in zip(names, variants.values(), strict=True)
    ]
    overlaps = measure_overlaps(covering, root, max_pixels)
    (one, other), share = max(overlaps.items(), key=lambda item: item[1], default=((0, 0), 0.0))
    if share > MOST_SHARED:
        alike = sorted({i for pair, s in overlaps.items() if s > MOST_SHARED for i in pair})
        raise_choice(
            root,
            f"an image has several masks: {names[one]} and {names[other]} have {share:.0%} of the "
            "smaller one's pixels in common, drawings of the same by several people or one within "
            "the other? A pixel has one class: paint both in one file, or use one",
            [lines[i] for i in alike[:MOST_LINES]],
        )
    words = group_objects(names)
    numbered = [word for word, name in zip(words, names, strict=True) if word != name]
    if len(set(numbered)) == 1:  # of several words, the numbers can't be those of classes
        raise SegtrainError(
            f"{root}: several masks an image ({shorten(names)}): objects of one class? Then paint "
            "them in one file; or classes? Then tell them apart by words"
        )
    return words


def list_class_masks(
    root: Path, found: Candidate, variants: dict[str, dict[str, str]], names: list[str]
) -> Listing:
    """List the pairs of a data set that has a binary mask for each class of an image."""
    classes = sorted({*names} - {"background"})  # which is what no other class covers
    named = zip(names, variants.values(), strict=True)
    parts = [(classes.index(name) + 1, files) for name, files in named if name in classes]
    masks = merge_variants(root, sorted(parts, key=lambda part: part[0]))
    groups: dict[str, list[Group]] = {}
    for split in found.splits:
        images: dict[str, list[str]] = {}
        for where, stem, folder, name in found.images.keyed_files([split], found.flat, found.keyed):
            if core := cut_ends(stem, found.image_cut(split)):
                key = _pair_key(found, f"{where}/{core}")
                images.setdefault(key, []).append(join_path(folder, name))
        groups[split] = [
            (sorted(paths), [masks.pop(core)] if core in masks else [])
            for core, paths in sorted(images.items())
        ]
    for core, mask in masks.items():  # by their files, which findings can name
        split = core.split("/")[0] if found.keyed else found.splits[0]
        if split in groups:
            groups[split].append(([], [relative_path(path, root) for path in mask.files]))
    layout = ", ".join(describe_split(split) for split in found.split_configs().values())
    layout += (
        f"; one mask a class ({', '.join(classes)}), merged: background is class 0, pixels of "
        "several classes are ignored"
        + ("; numbers in names are of objects" if len({*names}) < len(names) else "")
    ) + describe_lone_splits(found, found.splits)
    overlap: dict[int, int | str] = {len(classes) + 1: "ignore"}
    folders = [{os.path.dirname(path) for path in files.values()} for files in variants.values()]
    kind = "endings of the masks' names" if set.intersection(*folders) else "folders of the masks"
    source = ClassSource(f"the {kind}, one a class ({', '.join(classes)})")
    return Listing(groups, layout, ["background", *classes], None, overlap, class_source=source)


def refuse_parts(found: Candidate, variants: dict[str, dict[str, str]], root: Path) -> None:
    """Raise SegtrainError where each image has one mask, in one of several folders of masks."""
    cores = [core for files in variants.values() for core in files]
    if found.flat and len(set(cores)) == len(cores):
        raise SegtrainError(
            f"{root}: each image has a mask in one of {shorten(variants)}: are these classes, then "
            f"merge their masks; or parts of one set, then name it with {found}"
        )


def choose_variant(
    found: Candidate, variants: dict[str, dict[str, str]], root: Path
) -> dict[str, SplitConfig]:
    """Return data.splits with the one kind of masks that is meant. Raises SegtrainError."""
    base = found.split_configs()
    if not any(c.isalpha() for label in variants for c in label):
        raise SegtrainError(
            f"{root}: several masks an image in {base[found.splits[0]].masks}, such as "
            f"{shorten(list(files)[0] for files in map(dict.values, variants.values()))}: one an "
            f"object? {ONE_FILE}"
        )
    most = max(map(len, variants.values()))
    rivals = [label for label, files in variants.items() if len(files) >= CLEAR * most]
    rivals = [label for label in rivals if not read_name(label).is_rendering] or rivals
    rivals = [label for label in rivals if "trainid" in label.lower()] or rivals
    ways = [splits_of_variant(found, label) for label in rivals]
    lines = [splits_line(way) for way in ways]
    if two := find_two_masks(variants, rivals[0]):
        raise_choice(
            root,
            f"several masks an image, such as {' and '.join(two)}: one an object? {ONE_FILE}: "
            "paint them in one, or choose one where they are of several kinds",
            lines,
        )
    if len(ways) > 1:
        raise_choice(root, "an image has several masks", lines)
    return ways[0]


def refuse_second_masks(listing: Listing, root: Path) -> None:
    """Raise SegtrainError where x_1 without an image lies beside x, which has one."""
    files = [(images, str(mask)) for g in listing.groups.values() for images, m in g for mask in m]
    alone = [mask for images, mask in files if not images]
    if not alone:
        return
    paired = {os.path.splitext(mask)[0]: mask for images, mask in files if images}
    if any(NUMBER.sub("", stem) in paired for stem in paired):  # so are images numbered
        return
    for mask in alone:
        if first := paired.get(NUMBER.sub("", os.path.splitext(mask)[0])):
            raise SegtrainError(
                f"{root}: several masks an image, such as {first} and {mask}: one an object? "
                f"{ONE_FILE}: paint them in one, or leave out what is none by data.exclude"
            )


def find_two_masks(variants: dict[str, dict[str, str]], chosen: str) -> list[str]:
    """Return a mask of the chosen kind, and one of another kind that adds to it; [] for none.

    That is one whose ending differs by a number, or which few images have: mask_1 beside mask.
    """
    mine = variants[chosen]
    for label, files in variants.items():
        alike = NUMBER.sub("", label) == NUMBER.sub("", chosen)
        meaning, both = read_name(label), mine.keys() & files.keys()
        other_kind = meaning.is_rendering or not NEITHER_WORDS.isdisjoint(meaning.words)
        adds = alike or len(files) < CLEAR * len(mine) and not other_kind
        if label != chosen and both and adds:
            return [mine[min(both)], files[min(both)]]
    return []


def splits_of_variant(found: Candidate, label: str) -> dict[str, SplitConfig]:
    """Return data.splits with the masks of one ending or subfolder."""
    return {
        split: config.model_copy(
            update={"masks": f"{config.masks}/{label}"}
            if found.by_folder
            else {"mask_end": label + found.suffixes[1]}
        )
        for split, config in found.split_configs().items()
    }


def refuse_channels(found: Candidate, root: Path) -> None:
    """Raise SegtrainError where several files are one image, such as nnU-Net's channels."""
    counts = found.agreement.image_endings
    endings = [e for e, count in counts.items() if count >= CLEAR * max(counts.values())]
    if len(endings) < 2 or found.image_ends:
        return
    splits = found.split_configs()
    if not are_channels(found, endings):
        raise SegtrainError(
            f"{root}: names in {splits[found.splits[0]].images} end in {shorten(endings)}, each of "
            "other images; a split has one image_end: give each ending a folder and a split, or "
            "write the pairs in a list (data.splits: {train: {list: train.csv}})"
        )
    lines = [
        splits_line({s: c.model_copy(update={"image_end": end}) for s, c in splits.items()})
        for end in endings
    ]
    problem = f"{splits[found.splits[0]].images} has {len(endings)} files an image"
    if all(CHANNEL.fullmatch(ending) for ending in endings):
        problem += (
            f", one a channel ({shorten(endings)}); an image is one file: stack them in a TIFF or "
            f".npy, with model.in_channels: {len(endings)}; or take one channel"
        )
    raise_choice(root, problem, lines)


def describe_lone_splits(found: Candidate, splits: Collection[str]) -> str:
    """Return the end of the layout's description, about splits of images or of masks alone."""
    sides = [(found.images, "masks")] + [(found.masks, "images")] * (not found.is_within)
    return "".join(
        f"; {split} left out: no {lacks}"
        for family, lacks in sides
        for split, files in family.files.items()
        if split and files and split not in splits
    )


def describe_rest(found: Candidate, splits: dict[str, SplitConfig], variants: bool) -> str:
    """Return the end of the layout's description, about splits and files that are not read."""
    text = describe_lone_splits(found, splits)
    for place, family in enumerate((found.images, found.masks) if not found.is_within else ()):
        first = next(iter(splits.values()))
        side = split_sides(first)[place]
        unread = 0
        for split, files in family.files.items():
            own = split_sides(splits.get(split, first))[place]
            unread += sum(own.cut(file[2]) is None for file in files)
        if place and unread > CLEAR * found.agreement.paired and not variants:
            raise SegtrainError(
                f"{side.folder} has {unread} files besides those of {splits_line(splits)}: several "
                "masks an image? Remove them, or confirm this line"
            )
        text += f"; {unread} other file(s) in {side.folder} not read" if unread else ""
    return text
