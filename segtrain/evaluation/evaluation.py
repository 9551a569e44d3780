"""One evaluation: predictions of a split with their classes, colours and origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from segtrain.config import Config
from segtrain.data.data_set import DataSet
from segtrain.data.groups import group_images, name_images
from segtrain.data.loading.dataset import Pairs
from segtrain.distributed.devices import resolve_precision
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.prediction import Prediction
from segtrain.evaluation.score_record import ScoreRecord, digest_images
from segtrain.metrics.calibration import LogitReader
from segtrain.models.inference import choose_window
from segtrain.models.tuning import Tuning
from segtrain.render.overlay import ClassColours


@dataclass(frozen=True)
class ScoredCheckpoint:
    """The checkpoint whose weights are scored."""

    path: Path
    weights: str  # hash
    epoch: int
    step: int | None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: the predictions of a split and the metadata that its report needs."""

    folder: Path  # of the report
    config: Config
    data: DataSet
    split: str
    classes: list[str]  # of the network, or of the data where masks are scored
    palette: ClassColours
    pairs: Pairs
    predict: Callable[[range, LogitReader | None], Iterator[Prediction]]  # pairs by index
    device: torch.device
    mining: bool = False  # the loss mines, so each prediction holds what it keeps
    checkpoint: ScoredCheckpoint | None = None  # None: masks of another tool are scored
    history: list[dict[str, float | None]] | None = None  # rows of the training's metrics.csv
    changes: tuple[str, ...] = ()  # that make its scores others than the run's own
    tuning: Tuning | None = None  # that the predictions are made with

    @property
    def title(self) -> str:
        """The origin of the predictions and the data, such as 'unet, ohem: val of camvid'."""
        origin = self.folder.resolve().parents[1].name
        if self.checkpoint:
            origin = f"{self.config.model.arch}, {self.config.loss.expression}"
        return f"{origin}: {self.split} of {self.data.name}"

    @property
    def precision(self) -> str:
        """The precision that its network is computed in: 32, bf16 or fp16."""
        return resolve_precision(self.config.train.precision, self.device.type)

    @property
    def image_names(self) -> list[str]:
        """A name for each image: its path below the folder that all have in common, its area."""
        samples = self.pairs.samples
        names = name_images([sample.image for sample in samples])
        return [f"{name}{s.area or ''}" for name, s in zip(names, samples, strict=True)]

    @property
    def group_by(self) -> str | None:
        """The pattern of the images that are drawn together for intervals."""
        return self.config.eval.group_by or self.config.data.group_by

    @property
    def image_groups(self) -> list[str]:
        """The group that each image is drawn with: by the pattern, or the image's name alone.

        Areas of an image are of one group.
        """
        images = [sample.image for sample in self.pairs.samples]
        if not self.group_by:
            return name_images(images)
        root = self.data.root if self.data.root.is_dir() else self.data.root.parent
        return group_images(images, self.group_by, root)

    def record(self, accumulator: Accumulator) -> ScoreRecord:
        """Return what was scored and how."""
        settings, scored = self.config.eval, self.checkpoint
        areas = [sample.area.whole for sample in self.pairs.samples if sample.area]
        sizes = [*accumulator.sizes, *areas]
        return ScoreRecord(
            weights=scored and scored.weights,
            predictions=None if scored else digest_images(accumulator.predictions),
            checkpoint=str(scored.path) if scored else None,
            epoch=scored and scored.epoch,
            step=scored and scored.step,
            data=str(self.data.config.path),
            split=self.split,
            truth=digest_images(accumulator.truths),
            eval=settings.model_dump(mode="json") | {"group_by": self.group_by},
            windows=scored is not None
            and any(choose_window(*size, settings) != size for size in sizes),
            value_range=self.data.images.value_range,
            upright=self.data.images.upright,
            precision=self.precision,
            device=self.device.type,
            changes=list(self.changes),
            tuned=self.tuning and self.tuning.describe(),
        )
