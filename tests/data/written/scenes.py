"""Six photos of 24x16 with known labels, and ways to store them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COUNT, HEIGHT, WIDTH = 6, 16, 24
IGNORED = 255
COLOURS = np.array([(0, 0, 0), (48, 112, 32), (176, 30, 60), (90, 100, 210)], np.uint8)
NAMES = ("background", "road", "car", "tree")  # what no region covers is `background`
LABELME_NAMES = ("_background_", *NAMES[1:])
ROBOFLOW_NAME = "x{i}_jpg.rf.0a1b2c3d4e{i}.jpg"
TRAIN, VAL = range(4), range(4, COUNT)


@dataclass(frozen=True)
class Region:
    """A rectangle of one class; right and bottom are the first column and row outside."""

    label: int
    left: int
    top: int
    right: int
    bottom: int

    @property
    def corners(self) -> list[tuple[int, int]]:
        return [
            (self.left, self.top),
            (self.right, self.top),
            (self.right, self.bottom),
            (self.left, self.bottom),
        ]

    @property
    def outline(self) -> list[float]:
        return [float(number) for corner in self.corners for number in corner]

    @property
    def box(self) -> list[float]:
        return [float(n) for n in (self.left, self.top, self.width, self.height)]

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def regions(index: int) -> list[Region]:
    """Regions of classes 1 to 3 of an image; images 1 and 4 lack a class."""
    rng = np.random.default_rng(index)
    found = []
    for label in (1, 2, 3):
        left, top = 8 * (label - 1) + int(rng.integers(1, 3)), int(rng.integers(1, 8))
        found.append(Region(label, left, top, left + 5, top + int(rng.integers(4, 8))))
    return [region for region in found if (index, region.label) not in ((1, 3), (4, 1))]


def truth(index: int) -> np.ndarray:
    """(H,W) uint8 class ids 0..3."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for region in regions(index):
        mask[region.top : region.bottom, region.left : region.right] = region.label
    return mask


def binary(index: int) -> np.ndarray:
    """(H,W) uint8: 1 in all regions."""
    return (truth(index) > 0).astype(np.uint8)


def bordered(index: int) -> np.ndarray:
    """The truth with two ignored rows."""
    mask = truth(index)
    mask[:2] = IGNORED
    return mask


def photo(index: int) -> np.ndarray:
    """(H,W,3) uint8, smooth, another one for each index."""
    small = np.random.default_rng(50 + index).integers(0, 255, (4, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Written:
    """A folder as some tool wrote it: the right reading."""

    names: Iterable[str]  # class names of ids 0, 1, ...
    truth: Callable[[int], np.ndarray] = truth
    splits: bool = False  # TRAIN and VAL are named by the tool
    loose: bool = False  # outlines run through pixels, so edges may move by one
    any_order: bool = False  # colours without a table: any numbering of the classes is right
    answer: str = ""  # part of the meaning that the user chooses, where the data leaves it open
    refused: str = ""  # or a pattern of the only possible error


def path_at(root: Path, name: str) -> Path:
    """The path of a file whose folder exists."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(pixels: np.ndarray | Image.Image, root: Path, name: str, **options: object) -> None:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path_at(root, name), **options)


def save_photos(root: Path, pattern: str, count: int = COUNT) -> None:
    """Save the photos at `pattern`, with {i} for the index and {s} for train or val."""
    for index, name in named(pattern, count):
        save(photo(index), root, name, **({"quality": 97} if name.endswith(".jpg") else {}))


def named(pattern: str, count: int = COUNT, val: str = "val") -> Iterator[tuple[int, str]]:
    for index in range(count):
        yield index, pattern.format(i=index, s="train" if index in TRAIN else val)


def save_masks(
    root: Path, pattern: str, mask: Callable[[int], np.ndarray] = truth, **options: object
) -> None:
    for index, name in named(pattern):
        save(mask(index), root, name, **options)


def write_text(root: Path, name: str, lines: Iterable[str]) -> None:
    path_at(root, name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def indexed(ids: np.ndarray, colours: np.ndarray = COLOURS) -> Image.Image:
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(colours.ravel().tolist())
    return image


def coloured(index: int) -> np.ndarray:
    """(H,W,3): the truth in COLOURS."""
    return COLOURS[truth(index)]


def write_json(root: Path, name: str, content: object) -> None:
    path_at(root, name).write_text(json.dumps(content), encoding="utf-8")


def save_roboflow_photos(root: Path, folder: str) -> None:
    for i in range(COUNT):
        split = "train" if i in TRAIN else "valid"
        save(photo(i), root, f"{split}/{folder}{ROBOFLOW_NAME.format(i=i)}", quality=97)
    write_text(root, "README.roboflow.txt", ["street - v1", "Provided by a Roboflow user"])
