"""Mask files to class ids; refuses what would be a wrong label in silence."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.data.coco import CocoMask
from segtrain.data.decoding import MAX_PIXELS, open_upright, read_array
from segtrain.data.findings import yaml_line
from segtrain.errors import SegtrainError, shorten

Palette = Sequence[tuple[int, int, int]]
MaskSource = Path | CocoMask
UNKNOWN = -32768  # marks mask values that are neither a class nor ignored
SMOOTH = 0.1  # least smooth_share of an anti-aliased mask; hard ones have next to none
NEARLY_GREY = 16  # most that the channels of a grey colour JPEG differ
SPREAD = {"'L;2'": 85, "'L;4'": 17}  # by Pillow's raw mode
GREY_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "LA", "PA"}
LOSSY = "lossy compression (JPEG) changes labels along every edge"


def read_raw(
    source: MaskSource, max_pixels: int = MAX_PIXELS, palette: Palette | None = None
) -> tuple[np.ndarray, bool]:
    """What the mask holds and whether it is lossy: (H,W) grey levels, palette indices or category
    ids, or (H,W,3) colours.

    Raises SegtrainError for a damaged file, for one that can't be a mask, and for an indexed one
    whose own palette has the colours of `palette` at other places: do indices count, or colours?
    """
    if isinstance(source, CocoMask):
        return source.values(), False
    if source.suffix.lower() == ".npy":
        return _whole_numbers(read_array(source, max_pixels)[0], source), False
    mask = open_upright(source, max_pixels)
    lossy = mask.format in ("JPEG", "MPO") or mask.format == "WEBP" and not is_lossless(source)
    if mask.mode == "P" and palette and is_reordered(mask, palette):
        raise SegtrainError(
            f"{source}: its own palette has the colours of data.palette at other places: indices "
            "and colours contradict; save it as RGB, or indexed in the order of data.palette"
        )
    if mask.mode in GREY_MODES:
        values = np.asarray(mask)
        values = values[..., 0] if values.ndim == 3 else values
        # Pillow spreads 2 and 4 bits over 0..255; ids are what they were
        spread = next((step for raw, step in SPREAD.items() if raw in mask.info["raw"]), 1)
        return values // spread if spread > 1 else values, lossy
    if mask.mode in ("RGB", "RGBA"):
        return np.asarray(mask)[..., :3], lossy
    if mask.mode == "F":
        return _whole_numbers(np.asarray(mask), source), lossy
    raise SegtrainError(f"{source}: masks are grey, palette or RGB images, this one is {mask.mode}")


def is_reordered(mask: Image.Image, palette: Palette) -> bool:
    """Whether all colours of an indexed mask are in the palette, but not all at their indices."""
    own = np.array(mask.getpalette("RGB")).reshape(-1, 3).tolist()
    used = [index for index, count in enumerate(mask.histogram()) if count]
    colours = {index: tuple(own[index]) for index in used if index < len(own)}
    known = [tuple(colour) for colour in palette]
    moved = any(known[index : index + 1] != [colour] for index, colour in colours.items())
    return moved and len(colours) == len(used) and set(colours.values()) <= set(known)


def smooth_share(values: np.ndarray) -> float:
    """Of the places in rows or columns where values change, the share in between the two others.

    A hard edge has none, an anti-aliased one a third and more. values: (H,W), or colours (H,W,3).
    """
    values = values if values.ndim == 2 else values[..., 1]
    shares = []
    for lines in (values, values.T):
        before, middle, after = lines[:, :-2], lines[:, 1:-1], lines[:, 2:]
        changes = int((before != after).sum())
        between = (before < middle) & (middle < after) | (before > middle) & (middle > after)
        shares.append(int(between.sum()) / changes if changes else 0.0)
    return max(shares)


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        flat = values[0] if values.shape[0] == 1 else values[..., 0]
    else:
        flat = values
    if flat.ndim != 2 and not (flat.ndim == 3 and flat.shape[2] == 3 and flat.dtype == np.uint8):
        raise SegtrainError(f"{path}: expected a mask of height x width, got {values.shape}")
    if flat.dtype.kind == "f" and (flat == np.rint(flat)).all():
        flat = flat.astype(np.int64)
    if flat.dtype.kind not in "iub":
        raise SegtrainError(f"{path}: expected whole numbers as mask values, got {values.dtype}")
    return flat


def is_lossless(path: Path) -> bool:
    with open(path, "rb") as file:
        return b"VP8L" in file.read(64)


def grey_values(raw: np.ndarray, tolerance: int = 0) -> np.ndarray | None:
    """(H,W) values of a raw mask; of colours only where all are grey, as some tools save ids."""
    if raw.ndim == 2:
        return raw
    middle = raw[..., 1].astype(np.int16)
    grey = all(np.abs(raw[..., c] - middle).max(initial=0) <= tolerance for c in (0, 2))
    return raw[..., 1] if grey else None


def code(rgb: np.ndarray) -> np.ndarray:
    """(...,3) uint8 -> (...) one integer a colour."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def colour_of(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


def colour_counts(codes: Mapping[int, int]) -> list[str]:
    """'(r, g, b) (n px)' of each colour's code, the most frequent first."""
    return [f"{colour_of(c)} ({count} px)" for c, count in Counter(codes).most_common()]


class MaskReader:
    """Reads masks as class ids: the label map applied, anything unknown refused.

    A value that `label_map` names becomes what it says; any other stays as it is and must be a
    class id or `lb_ignore`. Nothing is clipped. Colours mean their place in `palette`. With
    `allow_lossy`, values and colours of lossy and smooth masks that mean nothing become the nearest
    that does: of grey values, those that `label_map` names, and ids that it names no value for.
    """

    def __init__(
        self,
        num_classes: int,
        label_map: Mapping[int, int | str] = {},
        lb_ignore: int = 255,
        palette: Palette | None = None,
        allow_lossy: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        self.num_classes = num_classes
        self.lb_ignore = lb_ignore
        self.palette = palette
        self.label_map = dict(sorted(label_map.items()))
        self.allow_lossy, self.max_pixels = allow_lossy, max_pixels
        small = 0 <= lb_ignore <= 255 and num_classes <= 256
        self.dtype = np.dtype(np.uint8 if small else np.int16)
        meaning = {i: i for i in (*range(num_classes), lb_ignore)}
        meaning |= {value: self._label(label) for value, label in label_map.items()}
        self.known = np.array(sorted(meaning), np.int64)
        self.labels = np.array([meaning[value] for value in sorted(meaning)], np.int16)
        # the same for uint8 masks, which bytes.translate maps at the speed of memory; what means
        # nothing becomes a byte that is no id
        grey = self.ids(np.arange(256))
        spare = set(range(256)) - set(grey.tolist())
        self.spare = bytes([min(spare)]) if spare and self.dtype == np.uint8 else b""
        if self.spare:
            table = np.where(grey == UNKNOWN, self.spare[0], grey).astype(np.uint8)
            self.bytes_table = table.tobytes()
        named = {meaning[value] for value in label_map}
        own = {i for i in (*range(num_classes), lb_ignore) if i not in named and i not in label_map}
        self.anchors = np.array(sorted({*label_map, *own}))

    def __repr__(self) -> str:
        """The arguments: equal for readers that read alike, in any process."""
        colours = [(red, green, blue) for red, green, blue in self.palette or ()]
        return (
            f"MaskReader({self.num_classes}, {self.label_map}, {self.lb_ignore}, {colours}, "
            f"{self.allow_lossy}, {self.max_pixels})"
        )

    def _label(self, label: int | str) -> int:
        return self.lb_ignore if label == "ignore" else int(label)

    def __call__(self, source: MaskSource) -> np.ndarray:
        """The mask as (H,W) of class ids and lb_ignore, in `dtype`. Raises SegtrainError."""
        raw, lossy = read_raw(source, self.max_pixels, self.palette)
        if lossy and not self.allow_lossy:
            raise SegtrainError(
                f"{source}: {LOSSY}; save masks as PNG, or take the nearest class with "
                "data.allow_lossy_masks: true"
            )
        if self.allow_lossy and (lossy or smooth_share(raw) > SMOOTH):
            raw = self.snap(raw)
        values = raw if raw.ndim == 2 else self._places(raw, source)
        if self.spare and values.dtype == np.uint8:
            pixels = bytearray(values.tobytes()).translate(self.bytes_table)
            if self.spare not in pixels:
                return np.frombuffer(pixels, np.uint8).reshape(values.shape)
        ids = self.ids(values)
        if (ids == UNKNOWN).any():
            found, counts = np.unique(values[ids == UNKNOWN], return_counts=True)
            unknown = dict(zip(found.tolist(), counts.tolist(), strict=True))
            raise SegtrainError(f"{source} has {self.explain(unknown)}")
        return ids.astype(self.dtype, copy=False)

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Class ids of mask values (any shape), UNKNOWN where there is none."""
        values = values.astype(np.int64)
        places = np.searchsorted(self.known, values).clip(max=len(self.known) - 1)
        return np.where(self.known[places] == values, self.labels[places], np.int16(UNKNOWN))

    def _places(self, rgb: np.ndarray, source: MaskSource) -> np.ndarray:
        """(H,W) places of the colours in the palette. Raises SegtrainError for others."""
        if not self.palette and (grey := grey_values(rgb)) is not None:
            return grey
        codes = code(rgb)
        places = self.places_of(codes)
        if (places < 0).any():
            found, counts = np.unique(codes[places < 0], return_counts=True)
            unknown = dict(zip(found.tolist(), counts.tolist(), strict=True))
            raise SegtrainError(f"{source}: {self.explain_colours(unknown)}")
        return places

    def places_of(self, codes: np.ndarray) -> np.ndarray:
        """Places of colour codes (any shape) in the palette, -1 where it lacks one."""
        if not self.palette:
            return np.full(codes.shape, -1, np.int16)
        known = code(np.array(self.palette, dtype=np.uint8))
        order = known.argsort(kind="stable")
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        return np.where(known[order][place] == codes, order[place], -1).astype(np.int16)

    def snap(self, raw: np.ndarray) -> np.ndarray:
        """The raw mask with each value or colour that means nothing made the nearest that does."""
        if raw.ndim == 3 and not self.palette:
            raw = raw if (grey := grey_values(raw, NEARLY_GREY)) is None else grey
        if raw.ndim == 2:
            middles = (self.anchors[1:] + self.anchors[:-1]) / 2
            return self.anchors[np.searchsorted(middles, raw)]
        if not self.palette:
            return raw
        codes, inverse = np.unique(code(raw), return_inverse=True)
        found = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1)
        # one colour after another: all distances at once may be gigabytes
        distances = [((found - colour) ** 2).sum(1) for colour in np.array(self.palette)]
        nearest = np.array(self.palette, np.uint8)[np.argmin(distances, 0)]
        return nearest[inverse].reshape(raw.shape)

    def explain(self, unknown: Mapping[int, int]) -> str:
        """What to say of values that are neither a class nor ignored; value: pixels."""
        found = shorten(f"{value} ({count} px)" for value, count in sorted(unknown.items()))
        return (
            f"value {found}, but classes are 0..{self.num_classes - 1} and {self.lb_ignore} is "
            f"ignored; fix the mask, or map the value: data.label_map: "
            + yaml_line({value: "ignore" for value in sorted(unknown)})
        )

    def explain_colours(self, unknown: Mapping[int, int]) -> str:
        """What to say of colours that the palette lacks; code: pixels."""
        found = shorten(colour_counts(unknown))
        if not self.palette:
            return f"an RGB mask needs data.palette, each class's colour in id order; found {found}"
        return f"colours that data.palette lacks: {found}"


def class_palette(
    num_classes: int, palette: Palette | None, label_map: Mapping[int, int | str]
) -> list[tuple[int, int, int]]:
    """One colour a class: of the first mask value that means it, else evenly spread hues."""
    if not palette:
        hues = (0.58 + 0.618034 * i for i in range(num_classes))  # golden ratio: neighbours differ
        return [_rgb(hue % 1, 0.75, 0.95 - 0.3 * (i % 2)) for i, hue in enumerate(hues)]
    meaning = [label_map.get(value, value) for value in range(len(palette))]
    places = (meaning.index(c) if c in meaning else c for c in range(num_classes))
    return [(red, green, blue) for red, green, blue in (palette[place] for place in places)]


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue
