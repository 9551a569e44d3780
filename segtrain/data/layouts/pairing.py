"""Pairing: listed files to pairs, with findings about files that form none."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from segtrain.data.decoding import SUFFIXES
from segtrain.data.drawn import DrawnMask
from segtrain.data.findings import Finding
from segtrain.errors import UsageError

LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
# images and masks of one name, as paths relative to the data set's folder
Group = tuple[Sequence[str], Sequence[str | DrawnMask]]
Fault = tuple[str, ...]  # kind of finding, and the arguments of its text in TEXTS


class ClassSource(NamedTuple):
    """The file, the table or the setting that names the classes."""

    name: str = ""
    unconfirmed: bool = False  # nothing but the folders' names speaks for the published table
    left_out: frozenset[int] | None = None  # of the user's table: ids that are no mask values


@dataclass
class Listing:
    """The files that a layout names, not paired yet; groups of a split are sorted by name."""

    groups: dict[str, list[Group]]
    layout: str  # a description in one line
    classes: list[str] | None = None
    palette: list[tuple[int, int, int]] | None = None
    label_map: dict[int, int | str] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)  # by path
    findings: list[Finding] = field(default_factory=list)
    unlabelled: frozenset[str] = frozenset()  # splits left out that have images only
    meaning: str = ""  # how the published table reads mask values, in words
    class_source: ClassSource = ClassSource()


def files_by_stem(root: Path, folder: str, ending: str = "") -> dict[str, list[str]]:
    """Return {stem without `ending`: paths relative to root} of the images directly in a folder.

    Hidden files and files whose stem ends otherwise are left out; a missing folder has no files.
    """
    found: dict[str, list[str]] = {}
    path = os.path.join(root, folder)
    if not os.path.isdir(path):
        return found
    with os.scandir(path) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in SUFFIXES and stem.endswith(ending) and stem[0] != ".":
                if not entry.is_dir():  # a dangling link becomes a finding when it is read
                    key = stem[: len(stem) - len(ending)]
                    found.setdefault(key, []).append(os.path.join(folder, entry.name))
    return found


def fold_name(name: str) -> str:
    """Return a name in one Unicode form and case: a zip from a Mac decomposes its letters."""
    return unicodedata.normalize("NFC", name).casefold()


def drop_zeros(name: str) -> str:
    """Return a folded name whose numbers have no leading zeros: 1 and 00001 are one."""
    return LEADING_ZEROS.sub("", fold_name(name))


def group_by_stem(images: dict[str, list[str]], masks: dict[str, list[str]]) -> list[Group]:
    """Return the files of each stem, sorted by stem.

    Stems without a partner that differ in case or Unicode form only are one, where each is alone;
    so are those that differ in leading zeros, if nothing else on one side is without a partner.
    """
    for fold in (fold_name, drop_zeros) if images.keys() != masks.keys() else ():
        mine, theirs = images.keys() - masks.keys(), masks.keys() - images.keys()
        lone, others = (_by_folded(stems, fold) for stems in (mine, theirs))
        same = {
            others[folded][0]: stems[0]
            for folded, stems in lone.items()
            if len(stems) == len(others.get(folded, ())) == 1
        }
        if fold is fold_name or 1 < len(same) == min(len(mine), len(theirs)):
            masks = {same.get(stem, stem): paths for stem, paths in masks.items()}
    return [
        (sorted(images.get(stem, ())), sorted(masks.get(stem, ())))
        for stem in sorted(images.keys() | masks.keys())
    ]


def _by_folded(stems: Iterable[str], fold: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(fold(stem), []).append(stem)
    return found


def root_prefixes(root: Path) -> tuple[str, ...]:
    """Return the prefixes of paths inside root: root as written, and with its links resolved."""
    return tuple(os.path.join(os.path.normpath(base), "") for base in (root, root.resolve()))


def relative_to_root(path: str, prefixes: tuple[str, ...]) -> str:
    """Return a path relative to root, absolute where it leads out of root.

    `prefixes` are those of root_prefixes. Links inside root may lead anywhere.
    """
    path = os.path.normpath(path)
    inside = (path[len(prefix) :] for prefix in prefixes if path.startswith(prefix))
    return next(inside, os.path.abspath(path))


def find_excluded(listing: Listing, entries: Iterable[str], root: Path) -> set[str]:
    """Return the listed paths that the entries of data.exclude match.

    Raises UsageError for an entry that matches none.
    """
    paths = {path for groups in listing.groups.values() for pair in groups for path in _paths(pair)}
    excluded: set[str] = set()
    for entry in entries:
        path = os.path.normpath(entry)
        matches = {path} if path in paths else set(fnmatch.filter(paths, entry))
        if not matches:
            example = min(paths, default="images/a.png")
            raise UsageError(
                f"data.exclude: {entry!r} matches no file of the data set; expected paths below "
                f"{root} such as {example}, or patterns such as '{os.path.dirname(example)}/*'"
            )
        excluded |= matches
    return excluded


def _paths(pair: Group) -> Iterator[str]:
    yield from pair[0]
    yield from (mask for mask in pair[1] if isinstance(mask, str))


# kind of finding: what is wrong, and the advice where no config line fixes it
TEXTS = {
    "unpaired": ("{count} {0} without {1}", "add the partner or remove the file"),
    "stem": ("{count} name(s) that several files have", "rename all but one"),
    "split": ("{count} image(s) in two splits", "remove them from one"),
    "twice": ("{count} image(s) with several masks", "keep one mask of each"),
    "missing": (
        "{0} names {count} missing {1}(s)",
        "fix the list (paths are relative to it or to data.path) or add the files",
    ),
    "outside": ("{0} names {count} file(s) outside the data set's folder", "move the files"),
    "box": (
        "{0} has {count} image(s) with an annotation that has a box but no segmentation",
        "draw the regions",
    ),
}


@dataclass
class PairingResult:
    """The pairs of a listing by split, and findings about all other files."""

    pairs: dict[str, list[tuple[str, str | DrawnMask]]]
    findings: list[Finding]
    excluded: int  # pairs and files without partner that data.exclude names


def resolve_pairs(listing: Listing, excluded: set[str]) -> PairingResult:
    """Separate the pairs from files that can't form one, without the excluded paths.

    Where an excluded file was one of several of its stem, the others stay.
    """
    pairs: dict[str, list[tuple[str, str | DrawnMask]]] = {split: [] for split in listing.groups}
    wrong: dict[Fault, list[tuple[str, list[str]]]] = {}
    seen: dict[str, tuple[str, str | DrawnMask]] = {}
    count_excluded = 0
    for split, groups in listing.groups.items():
        for images, masks in groups:
            if excluded and not excluded.isdisjoint(_paths((images, masks))):
                count_excluded += 1
                images = [path for path in images if path not in excluded]
                masks = [path for path in masks if path not in excluded]
                if not images or not masks:
                    continue
            problems = list(_find_problems(images, masks, listing.faults))
            if not problems and images[0] in seen:
                other, mask = seen[images[0]]
                if other != split:
                    problems = [(("split",), f"{images[0]} ({other} and {split})", [images[0]])]
                elif mask != masks[0]:
                    spare = [masks[0]] if isinstance(masks[0], str) else []
                    problems = [(("twice",), f"{images[0]} ({mask} and {masks[0]})", spare)]
                else:
                    continue  # the same pair twice
            for fault, place, files in problems:  # by fault: one finding each, with all places
                wrong.setdefault(fault, []).append((place, files))
            if not problems:
                seen[images[0]] = split, masks[0]
                pairs[split].append((images[0], masks[0]))
    findings = [_build_finding(fault, places) for fault, places in wrong.items()]
    return PairingResult(pairs, findings, count_excluded)


def _find_problems(
    images: Sequence[str], masks: Sequence[str | DrawnMask], faults: dict[str, Fault]
) -> Iterator[tuple[Fault, str, list[str]]]:
    """Yield (fault, place, files to exclude) for each reason why files are not one pair."""
    faulty = [path for path in _paths((images, masks)) if path in faults] if faults else []
    if faulty:
        yield from ((faults[path], path, [path]) for path in faulty)
        return
    if not masks:
        yield from ((("unpaired", "image(s)", "a mask"), path, [path]) for path in images)
    if not images:
        yield from (
            (("unpaired", "mask(s)", "an image"), path, [path]) for path in _paths((images, masks))
        )
    for files in (images, masks):
        if len(files) > 1 and images and masks:
            names = [str(file) for file in files]
            yield ("stem",), " and ".join(names), names[1:]


def _build_finding(fault: Fault, places: list[tuple[str, list[str]]]) -> Finding:
    text, advice = TEXTS[fault[0]]
    excluded = dict.fromkeys(file for _, files in places for file in files)
    fix = {"allow_outside": True} if fault[0] == "outside" else {"exclude": list(excluded)}
    return Finding(
        kind=fault[0],
        error=True,
        text=text.format(*fault[1:], count=len(places)),
        places=[place for place, _ in places],
        advice=advice,
        fix=fix if excluded else {},
    )
