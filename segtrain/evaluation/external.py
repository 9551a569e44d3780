"""Predictions of a split by another tool, read from masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from segtrain.data.decoding import SUFFIXES
from segtrain.data.loading.dataset import Pairs, make_image_loader, read_batches
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.evaluation.prediction import Prediction
from segtrain.metrics.calibration import Calibration

MASK_SUFFIXES = SUFFIXES - {".jpg", ".jpeg"}


class PredictedMasks:
    """Reader of predicted masks in the role of images: (H,W,1) class ids.

    Its errors end with `hint`.
    """

    def __init__(self, masks: MaskReader, hint: str = ""):
        self.masks, self.hint = masks, hint

    def __call__(self, path: Path) -> np.ndarray:
        try:
            return self.masks(path)[..., None]
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

    def predict(
        self, indices: range, calibration: Calibration | None = None
    ) -> Iterator[Prediction]:
        """Yield the predicted masks of `indices`; without probabilities nothing is calibrated.

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
                    "class, where the truth has one; a prediction needs a class at each pixel"
                    f"{self.reader.hint}"
                )
            yield Prediction(index, target.to(self.device), ids.to(self.device))


def find_masks(folder: Path, samples: list[Sample]) -> list[Sample]:
    """Return the samples with the predicted mask, STEM_mask.png or STEM.png, instead of the image.

    Masks are found anywhere below `folder`. Raises SegtrainError where one is missing or ambiguous.
    """
    if not folder.is_dir():
        raise UsageError(f"--predictions {folder}: no such folder")
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
        if path in taken:
            raise SegtrainError(
                f"{path} would be the prediction of both {taken[path].image} and {sample.image}; "
                "put the masks into folders with the names of the images' folders"
            )
        taken[path] = sample
    return [replace(sample, image=path) for sample, path in zip(samples, chosen, strict=True)]


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
