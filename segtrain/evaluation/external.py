"""A split's predictions by another tool, as masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from segtrain.data.decoding import SUFFIXES
from segtrain.data.loading.dataset import Pairs, checked, one_by_one
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.evaluation.prediction import Prediction

MASK_SUFFIXES = SUFFIXES - {".jpg", ".jpeg"}


class PredictedMasks:
    """Reads masks that a tool predicted, in the place of images: (H,W,1) class ids."""

    def __init__(self, masks: MaskReader, hint: str):
        self.masks, self.hint = masks, hint

    def __call__(self, path: Path) -> np.ndarray:
        try:
            return self.masks(path)[..., None]
        except SegtrainError as error:
            raise SegtrainError(f"{error}{self.hint}") from error


def pairs_of_masks(
    folder: Path, samples: list[Sample], predicted: PredictedMasks, truth: MaskReader
) -> Pairs:
    """Pairs of a predicted mask, STEM_mask.png or STEM.png below `folder`, and the true one.

    Raises SegtrainError where one is not there, or which one is meant is not clear.
    """
    if not folder.is_dir():
        raise UsageError(f"--predictions {folder}: no such folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES and folder / "eval" not in path.parents:
            found.setdefault(path.stem, []).append(path)
    of_each = [found.get(f"{s.name}_mask") or found.get(s.name) or [] for s in samples]
    missing = [sample.name for sample, paths in zip(samples, of_each, strict=True) if not paths]
    if missing:
        raise SegtrainError(
            f"{folder}: no mask for {len(missing)} of {len(samples)} images: {shorten(missing)}; "
            f"expected {missing[0]}.png or {missing[0]}_mask.png"
        )
    chosen = [_only(paths, sample, folder) for sample, paths in zip(samples, of_each, strict=True)]
    first: dict[Path, Sample] = {}
    for path, sample in zip(chosen, samples, strict=True):
        if path in first:
            raise SegtrainError(
                f"{path} would be the prediction of both {first[path].image} and {sample.image}; "
                "put masks into folders that are named as those of the images"
            )
        first[path] = sample
    masks = [replace(sample, image=path) for sample, path in zip(samples, chosen, strict=True)]
    return Pairs(masks, predicted, truth)


def _only(paths: list[Path], sample: Sample, folder: Path) -> Path:
    """Of several masks of one name, the one below folders that are named as the image's."""
    around = set(sample.image.parent.parts)
    alike = [len(around & set(path.relative_to(folder).parent.parts)) for path in paths]
    paths = [path for path, names in zip(paths, alike, strict=True) if names == max(alike)]
    if len(paths) > 1:
        raise SegtrainError(
            f"two masks for {sample.image}: {paths[0]} and {paths[1]}; remove one, or put them "
            "into folders that are named as those of the images"
        )
    return paths[0]


def read_split(pairs: Pairs, indices: range, fabric: Fabric, workers: int) -> Iterator[Prediction]:
    """The masks of `pairs_of_masks`. Raises SegtrainError where one names no class at a pixel."""
    assert isinstance(pairs.images, PredictedMasks)
    lb_ignore, hint = pairs.masks.lb_ignore, pairs.images.hint
    for batch in checked(one_by_one(pairs, indices, workers)):
        index, target, ids = batch.indices[0], batch.targets[0], batch.images[0, 0]
        blank = int(((ids == lb_ignore) & (target != lb_ignore)).sum())
        if blank:
            raise SegtrainError(
                f"{pairs.samples[index].image}: {blank} pixels of {lb_ignore}, which is no class, "
                f"where the truth has one; a prediction names a class at each pixel{hint}"
            )
        yield Prediction(index, target.to(fabric.device), ids.to(fabric.device))
