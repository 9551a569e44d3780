"""Mask files to class ids; whatever would silently be a wrong label is refused."""

from __future__ import annotations

import colorsys
import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segtrain.config.types import Colour
from segtrain.data.areas import MaskArea
from segtrain.data.findings import yaml_line
from segtrain.data.indexed import Palette, resolve_indices
from segtrain.data.mask_options import AS_STORED, MaskOptions
from segtrain.data.stored_masks import MaskSource, StoredMask, read_mask
from segtrain.errors import SegtrainError, shorten

UNKNOWN = -32768  # marks mask values that are neither a class nor ignored
SMOOTH = 0.1  # lowest smooth_share of anti-aliased masks; hard edges have next to none
NEARLY_GREY = 16  # largest difference between the channels of a grey image saved as colour JPEG
LOSSY = "lossy compression (JPEG) changes labels along every edge"


def read_raw(
    source: MaskSource, palette: Palette | None = None, options: MaskOptions = AS_STORED
) -> StoredMask:
    """Return a mask as its file has it, with what its indices stand for.

    Raises SegtrainError for a damaged file, for one that can't be a mask, and for an indexed one
    whose indices and colours contradict `palette`.
    """
    stored = read_mask(source, options.max_pixels, options.upright)
    try:
        return resolve_indices(stored, palette, options)
    except SegtrainError as error:
        raise type(error)(f"{source}: {error}") from error


def smooth_share(values: np.ndarray) -> float:
    """Return the share of value changes that pass through a value between their neighbours'.

    Taken along rows and along columns, the larger of the two. Hard edges have none, anti-aliased
    ones a third and more. values: (H,W), or colours (H,W,3).
    """
    values = values if values.ndim == 2 else values[..., 1]  # one channel shows an edge as well
    shares = []
    for lines in (values, values.T):
        before, middle, after = lines[:, :-2], lines[:, 1:-1], lines[:, 2:]
        changes = int((before != after).sum())
        between = (before < middle) & (middle < after) | (before > middle) & (middle > after)
        shares.append(int(between.sum()) / changes if changes else 0.0)
    return max(shares)


def grey_values(raw: np.ndarray, tolerance: int = 0) -> np.ndarray | None:
    """Return (H,W) values of a raw mask; None for colours, unless all are grey.

    Some tools save ids as grey RGB; their channels may differ by `tolerance`.
    """
    if raw.ndim == 2:
        return raw
    middle = raw[..., 1].astype(np.int16)  # signed, so that differences don't wrap
    grey = all(np.abs(raw[..., c] - middle).max(initial=0) <= tolerance for c in (0, 2))
    return raw[..., 1] if grey else None


def encode_colours(rgb: np.ndarray) -> np.ndarray:
    """Return colours (...,3) uint8 as one integer each (...)."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def decode_colour(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def colour_counts(codes: Mapping[int, int]) -> list[str]:
    """Return '(r, g, b) (n px)' for each colour code, the most frequent first."""
    return [f"{decode_colour(c)} ({count} px)" for c, count in Counter(codes).most_common()]


def count_unique(values: np.ndarray) -> dict[int, int]:
    """Return the pixels of each value, in ascending order of values."""
    unique, counts = np.unique(values, return_counts=True)
    return dict(zip(unique.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class NetworkIds:
    """A network's ids of a data set's classes, in their order, and the number of its classes."""

    ids: tuple[int, ...]
    count: int


class MaskReader:
    """A reader of masks as class ids: the label map applied, unknown values refused.

    Values in `label_map` are mapped, nodata is ignored; any other must itself be a class id or
    `lb_ignore`, unless options.other_values gives the rest a meaning. Nothing is clipped. A colour
    stands for its index in `palette`. With `allow_lossy`, unknown values and colours of lossy or
    smooth masks become the nearest known one: grey values the nearest of those in `label_map` and
    of the ids to which it maps no value.
    """

    def __init__(
        self,
        num_classes: int,
        label_map: Mapping[int, int | str] = {},
        lb_ignore: int = 255,
        palette: Palette | None = None,
        allow_lossy: bool = False,
        options: MaskOptions = AS_STORED,
    ):
        self.num_classes = num_classes
        self.lb_ignore = lb_ignore
        self.palette = palette
        self.label_map = dict(sorted(label_map.items()))
        self.allow_lossy, self.options = allow_lossy, options
        meaning = {i: i for i in (*range(num_classes), lb_ignore)}
        meaning |= dict.fromkeys(options.nodata or (), lb_ignore)
        for value, label in label_map.items():
            meaning[value] = lb_ignore if label == "ignore" else int(label)
        self.meaning = dict(sorted(meaning.items()))
        self.known = np.array(list(self.meaning), np.int64)
        # an id to which the map has values is not itself a value of the masks
        mapped = {meaning[value] for value in label_map}
        self.anchors = np.array(sorted({*label_map, *(meaning.keys() - mapped)}))
        self._number(NetworkIds(tuple(range(num_classes)), num_classes))

    def for_network(self, network: NetworkIds) -> MaskReader:
        """Return a reader of the same masks as the ids of a network that numbers classes itself."""
        reader = copy.copy(self)
        reader._number(network)
        return reader

    def _number(self, network: NetworkIds) -> None:
        """Set the ids that masks are read as; all else is about the data set's own ids."""
        self.network = network
        # half the bytes to load and cache
        small = 0 <= self.lb_ignore <= 255 and network.count <= 256
        self.dtype = np.dtype(np.uint8 if small else np.int16)
        other = self.options.other_values
        self.other = UNKNOWN
        if other is not None:
            self.other = self.lb_ignore if other == "ignore" else network.ids[int(other)]
        result = dict(enumerate(network.ids))
        labels = [result.get(label, label) for label in self.meaning.values()]
        self.labels = np.array(labels, np.int16)
        # bytes.translate maps uint8 masks at the speed of memory; unknown values become a byte
        # that is no id
        grey = self.ids(np.arange(256))
        spare = set(range(256)) - set(grey.tolist())
        self.spare = bytes([min(spare)]) if spare and self.dtype == np.uint8 else b""
        if self.spare:
            table = np.where(grey == UNKNOWN, self.spare[0], grey).astype(np.uint8)
            self.bytes_table = table.tobytes()

    def __repr__(self) -> str:
        """Return the arguments: equal for readers that read alike, in any process."""
        colours = [(red, green, blue) for red, green, blue in self.palette or ()]
        return (
            f"MaskReader({self.num_classes}, {self.label_map}, {self.lb_ignore}, {colours}, "
            f"{self.allow_lossy}, {self.options}, {self.network})"
        )

    def __call__(self, source: MaskSource) -> np.ndarray:
        """Return the mask as (H,W) class ids and lb_ignore, in `dtype`. Raises SegtrainError."""
        stored = read_raw(source, self.palette, self.options)
        raw, lossy = stored.values, stored.lossy
        if lossy and not self.allow_lossy:
            raise SegtrainError(
                f"{source}: {LOSSY}; save masks as PNG, or take the nearest class with "
                "data.allow_lossy_masks: true"
            )
        # an area may have hard edges only, of a mask whose others are smooth
        is_area = isinstance(source, MaskArea)
        if self.allow_lossy and (lossy or is_area or smooth_share(raw) > SMOOTH):
            raw = self.snap(raw)
        values = raw if raw.ndim == 2 else grey_values(raw) if not self.palette else None
        if values is None:
            return self._colour_ids(raw, source)
        tag = stored.nodata
        if tag is not None and self.is_ambiguous(tag) and (values == tag).any():
            raise SegtrainError(
                f"{source}: its tag names {tag:g} as nodata, which is a class id; choose "
                f"data.nodata: [{tag:g}], or data.nodata: [] (it is the class)"
            )
        if self.spare and values.dtype == np.uint8:
            pixels = bytearray(values.tobytes()).translate(self.bytes_table)
            if self.spare not in pixels:
                return np.frombuffer(pixels, np.uint8).reshape(values.shape)
        ids = self.ids(values, tag)
        if (ids == UNKNOWN).any():
            unknown = count_unique(values[ids == UNKNOWN])
            raise SegtrainError(f"{source} has {self.explain(unknown)}")
        return ids.astype(self.dtype, copy=False)

    def is_ambiguous(self, tag: float | None) -> bool:
        """Return whether a file's nodata tag names a class, which it may mean or not.

        Of two classes it can't be nodata: one alone can't be trained.
        """
        named = self.options.nodata is not None or tag in self.label_map
        return not named and tag in range(self.num_classes) and self.num_classes > 2

    def ids(self, values: np.ndarray, tag: float | None = None) -> np.ndarray:
        """Return the class ids of mask values (any shape), UNKNOWN for unknown ones.

        tag: the value that the file itself names as nodata.
        """
        values = values.astype(np.int64)
        nearest = np.searchsorted(self.known, values).clip(max=len(self.known) - 1)
        ids = np.where(self.known[nearest] == values, self.labels[nearest], np.int16(UNKNOWN))
        rest = ids == UNKNOWN
        if rest.any():
            nodata = self.options.find_nodata(values[rest], tag)
            ids[rest] = np.where(nodata, self.lb_ignore, self.other)
        return ids

    def _colour_ids(self, rgb: np.ndarray, source: MaskSource) -> np.ndarray:
        """Return (H,W) class ids of colours (H,W,3). Raises SegtrainError for unknown ones."""
        codes = encode_colours(rgb)
        indices = self.palette_indices(codes)
        lacking = indices < 0
        if lacking.any() and (self.other == UNKNOWN or not self.palette):
            unknown = count_unique(codes[lacking])
            raise SegtrainError(f"{source}: {self.explain_colours(unknown)}")
        ids = np.where(lacking, np.int16(self.other), self.ids(indices))
        if (ids == UNKNOWN).any():
            raise SegtrainError(
                f"{source} has {self.explain(count_unique(indices[ids == UNKNOWN]))}"
            )
        return ids.astype(self.dtype, copy=False)

    def palette_indices(self, codes: np.ndarray) -> np.ndarray:
        """Return the palette's indices of colour codes (any shape), -1 where it lacks one."""
        if not self.palette:
            return np.full(codes.shape, -1, np.int16)
        known = encode_colours(np.array(self.palette, dtype=np.uint8))
        order = known.argsort(kind="stable")  # of equal colours, the lowest index counts
        nearest = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        return np.where(known[order][nearest] == codes, order[nearest], -1).astype(np.int16)

    def snap(self, raw: np.ndarray) -> np.ndarray:
        """Return the raw mask with each unknown value or colour set to the nearest known one."""
        if raw.ndim == 3 and not self.palette:
            raw = raw if (grey := grey_values(raw, NEARLY_GREY)) is None else grey
        if raw.ndim == 2:
            middles = (self.anchors[1:] + self.anchors[:-1]) / 2
            nearest = self.anchors[np.searchsorted(middles, raw)]
            nodata = self.options.find_nodata(raw) & ~np.isin(raw, self.anchors)
            return np.where(nodata, raw, nearest)
        if not self.palette:
            return raw
        codes, inverse = np.unique(encode_colours(raw), return_inverse=True)
        colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1)
        # colour by colour: all distances at once could take gigabytes
        distances = [((colours - colour) ** 2).sum(1) for colour in np.array(self.palette)]
        nearest = np.array(self.palette, np.uint8)[np.argmin(distances, 0)]
        return nearest[inverse].reshape(raw.shape)

    def explain(self, unknown: Mapping[int, int]) -> str:
        """Return the message about values (value: pixels) that are neither a class nor ignored."""
        values = shorten(f"{value} ({count} px)" for value, count in sorted(unknown.items()))
        return (
            f"value {values}, but classes are 0..{self.num_classes - 1} and {self.lb_ignore} is "
            f"ignored; fix the mask, or map the value: data.label_map: "
            + yaml_line({value: "ignore" for value in sorted(unknown)})
        )

    def explain_colours(self, unknown: Mapping[int, int]) -> str:
        """Return the message about colours (code: pixels) that the palette lacks."""
        colours = shorten(colour_counts(unknown))
        if self.palette:
            return f"colours that data.palette lacks: {colours}"
        return f"an RGB mask needs data.palette, each class's colour in id order; found {colours}"


def class_palette(
    num_classes: int, palette: Palette | None, label_map: Mapping[int, int | str]
) -> list[Colour]:
    """Return one RGB colour for each class.

    It is that of the first mask value which maps to the class; without a palette, hues are spread
    evenly.
    """
    if not palette:
        hues = (0.58 + 0.618034 * i for i in range(num_classes))  # golden ratio: neighbours differ
        return [_rgb(hue % 1, 0.75, 0.95 - 0.3 * (i % 2)) for i, hue in enumerate(hues)]
    labels = [label_map.get(value, value) for value in range(len(palette))]
    values = (labels.index(c) if c in labels else c for c in range(num_classes))
    return [palette[value] for value in values]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue
