"""Augmentation of a training pair: our own crop, flips and jitter, then a list of transforms.

The crop is cut out of the source before anything is resized, so the cost is that of the crop and
not of the image. An object of another image is pasted into it before all else, so that flips,
colours, blur and noise are the same for both, and tell nothing of what is pasted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from segtrain.config import AugmentConfig
from segtrain.data.loading.copy_paste import CropView, Patch, draw_patch
from segtrain.data.loading.sampling import PASTED, Draw, seed_at
from segtrain.errors import UsageError

cv2.setNumThreads(0)  # loader workers are the parallelism

MEAN_COLOUR = (124, 116, 104)  # ImageNet's, so that padding is 0 once normalised
MEAN_VALUE = 128  # of channels other than RGB
GREY = (0.299, 0.587, 0.114)  # luma of RGB

STRONG = {  # geometric transforms come last, so that their corners and holes stay plain
    # hue alone: the jitter has changed saturation and brightness
    "HueSaturationValue": dict(hue_shift_limit=12, sat_shift_limit=0, val_shift_limit=0, p=0.5),
    "RandomGamma": dict(gamma_limit=(80, 120), p=0.3),
    "GaussianBlur": dict(blur_limit=(3, 7), p=0.2),
    "GaussNoise": dict(std_range=(0.01, 0.05), p=0.2),
    "ImageCompression": dict(quality_range=(40, 95), p=0.3),
    "Affine": dict(rotate=(-15, 15), shear=(-5, 5), p=0.5),
    "CoarseDropout": dict(
        num_holes_range=(1, 4), hole_height_range=(0.05, 0.2), hole_width_range=(0.05, 0.2), p=0.3
    ),
}
RGB_ONLY = {"HueSaturationValue", "ImageCompression"}

PRESET_FIELDS = ("scale", "hflip", "vflip", "jitter")
PRESETS: dict[str, tuple] = {  # values of PRESET_FIELDS
    "none": ((1.0, 1.0), 0.0, 0.0, 0.0),
    "light": ((0.8, 1.25), 0.5, 0.0, 0.1),
    "standard": ((0.5, 2.0), 0.5, 0.0, 0.3),
    "strong": ((0.5, 2.0), 0.5, 0.0, 0.4),
}


class Span(NamedTuple):
    """One axis of a crop: the pixels of the source, and their place in the crop."""

    source: slice
    target: slice

    @property
    def size(self) -> int:
        return self.target.stop - self.target.start

    @property
    def factor(self) -> float:
        return self.size / (self.source.stop - self.source.start)


class Augmentation:
    """A crop and the config's changes, as a function of pair, seed and draw.

    Padding is the mean colour in images (128 where they aren't RGB) and lb_ignore in masks; no
    later change alters it. Raises UsageError for transforms that can't be used.
    """

    def __init__(
        self,
        config: AugmentConfig,
        crop: tuple[int, int],
        lb_ignore: int,
        seed: int,
        channels: int = 3,
    ):
        """`crop` is (height, width), instead of the config's, which may be open."""
        settings, entries = _resolve_settings(config, channels)
        self.scale, self.jitter = settings["scale"], settings["jitter"]
        self.flips = settings["vflip"], settings["hflip"]  # by axis
        self.crop, self.lb_ignore, self.seed = crop, lb_ignore, seed
        self.colour = MEAN_COLOUR if channels == 3 else (MEAN_VALUE,) * channels
        fill = {"fill": MEAN_COLOUR if channels == 3 else MEAN_VALUE, "fill_mask": lb_ignore}
        self.transform = None
        if entries:  # albumentations and scipy take half a second to import
            from segtrain.data.loading.transforms import build_transforms

            self.transform = build_transforms(entries, (*self.crop, channels), fill)

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        draw: Draw,
        source: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image (H,W,C) uint8 and mask (H,W) uint8 or int16, both of the crop's size.

        The mask holds class ids and lb_ignore. `source` is the pair that draw.patch names. The
        arguments are not changed in place.
        """
        rows, columns, rng = self._window(mask, draw)
        image = _resize(image, rows, columns, cv2.INTER_LINEAR)
        mask, patch = self._cut_mask(mask, rows, columns, draw, source[1] if source else None)
        if source and patch:
            patch.paste(source[0], image.reshape(*mask.shape, -1))
        for axis, probability in enumerate(self.flips):
            if rng.random() < probability:
                image, mask = cv2.flip(image, axis), cv2.flip(mask, axis)
        image = image.reshape(*mask.shape, -1)  # cv2 drops the axis of a single channel
        if self.jitter:
            image = _jitter(image, self.jitter, rng)  # before padding, which stays unchanged
        image = self._pad(image, rows, columns, self.colour)
        padded = self._pad(mask, rows, columns, self.lb_ignore)
        if not self.transform:
            return image, padded
        self.transform.set_random_seed(int(rng.integers(2**32)))
        content = np.full_like(mask, int(self.lb_ignore == 0))  # any value but lb_ignore
        padding = self._pad(content, rows, columns, self.lb_ignore)
        changed = self.transform(image=image, mask=padded, padding=padding)
        image = changed["image"]
        image[changed["padding"] == self.lb_ignore] = self.colour  # noise may have changed it
        return image, changed["mask"]

    def crop_mask(
        self, mask: np.ndarray, draw: Draw, source_mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the mask's crop of a draw as in a call, before flips and transforms."""
        rows, columns, _ = self._window(mask, draw)
        cut, _ = self._cut_mask(mask, rows, columns, draw, source_mask)
        return self._pad(cut, rows, columns, self.lb_ignore)

    def _cut_mask(
        self,
        mask: np.ndarray,
        rows: Span,
        columns: Span,
        draw: Draw,
        source_mask: np.ndarray | None,
    ) -> tuple[np.ndarray, Patch | None]:
        """Return a copy of the mask's window, with the patch of the draw, and that patch."""
        # INTER_NEAREST would shift labels, by a pixel and more where it shrinks
        cut = _resize(mask, rows, columns, cv2.INTER_NEAREST_EXACT)
        if source_mask is None or draw.patch is None:
            return cut, None
        # of its own, so that crops are the same with and without a patch
        rng = np.random.default_rng(seed_at(self.seed, draw.pass_, draw.index, PASTED))
        top = -rows.source.start * rows.factor
        view = CropView(cut.shape, rows.factor, top, top + len(mask) * rows.factor)
        patch = draw_patch(source_mask, draw.patch.class_id, view, self.flips, rng)
        if patch:
            cut[patch.target][patch.pixels] = draw.patch.class_id
        return cut, patch

    def _window(self, mask: np.ndarray, draw: Draw) -> tuple[Span, Span, np.random.Generator]:
        """Return rows, columns, and the generator for all later draws."""
        rng = np.random.default_rng(seed_at(self.seed, draw.pass_, draw.index))
        factor = rng.uniform(*self.scale)
        pixels = np.flatnonzero(mask == draw.focus) if draw.focus >= 0 else ()
        centre = np.unravel_index(rng.choice(pixels), mask.shape) if len(pixels) else (None, None)
        rows, columns = (
            _span(length, crop, factor, middle, rng)
            for length, crop, middle in zip(mask.shape, self.crop, centre, strict=True)
        )
        return rows, columns, rng

    def _pad(self, content: np.ndarray, rows: Span, columns: Span, value) -> np.ndarray:
        if content.shape[:2] == self.crop:
            return content
        padded = np.empty((*self.crop, *content.shape[2:]), content.dtype)
        padded[...] = value
        padded[rows.target, columns.target] = content
        return padded


def _resolve_settings(config: AugmentConfig, channels: int) -> tuple[dict[str, Any], list]:
    """Return the values of PRESET_FIELDS, and the list of transforms in the config's form."""
    given = {name: value for name in PRESET_FIELDS if (value := getattr(config, name)) is not None}
    values = dict(zip(PRESET_FIELDS, PRESETS[config.preset], strict=True)) | given
    if config.transforms is None:
        names = STRONG if config.preset == "strong" else ()
        return values, [{n: STRONG[n]} for n in names if channels == 3 or n not in RGB_ONLY]
    if replaced := [name for name in PRESET_FIELDS if name in given and name != "scale"]:
        raise UsageError(
            f"augment.transforms replaces augment.{replaced[0]}; leave one of them out "
            "(HorizontalFlip, VerticalFlip and ColorJitter are transforms, too)"
        )
    return values | {"hflip": 0, "vflip": 0, "jitter": 0}, config.transforms


def _span(
    length: int, crop: int, factor: float, middle: int | None, rng: np.random.Generator
) -> Span:
    """Return a span of `crop` pixels of an axis scaled by `factor`, around `middle` or anywhere."""
    size = round(length * factor)
    if size < crop:  # the whole axis, somewhere in the crop
        size = max(1, size)
        start = int(rng.integers(crop - size + 1))
        return Span(slice(0, length), slice(start, start + size))
    taken = min(length, max(1, round(crop / factor)))
    last = length - taken
    if middle is None:
        start = int(rng.integers(last + 1))
    else:
        start = min(max(middle - taken // 2, 0), last)
    return Span(slice(start, start + taken), slice(0, crop))


def _resize(array: np.ndarray, rows: Span, columns: Span, interpolation: int) -> np.ndarray:
    """Return a copy of the window of an array, resized to its size in the crop."""
    window = array[rows.source, columns.source]
    if window.shape[:2] == (rows.size, columns.size):
        return window.copy()
    return cv2.resize(window, (columns.size, rows.size), interpolation=interpolation)


def _jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast about the mean and, of RGB, saturation, in one linear map."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    values = image if image.shape[2] == 3 else image.reshape(len(image), -1, 1)
    mean = brightness * cv2.mean(image.reshape(len(image), -1))[0]
    # one map and one rounding: colour by colour it would be three passes that each clip
    colours = np.eye(values.shape[2])
    if len(colours) == 3:
        colours = saturation * colours + (1 - saturation) * np.array(GREY)
    offset = np.full((len(colours), 1), mean * (1 - contrast))
    matrix = np.hstack([brightness * contrast * colours, offset])
    return cv2.transform(values, matrix).reshape(image.shape)
