"""A scan of all pairs on all cores: facts of each file, saved for the next scan."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from segtrain.console import progress
from segtrain.data.areas import Area, MaskArea
from segtrain.data.decoding import ROTATED_ORIENTATIONS
from segtrain.data.drawn import DrawnMask
from segtrain.data.images import ImageReader, read_header
from segtrain.data.indexed import ContradictoryPalette
from segtrain.data.inspection.flat_areas import even_blocks, flat_values
from segtrain.data.mask_options import AS_STORED, MaskOptions
from segtrain.data.masks import (
    NEARLY_GREY,
    SMOOTH,
    MaskReader,
    MaskSource,
    Palette,
    count_unique,
    encode_colours,
    grey_values,
    read_raw,
    smooth_share,
)
from segtrain.data.sample import Sample
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError
from segtrain.files.places import cache_folder
from segtrain.files.whole import FileStamp, save_text, stamp_files

FACTS_VERSION = 7  # of the saved facts; raise it when they are computed differently
SLIGHTLY_SMOOTH = 0.02  # smooth_share of masks whose flat areas are counted
HIGHEST_ID = 63  # they are also counted in masks of higher values: few data sets have such ids
MOST_VALUES = 4096  # values counted one by one in a mask; valid masks have far fewer


@dataclass(frozen=True)
class ImageFacts:
    """Facts of an image: from its header, and of its pixels after a full scan."""

    size: tuple[int, int]  # (height, width), upright
    orientation: int = 1  # EXIF's
    alpha: bool = False
    deep: bool = False  # 16-bit integers
    digest: str = ""  # of shape and pixels; from here on of a full scan only
    dhash: int = 0
    pixels: int = 0
    sums: list[int] = field(default_factory=list)  # of each channel's 0..255 values
    squares: list[int] = field(default_factory=list)
    highest: int = 0

    @property
    def turned(self) -> bool:
        """Width and height change places by EXIF."""
        return self.orientation in ROTATED_ORIENTATIONS


@dataclass(frozen=True)
class MaskFacts:
    """Facts of a mask: pixels by grey value, or by colour code where it is coloured."""

    size: tuple[int, int]
    values: dict[int, int] = field(default_factory=dict)
    colours: dict[int, int] = field(default_factory=dict)
    distinct: int = 0  # values or colours, also those beyond MOST_VALUES
    lossy: bool = False
    smooth: float = 0  # smooth_share: edges through intermediate values
    snapped: int = 0  # pixels set to the nearest class by data.allow_lossy_masks
    palette: dict[int, int] = field(default_factory=dict)  # colour code of each index in use
    repeated: list[int] = field(default_factory=list)  # those codes that the palette has twice
    reordered: bool = False  # the palette has colours of data.palette at other indices
    rgb: bool = False  # grey values of a file that has colours
    bilevel: bool = False  # 1 is white
    nodata: float | None = None  # the value that a GeoTIFF's own tag names
    flat: dict[int, int] | None = None  # of values or colours those in flat areas; None: all
    even: dict[int, int] = field(default_factory=dict)  # JPEG's blocks of one value, by value
    checksum: int = 0  # of the values as stored: the same for any type of file and on any machine


Kind = TypeVar("Kind", ImageFacts, MaskFacts)
Stamps = tuple[FileStamp, ...]


@dataclass(frozen=True)
class PairFacts:
    """An image and its mask, both readable."""

    sample: Sample
    image: ImageFacts
    mask: MaskFacts
    stamps: tuple[FileStamp, ...] = field(default=(), compare=False)  # of image and mask files

    @property
    def sizes_agree(self) -> bool:
        return self.image.size == self.mask.size


@dataclass(frozen=True)
class UnreadablePair:
    """A pair of which a file can't be read, with the reason for each such file."""

    sample: Sample
    reasons: list[str]


class Scanner:
    """A reader of facts, which takes those of unchanged files from earlier scans.

    A full scan decodes images; any other reads only their headers.
    """

    def __init__(
        self,
        root: Path,
        images: ImageReader,
        masks: MaskReader | None,
        full: bool,
        palette: Palette | None = None,
        options: MaskOptions = AS_STORED,
    ):
        """Read saved facts of the data set at `root`.

        `masks` snaps lossy masks; None without data.allow_lossy_masks. With a palette, RGB masks
        are colours even where all of them are grey.
        """
        self.root, self.images, self.masks = root, images, masks
        self.full, self.palette, self.options = full, palette, options
        # whatever changes facts is in the name, so that other settings never read wrong ones
        settings = (str(root), repr(images), masks and masks.anchors.tolist(), palette, options)
        name = hashlib.sha256(repr((FACTS_VERSION, settings)).encode()).hexdigest()[:24]
        self.file = cache_folder() / "scan" / f"{name}.json"
        self.saved = read_saved(self.file)
        self.new: dict[str, list] = {}

    def __call__(self, samples: list[Sample]) -> list[PairFacts | UnreadablePair]:
        """Return the facts of the pairs, in their order, and save them for the next scan."""
        label = "reading images and masks" if self.full else "reading masks"
        facts = map_on_all_cores(self._pair, samples, label)
        if self.new:
            self.saved |= self.new
            self.new = {}
            with suppress(SegtrainError):  # a full or read-only disk: read again next time
                save_text(self.file, json.dumps(self.saved, separators=(",", ":")))
        return facts

    def _pair(self, sample: Sample) -> PairFacts | UnreadablePair:
        # taken before reading: a file that changes meanwhile is read again
        image_stamp, mask_stamp = stamp_files(sample.image), stamp_files(*sample.mask_files)
        image, mask = self._image(sample, image_stamp), self._mask(sample, mask_stamp)
        if isinstance(image, ImageFacts) and isinstance(mask, MaskFacts):
            return PairFacts(sample, image, mask, (*(image_stamp or ()), *(mask_stamp or ())))
        return UnreadablePair(sample, [part for part in (image, mask) if isinstance(part, str)])

    def _image(self, sample: Sample, stamp: Stamps | None) -> ImageFacts | str:
        key = f"image {sample.image}{sample.area or ''}"
        saved = self._recall(key, stamp, ImageFacts)
        if isinstance(saved, ImageFacts) and (saved.digest or not self.full):
            return saved
        read = image_facts if self.full else header_facts
        return self._read(key, stamp, partial(read, sample.image, self.images, sample.area))

    def _mask(self, sample: Sample, stamp: Stamps | None) -> MaskFacts | str:
        key = f"mask {sample.mask_source}"
        saved = self._recall(key, stamp, MaskFacts)
        if isinstance(saved, MaskFacts):
            return saved
        read = partial(mask_facts, sample.mask_source, self.masks, self.palette, self.options)
        return self._read(key, stamp, read)

    def _recall(self, key: str, stamp: Stamps | None, kind: type) -> ImageFacts | MaskFacts | None:
        try:
            when, fields = self.saved[key]
            return from_json(kind, fields) if tuple(map(tuple, when)) == stamp else None
        except (LookupError, TypeError, ValueError, AttributeError):  # none, or not written by us
            return None

    def _read(self, key: str, stamp: Stamps | None, read: Callable[[], Kind]) -> Kind | str:
        try:
            facts = read()
        except SegtrainError as error:
            return str(error)
        self.new[key] = [stamp, asdict(facts)]
        return facts


def read_saved(file: Path) -> dict[str, list]:
    """Return the saved facts, {} where there are none that can be read."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def from_json(kind: type, fields: dict) -> ImageFacts | MaskFacts:
    """Return facts from JSON, which turned tuples into lists and keys into text."""
    numbered = {
        key: {int(k): v for k, v in value.items()} if isinstance(value, dict) else value
        for key, value in fields.items()
    }
    return kind(**numbered | {"size": tuple(fields["size"])})


def header_facts(path: Path, images: ImageReader, area: Area | None = None) -> ImageFacts:
    size = area.size if area else images.size(path)
    return ImageFacts(size, *read_header(path))


def image_facts(path: Path, images: ImageReader, area: Area | None = None) -> ImageFacts:
    """Return facts of all pixels. Raises SegtrainError for an unreadable image."""
    pixels = images(path, area)  # first of all: it refuses images that are too large
    orientation, alpha, deep = read_header(path)
    height, width, channels = pixels.shape
    # with the shape: the bytes alone are equal for flat images of 2x6 and 3x4
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    planes = [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(channels)]
    histograms = np.array([plane.histogram() for plane in planes])
    levels = np.arange(256)
    return ImageFacts(
        (height, width),
        orientation,
        alpha,
        deep,
        digest.hexdigest(),
        difference_hash(planes[channels // 2]),  # green is most of what the eye sees
        height * width,
        (histograms @ levels).tolist(),
        (histograms @ levels**2).tolist(),
        int(np.flatnonzero(histograms.sum(0)).max()),
    )


def difference_hash(plane: Image.Image) -> int:
    """Return 64 bits: whether brightness rises from left to right in an 8x9 thumbnail.

    Krawetz, "Kind of Like That" (2013): near-duplicates differ in few bits.
    """
    small = np.asarray(plane.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes())


def mask_facts(
    source: MaskSource,
    masks: MaskReader | None,
    palette: Palette | None = None,
    options: MaskOptions = AS_STORED,
) -> MaskFacts:
    """Return facts of all pixels. Raises SegtrainError for a file that can't be a mask."""
    reordered = False
    try:
        stored = read_raw(source, palette, options)
    except ContradictoryPalette:  # reported with those of the other masks
        stored = read_mask(source, options.max_pixels, options.upright)
        reordered = True
    raw, lossy = stored.values, stored.lossy
    smooth, snapped, tolerance = smooth_share(raw), 0, NEARLY_GREY if lossy else 0
    values = None if palette and raw.ndim == 3 else grey_values(raw, tolerance)
    checksum = checksum_values(raw if values is None else values)
    if masks and (lossy or smooth > SMOOTH or isinstance(source, MaskArea)):
        nearest = masks.snap(raw)
        before = raw if raw.ndim == nearest.ndim else raw[..., 1]  # grey in three channels
        snapped = int((nearest != before).reshape(*raw.shape[:2], -1).any(2).sum())
        raw = nearest
        values = None if palette and raw.ndim == 3 else grey_values(raw, tolerance)
    counts, distinct = count_values(encode_colours(raw) if values is None else values)
    by_kind = ({}, counts) if values is None else (counts, {})
    high = any(HIGHEST_ID < value != 255 for value in by_kind[0])
    hard = isinstance(source, DrawnMask) or not (lossy or smooth > SLIGHTLY_SMOOTH or high)
    own = [] if stored.palette is None else encode_colours(stored.palette).tolist()
    used = {index: own[index] for index in by_kind[0] if 0 <= index < len(own)}
    repeated = sorted({code for code in used.values() if own.count(code) > 1})
    return MaskFacts(
        raw.shape[:2],
        *by_kind,
        distinct,
        lossy,
        smooth,
        snapped,
        used,
        repeated,
        reordered,
        raw.ndim == 3 and values is not None,
        raw.dtype == bool,
        stored.nodata,
        *count_areas(raw if values is None else values, lossy, hard),
        checksum,
    )


def checksum_values(values: np.ndarray) -> int:
    """Return the CRC-32 of whole numbers (H,W), or colours (H,W,3), whatever their type is."""
    if values.dtype not in (np.uint8, bool):
        fits = values.size and 0 <= values.min() and values.max() <= 255
        values = values.astype(np.uint8 if fits else "<i8")
    shape = zlib.crc32(repr(values.shape).encode())
    return zlib.crc32(np.ascontiguousarray(values).data, shape)


def count_areas(
    values: np.ndarray, lossy: bool, hard: bool
) -> tuple[dict[int, int] | None, dict[int, int]]:
    """Return MaskFacts.flat and even, only of masks that may hold other values than classes."""
    if hard:
        return None, {}
    even = count_values(even_blocks(values))[0] if lossy else {}
    return count_values(flat_values(values, lossy))[0], even


def count_values(values: np.ndarray) -> tuple[dict[int, int], int]:
    """Return pixels by value, of the most frequent ones only, and the number of all values."""
    if values.dtype in (np.uint8, np.uint16, bool):  # far quicker than the sort of np.unique
        histogram = np.bincount(values.ravel()).tolist()
        pixels = {value: count for value, count in enumerate(histogram) if count}
    else:
        pixels = count_unique(values)
    if len(pixels) <= MOST_VALUES:
        return pixels, len(pixels)
    most = sorted(pixels, key=pixels.__getitem__, reverse=True)[:MOST_VALUES]
    return {value: pixels[value] for value in sorted(most)}, len(pixels)


def map_on_all_cores(function: Callable, items: list, label: str) -> list:
    """Return the results of `function` for the items, in order, behind a progress bar."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
        return list(progress(pool.map(function, items), label, len(items)))
