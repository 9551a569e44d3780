"""A layout on disk -> pairs of image and mask, by split."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from segtrain.config import Data, Split
from segtrain.data.images import SUFFIXES
from segtrain.errors import SegtrainError, UsageError, listing

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annot")
# (where a split's images are, where its masks are); {i} and {m} are any of IMAGES and MASKS
LAYOUTS = (
    ("{i}/{split}", "{m}/{split}"),
    ("{split}/{i}", "{split}/{m}"),
    ("{split}", "{split}annot"),
)
UNSPLIT = ("{i}", "{m}")


@dataclass(frozen=True)
class Sample:
    """One image and its mask."""

    image: Path
    mask: Path

    @property
    def name(self) -> str:
        return self.image.stem


@dataclass(frozen=True)
class Found:
    """The pairs of each split, sorted by name, and how they were found, in one line."""

    splits: dict[str, list[Sample]]
    layout: str


def find_pairs(data: Data, root: Path) -> Found:
    """The pairs below `root`, by data.splits or by the first layout that is there.

    Where there is no val, a share of train is held out by data.split_seed. Raises UsageError for
    a folder that does not exist, SegtrainError for what is wrong inside.
    """
    if not root.is_dir():
        raise UsageError(f"data.path {root}: no such folder")
    folders = data.splits or find_layout(root)
    if not folders:
        tried = ", ".join(f"{i} + {m}" for i, m in (*LAYOUTS, UNSPLIT))
        raise SegtrainError(
            f"{root}: no image and mask folders found; looked for {tried}, with {{i}} any of "
            f"{'/'.join(IMAGES)}, {{m}} any of {'/'.join(MASKS)}, {{split}} any of "
            f"{'/'.join(SPLITS)}; name them with data.splits"
        )
    pairs = {name: split_pairs(root, split, name) for name, split in folders.items()}
    layout = ", ".join(f"{s.images or s.list} + {s.masks or s.list}" for s in folders.values())
    if "train" in pairs and "val" not in pairs:
        pairs["train"], pairs["val"] = hold_out(pairs["train"], data.val_fraction, data.split_seed)
        layout += f" ({len(pairs['val'])} held out for val by seed {data.split_seed})"
    return Found(pairs, layout)


def find_layout(root: Path) -> dict[str, Split]:
    """The folders of each split by the first of LAYOUTS that has a train split, else {}."""
    for layout in LAYOUTS:
        splits = {name: _folders(root, layout, name) for name in SPLITS}
        if splits["train"]:
            return {name: split for name, split in splits.items() if split}
    unsplit = _folders(root, UNSPLIT, "train")
    return {"train": unsplit} if unsplit else {}


def _folders(root: Path, layout: tuple[str, str], split: str) -> Split | None:
    for alias in SPLITS[split]:
        for i in IMAGES:
            for m in MASKS:
                images, masks = (part.format(i=i, m=m, split=alias) for part in layout)
                if (root / images).is_dir() and (root / masks).is_dir():
                    return Split(images=images, masks=masks)
    return None


def split_pairs(root: Path, split: Split, name: str) -> list[Sample]:
    """The pairs of one split, sorted by name. Raises SegtrainError where one has no partner."""
    if split.images and split.masks:
        folders = [_folder(root / folder, name) for folder in (split.images, split.masks)]
        pairs = match_stems(*(_choose(root / split.list, *folders) if split.list else folders))
    elif split.list and not (split.images or split.masks):
        pairs = _listed(root, root / split.list)
    else:
        raise UsageError(f"data.splits.{name}: give images and masks, or a list, or all three")
    if not pairs:
        where = f"{split.images} and {split.masks}" if split.images else split.list
        raise SegtrainError(
            f"{root}: no pairs found for {name} in {where}; looked for files of the same stem "
            f"ending in {', '.join(sorted(SUFFIXES))}"
        )
    return pairs


def match_stems(images: dict[str, Path], masks: dict[str, Path]) -> list[Sample]:
    lonely = sorted(images.keys() - masks.keys()), sorted(masks.keys() - images.keys())
    problems = [
        f"{len(stems)} {kind} without {partner}: {listing(files[s] for s in stems)}"
        for stems, files, kind, partner in (
            (lonely[0], images, "image(s)", "a mask"),
            (lonely[1], masks, "mask(s)", "an image"),
        )
        if stems
    ]
    if problems:
        raise SegtrainError("; ".join(problems) + "; add the partner or remove the file")
    return [Sample(images[stem], masks[stem]) for stem in sorted(images)]


def image_files(folder: Path) -> list[Path]:
    """The images directly in `folder`, sorted; hidden files are not."""
    return sorted(
        f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
    )


def _folder(folder: Path, split: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"data.splits.{split}: {folder}: no such folder")
    by_stem: dict[str, Path] = {}
    for file in image_files(folder):
        if file.stem in by_stem:
            raise SegtrainError(
                f"{by_stem[file.stem]} and {file.name} have the same stem; remove or rename one"
            )
        by_stem[file.stem] = file
    return by_stem


def _choose(listing_file: Path, *folders: dict[str, Path]) -> list[dict[str, Path]]:
    """The files of each folder that a list names, with or without their extension."""
    known = set().union(*folders)
    stems = {line: _stem_of(line, known) for line in _lines(listing_file)}
    missing = [line for line, stem in stems.items() if stem is None]
    if missing:
        raise SegtrainError(f"{listing_file}: no pair named {listing(missing)}")
    chosen = set(stems.values())
    return [{s: file for s, file in folder.items() if s in chosen} for folder in folders]


def _stem_of(line: str, known: set[str]) -> str | None:
    """The stem that a line means: all of it, or its first word where others follow."""
    first = line.replace(",", " ").split()[0]
    guesses = (line, Path(line).stem, first, Path(first).stem)
    return next((guess for guess in guesses if guess in known), None)


def _listed(root: Path, listing_file: Path) -> list[Sample]:
    pairs = []
    for line in _lines(listing_file):
        words = line.replace(",", " ").split()
        if len(words) != 2:
            raise SegtrainError(f"{listing_file}: expected 'image mask' a line, got {line!r}")
        pairs.append(Sample(root / words[0], root / words[1]))
    missing = [path for pair in pairs for path in (pair.image, pair.mask) if not path.is_file()]
    if missing:
        raise SegtrainError(f"{listing_file}: no such file: {listing(missing)}")
    return sorted(pairs, key=lambda pair: pair.name)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise UsageError(f"data.splits: {file}: no such list file")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip(" ,\t")]


def hold_out(pairs: list[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """(train, val): `fraction` of the pairs, at least one, drawn by `seed` alone."""
    if len(pairs) < 2:
        raise SegtrainError(f"{pairs[0].image}: one pair is too few to hold one out for val")
    count = min(max(1, round(fraction * len(pairs))), len(pairs) - 1)
    held = set(random.Random(seed).sample(range(len(pairs)), count))
    train = [pair for i, pair in enumerate(pairs) if i not in held]
    return train, [pair for i, pair in enumerate(pairs) if i in held]
