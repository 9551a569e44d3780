"""A finder of pairs: the two folders, or kinds of names in one, whose files have names that agree.

Names decide what pairs; words in names of folders and files, then file types, which side is masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import permutations
from pathlib import Path

from segtrain.config import SplitConfig
from segtrain.data.decoding import SUFFIXES
from segtrain.data.findings import yaml_line
from segtrain.data.layouts.folder_words import SPLIT_WORDS, Meaning, read_name
from segtrain.data.layouts.folders import Side, suffix_of
from segtrain.data.layouts.name_ends import Agreement, Stem, find_agreement

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".jfif"}  # of which masks can't be
MOST_FAMILIES = 30  # the largest ones, of which each is compared with each
MOST_CONSTANT = 8  # names of files that all folders share
AGREE = 0.5  # least share of the smaller side that pairs
SURE = 0.9  # the same where only file types tell the sides apart
KeyedFile = tuple[str, str, str, str]
Tree = Sequence[tuple[str, Sequence[str]]]  # names of files by folder
read_name_once = cache(read_name)


@dataclass
class FolderFamily:
    """The folders that differ in the split only, and in folders that say nothing of their role."""

    parts: list[Meaning]
    # by split, '' without: (subfolder, folder, name)
    files: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    roots: dict[str, set[str]] = field(default_factory=dict)  # by split

    @property
    def is_split(self) -> bool:
        return "" not in self.roots

    @property
    def count(self) -> int:
        return sum(map(len, self.files.values()))

    def words_beside(self, other: FolderFamily) -> list[Meaning]:
        """Return the meaning of the folders' names that the other family lacks."""
        shared = {part.template for part in other.parts}
        return [part for part in self.parts if part.template not in shared]

    def folder(self, split: str) -> str | None:
        """Return the folder of a split, * where several differ; None where no such name is one."""
        roots = [Path(root).parts for root in sorted(self.roots[split if self.is_split else ""])]
        if len({len(parts) for parts in roots}) > 1:
            return None
        names = [set(level) for level in zip(*roots, strict=True)]
        return "/".join("*" if len(level) > 1 else min(level) for level in names) or "."

    def keyed_files(self, splits: Sequence[str], flat: bool, keyed: bool) -> Iterator[KeyedFile]:
        """Yield (what must be equal besides the name, stem, folder, name) of some splits' files."""
        for split in splits if self.is_split else [""]:
            key = split if keyed else ""
            for below, folder, name in self.files.get(split, ()):
                where = f"{key}/{below.casefold()}" if below and not flat else f"{key}/"
                yield where, name.rpartition(".")[0], folder, name

    def stems(self, splits: Sequence[str], flat: bool, keyed: bool) -> list[Stem]:
        return [(where, stem) for where, stem, _, _ in self.keyed_files(splits, flat, keyed)]


@dataclass(frozen=True)
class Candidate:
    """Two families whose names agree, or one whose files are images and masks."""

    images: FolderFamily
    masks: FolderFamily
    agreement: Agreement
    evidence: int  # that the second holds the masks: 2 by words, 1 by file types, 0 none
    suffixes: tuple[str, str] = ("", "")  # where only these tell images and masks apart
    flat: bool = False  # subfolders differ, names alone pair
    image_ends: Mapping[str, str] = field(default_factory=dict)  # by split, where they differ

    @property
    def splits(self) -> list[str]:
        """Splits of which both sides have a folder, in their order."""
        both = [family for family in (self.images, self.masks) if family.is_split]
        there = [s for s in SPLIT_WORDS if all(s in family.roots for family in both)]
        if "test" in there and not all(family.files.get("test") for family in both):
            there.remove("test")  # often it has no masks
        if both and self.is_within:  # so may any
            there = [
                s
                for s in there
                if any(self._is_mask(file[2]) for file in self.masks.files.get(s, ()))
            ]
        return there if both else ["train"]

    def _is_mask(self, name: str) -> bool:
        return Side("", *self.agreement.mask).cut(name) is not None

    @property
    def paired_share(self) -> float:
        """Return the share of the smaller side that pairs."""
        return self.agreement.paired / min(self.images.count, self.masks.count)

    @property
    def by_folder(self) -> bool:
        """Return whether several masks of an image are told apart by subfolders, not endings."""
        return self.flat and not (self.agreement.mask[1] and len(self.agreement.endings) > 1)

    @property
    def is_within(self) -> bool:
        """Return whether images and masks lie in the same folders."""
        return self.images.roots is self.masks.roots

    @property
    def keyed(self) -> bool:
        """Return whether files pair within their split only."""
        return self.images.is_split and self.masks.is_split

    def image_cut(self, split: str) -> tuple[str, str]:
        """Return what the stems of a split's images begin and end with."""
        start, end = self.agreement.image
        return start, self.image_ends.get(split, end)

    def split_configs(self) -> dict[str, SplitConfig]:
        """Return data.splits; empty where they can't say which folders these are."""
        named = {}
        for split in self.splits:
            images, masks = self.images.folder(split), self.masks.folder(split)
            if images is None or masks is None:
                return {}
            fields = {
                "image_start": self.agreement.image[0],
                "image_end": self.image_cut(split)[1] + self.suffixes[0],
                "mask_start": self.agreement.mask[0],
                "mask_end": self.agreement.mask[1] + self.suffixes[1],
            }
            named[split] = SplitConfig(images=images, masks=masks, **fields)
        return named

    def __str__(self) -> str:
        return splits_line(self.split_configs())


def splits_line(splits: dict[str, SplitConfig]) -> str:
    """Return the line of the config that names these splits."""
    return "data.splits: " + yaml_line(
        {name: split.model_dump(exclude_defaults=True) for name, split in splits.items()}
    )


def group_families(tree: Tree, how: str) -> list[FolderFamily]:
    """Return the families of the folders of a tree.

    how: "merged" leaves out folders that say nothing of their role (10k in images/10k/train),
    "apart" keeps those above the role, "neutral" takes the first of them for one.
    """
    paths = [Path(path).parts for path, names in tree if names]
    depth = len(os.path.commonprefix(paths)) if len(paths) > 1 else 0
    found: dict[tuple[str, ...], FolderFamily] = {}
    for path, names in tree:
        parts = Path(path).parts
        meanings = [read_name_once(part) for part in parts]
        roles = [i for i, m in enumerate(meanings) if m.split or m.is_mask or m.is_image]
        sided = any(meanings[i].is_mask or meanings[i].is_image for i in roles)
        if how == "neutral" and not sided:
            roles = sorted({*roles, *[i for i in range(depth, len(parts)) if i not in roles][:1]})
        last = roles[-1] + 1 if roles else 0
        kept = [m for i, m in enumerate(meanings[:last]) if how == "apart" or i in roles]
        split = next((m.split for m in reversed(kept) if m.split), "")
        family = found.setdefault(tuple(m.template for m in kept), FolderFamily(kept))
        family.roots.setdefault(split, set()).add(str(Path(*parts[:last])))
        above = [] if how == "apart" else [p for i, p in enumerate(parts[:last]) if i not in roles]
        below = os.path.join("", *above, *parts[last:])
        family.files.setdefault(split, []).extend((below, path, name) for name in names)
    for family in found.values():
        _drop_common_folder(family)
    filled = [family for family in found.values() if any(family.files.values())]
    return sorted(filled, key=lambda f: -f.count)[:MOST_FAMILIES]


def _drop_common_folder(family: FolderFamily) -> None:
    """Cut the subfolder that all files of a family have in common, in place."""
    below = {sub for files in family.files.values() for sub, _, _ in files}
    if len(below) == 1 and "" not in below:
        family.files = {
            split: [("", *file[1:]) for file in files] for split, files in family.files.items()
        }


def find_candidates(tree: Tree) -> list[Candidate]:
    """Return what may be the images and masks of a tree, by the first grouping that has any."""
    images_only = [
        (path, [name for name in names if suffix_of(name) in SUFFIXES])
        for path, names in tree
        if not any(read_name_once(part).is_neither for part in Path(path).parts)
    ]
    found: list[Candidate] = []
    for how in ("merged", "apart", "neutral"):
        families = group_families(images_only, how)
        found = [c for pair in permutations(families, 2) for c in _compare(*pair)]
        if not any(c.evidence == 2 and c.paired_share >= SURE for c in found):
            found += [c for family in families for c in _compare_within(family)]
        found = [candidate for candidate in found if candidate.split_configs()]
        if any(candidate.evidence == 2 for candidate in found):
            break  # file types count between single folders only
    return found


def _compare(images: FolderFamily, masks: FolderFamily) -> Iterator[Candidate]:
    mine, theirs = images.words_beside(masks), masks.words_beside(images)
    if any(part.is_mask for part in mine) or any(part.is_image for part in theirs[-1:]):
        return
    named = any(part.is_mask for part in theirs)
    agreement, flat = _match(images, masks) or (Agreement(("", ""), ("", "")), False)
    named = named or _ends_name_masks(agreement)
    if not agreement.paired and not (named and any(part.is_image for part in mine)):
        return
    photos = _suffixes(images) <= PHOTO_SUFFIXES and _suffixes(masks).isdisjoint(PHOTO_SUFFIXES)
    evidence = (
        2 if named else int(photos and agreement.paired >= SURE * min(images.count, masks.count))
    )
    yield Candidate(images, masks, agreement, evidence, flat=flat)


def _compare_within(family: FolderFamily) -> Iterator[Candidate]:
    """Yield images and masks that lie in the same folders."""
    splits = list(family.files)
    if constant := list(_compare_constant(family, splits)):
        yield from constant
        return
    stems = family.stems(splits, False, True)
    agreement = find_agreement(stems, stems)
    if agreement and agreement.paired >= AGREE * len(stems) / 2 and any(agreement.mask):
        ends = {agreement.image: agreement.mask, agreement.mask: agreement.image}
        for image_ends, mask_ends in ends.items():  # either may be the masks
            if any(mask_ends):
                found = replace(agreement, image=image_ends, mask=mask_ends)
                yield Candidate(family, family, found, 2 * _ends_name_masks(found))
        if any(_ends_name_masks(replace(agreement, image=i, mask=m)) for i, m in ends.items()):
            return  # types of files say no more
    by_suffix: dict[str, FolderFamily] = {}
    for split, files in family.files.items():
        for file in files:
            suffix = suffix_of(file[2])
            part = by_suffix.setdefault(suffix, FolderFamily(family.parts))
            part.files.setdefault(split, []).append(file)
            part.roots = family.roots
    for (first, images), (second, masks) in permutations(by_suffix.items(), 2):
        if second in PHOTO_SUFFIXES:
            continue
        stems, others = (part.stems(splits, False, True) for part in (images, masks))
        both = find_agreement(stems, others)
        if both is None or both.paired < max(2, SURE * min(len(stems), len(others))):
            continue
        named = _ends_name_masks(both)
        apart = ("", "") if named else (first, second)
        evidence = 2 if named else int(first in PHOTO_SUFFIXES)
        yield Candidate(images, masks, both, evidence, apart)


def _compare_constant(family: FolderFamily, splits: list[str]) -> Iterator[Candidate]:
    """Yield images and masks of which each folder has one, of the same name: rgb.png, mask.png."""
    by_name: dict[str, set[str]] = {}
    for where, _, _, name in family.keyed_files(splits, False, True):
        by_name.setdefault(name, set()).add(where)
    few = by_name if len(by_name) <= MOST_CONSTANT else ()
    for image, mask in permutations([n for n in few if not read_name(n).is_neither], 2):
        paired = len(by_name[image] & by_name[mask])
        ends = ("", image), ("", mask)
        if paired > 2 and _ends_name_masks(agreement := Agreement(*ends, paired)):
            yield Candidate(family, family, agreement, 2)


def _match(images: FolderFamily, masks: FolderFamily) -> tuple[Agreement, bool] | None:
    """Return the agreement of two families, and whether it is without subfolders."""
    keyed = images.is_split and masks.is_split
    splits = [s for s in images.files if not keyed or s in masks.files]
    splits = splits if images.is_split else list(masks.files)
    for flat in (False, True):
        sides = [family.stems(splits, flat, keyed) for family in (images, masks)]
        if flat and len(set(sides[0])) < len(sides[0]) or not all(sides):
            return None
        found = find_agreement(*sides)
        if found and found.paired >= AGREE * min(map(len, sides)):
            return found, flat
    return None


def _ends_name_masks(agreement: Agreement) -> bool:
    ends = [read_name(" ".join(pair)) for pair in (agreement.image, agreement.mask)]
    return ends[1].is_mask and not ends[0].is_mask


def _suffixes(family: FolderFamily) -> set[str]:
    files = (file[2] for files in family.files.values() for file in files)
    return {suffix_of(name) for name in files}
