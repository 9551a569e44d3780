"""Predictions of a split by another tool, read from masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segtrain.config.types import Colour
from segtrain.data.areas import Area, MaskArea
from segtrain.data.decoding import SUFFIXES
from segtrain.data.indexed import Palette, is_indexed
from segtrain.data.inspection.palettes import describe, find_contradiction
from segtrain.data.inspection.scan import ImageFacts, PairFacts, map_on_all_cores, mask_facts
from segtrain.data.loading.dataset import Pairs, make_image_loader, read_batches
from segtrain.data.masks import MaskReader, MaskSource, decode_colour, encode_colours
from segtrain.data.sample import Sample
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError, shorten
from segtrain.evaluation.prediction import Prediction
from segtrain.metrics.calibration import LogitReader

MASK_SUFFIXES = SUFFIXES - {".jpg", ".jpeg"}


class PredictedMasks:
    """Reader of predicted masks in the role of images: (H,W,1) class ids.

    Its errors end with `hint`.
    """

    def __init__(self, masks: MaskReader, hint: str = ""):
        self.masks, self.hint = masks, hint

    def __call__(self, path: Path, area: Area | None = None) -> np.ndarray:
        try:
            return self.masks(MaskArea(path, area) if area else path)[..., None]
        except SegtrainError as error:
            raise SegtrainError(f"{error}{self.hint}") from error


@dataclass(frozen=True)
class MaskPredictor:
    """A split's predictions by another tool, in the role of a network's `SplitPredictor`."""

    samples: list[Sample]  # a predicted mask in the role of the image, and the true mask
    reader: PredictedMasks
    truth: MaskReader
    device: torch.device
    workers: int

    def predict(self, indices: range, reader: LogitReader | None = None) -> Iterator[Prediction]:
        """Yield the predicted masks of `indices`; there are no logits to read.

        Raises SegtrainError where a mask has no class at a pixel whose truth has one.
        """
        lb_ignore = self.truth.lb_ignore
        pairs = Pairs(self.samples, self.reader, self.truth)
        for batch in read_batches(make_image_loader(pairs, indices, self.workers)):
            index, target, ids = batch.indices[0], batch.targets[0], batch.images[0, 0]
            blank = int(((ids == lb_ignore) & (target != lb_ignore)).sum())
            if blank:
                raise SegtrainError(
                    f"{self.samples[index].image}: {blank} pixels of {lb_ignore}, which is no "
                    "class (predict's value where an image has no data), where the truth has one; "
                    "a prediction needs a class at each pixel, or the truth none there"
                    f"{self.reader.hint}"
                )
            yield Prediction(index, target.to(self.device), ids.to(self.device))


def find_masks(folder: Path, samples: list[Sample]) -> list[Sample]:
    """Return the samples with the predicted mask, STEM_mask.png or STEM.png, instead of the image.

    Masks are found anywhere below `folder`. Raises SegtrainError where one is missing or ambiguous.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        # the pictures of an earlier report are no masks
        if path.suffix.lower() in MASK_SUFFIXES and folder / "eval" not in path.parents:
            by_stem.setdefault(path.stem, []).append(path)
    candidates = [by_stem.get(f"{s.name}_mask") or by_stem.get(s.name) or [] for s in samples]
    missing = [sample.name for sample, paths in zip(samples, candidates, strict=True) if not paths]
    if missing:
        raise SegtrainError(
            f"{folder}: no mask for {len(missing)} of {len(samples)} images: {shorten(missing)}; "
            f"expected {missing[0]}.png or {missing[0]}_mask.png"
        )
    chosen = [
        _choose_mask(paths, sample, folder)
        for sample, paths in zip(samples, candidates, strict=True)
    ]
    taken: dict[Path, Sample] = {}
    for path, sample in zip(chosen, samples, strict=True):
        if path in taken and taken[path].image != sample.image:
            raise SegtrainError(
                f"{path} would be the prediction of both {taken[path].image} and {sample.image}; "
                "put the masks into folders with the names of the images' folders"
            )
        taken[path] = sample
    return [replace(sample, image=path) for sample, path in zip(samples, chosen, strict=True)]


def refuse_other_palettes(samples: list[Sample], predicted: MaskReader, truth: MaskReader) -> None:
    """Refuse indexed predictions whose palettes contradict each other, or the truth's.

    samples: as of `find_masks`. The truth's palette is data.palette, else that of its own indexed
    masks. Raises SegtrainError.
    """
    images = dict.fromkeys(sample.image for sample in samples)  # of areas each once
    files = [image for image in images if is_indexed(image)]
    if predicted.options.palette_by or not files:
        return
    palette = predicted.palette if truth.palette else None
    if not truth.palette and predicted.label_map == truth.label_map:
        palette = learn_palette([sample.mask for sample in samples], truth)
    facts = _read_palettes(files, predicted, palette)
    reordered = [f"{f.sample.mask}: {describe(f)}" for f in facts if f.mask.reordered]
    places = reordered or find_contradiction(facts)
    if not places:
        return
    against = "the data set's" if reordered else "each other's"
    fields: dict[str, Any] = {"palette_by": "colour"}
    if palette and not truth.palette:
        fields["palette"] = [list(colour) for colour in palette]
    ways = " ".join(f"--set 'data.{key}={value}'" for key, value in fields.items())
    if not palette:
        ways += " with data.palette, each class's colour in id order,"
    raise SegtrainError(
        f"the palettes of predicted masks contradict {against}: {shorten(places)}; {ways} reads "
        "their colours, --set data.palette_by=index their indices"
    )


def learn_palette(masks: list[MaskSource], reader: MaskReader) -> list[Colour] | None:
    """Return the colour of each value of indexed masks; None where they contradict or lack one.

    Classes without a pixel have the colours of the first file's palette.
    """
    files = [mask for mask in masks if isinstance(mask, Path) and is_indexed(mask)]
    facts = _read_palettes(files, reader, None)
    if not facts or find_contradiction(facts):
        return None
    whole = read_mask(facts[0].sample.mask, reader.options.max_pixels).palette
    codes = {} if whole is None else dict(enumerate(encode_colours(whole).tolist()))
    used = {index: code for fact in facts for index, code in fact.mask.palette.items()}
    codes |= used
    count = max(reader.num_classes, 1 + max(used, default=0))
    return [decode_colour(codes[i]) for i in range(count)] if count <= len(codes) else None


def _read_palettes(
    files: list[Path], reader: MaskReader, palette: Palette | None
) -> list[PairFacts]:
    """Return the facts of indexed masks that can be read; the others are reported when scored."""

    def read(path: Path) -> PairFacts | None:
        with suppress(SegtrainError):
            facts = mask_facts(path, None, palette, reader.options)
            return PairFacts(Sample(path, path), ImageFacts(facts.size), facts)
        return None

    return [fact for fact in map_on_all_cores(read, files, "reading palettes") if fact]


def _choose_mask(paths: list[Path], sample: Sample, folder: Path) -> Path:
    """Return the mask whose folders share most names with those of the image."""
    image_folders = set(sample.image.parent.parts)
    shared = [len(image_folders & set(path.relative_to(folder).parent.parts)) for path in paths]
    best = [path for path, count in zip(paths, shared, strict=True) if count == max(shared)]
    if len(best) > 1:
        raise SegtrainError(
            f"two masks for {sample.image}: {best[0]} and {best[1]}; remove one, or put them into "
            "folders with the names of the images' folders"
        )
    return best[0]
