"""One evaluation: predictions of a split with their classes, colours and origin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from segtrain.config import Config
from segtrain.data.data_set import DataSet
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation.prediction import Prediction
from segtrain.metrics.calibration import Calibration
from segtrain.render.overlay import ClassColours


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
    predict: Callable[[range, Calibration | None], Iterator[Prediction]]  # pairs by index
    device: torch.device
    mining: bool = False  # the loss mines, so each prediction holds what it keeps
    checkpoint: Path | None = None  # None: masks of another tool are scored
    history: list[dict[str, float | None]] | None = None  # rows of the training's metrics.csv

    @property
    def title(self) -> str:
        """The origin of the predictions and the data, such as 'unet, ohem: val of camvid'."""
        origin = self.folder.resolve().parents[1].name
        if self.checkpoint:
            origin = f"{self.config.model.arch}, {self.config.loss.expression}"
        return f"{origin}: {self.split} of {self.data.name}"

    @property
    def image_names(self) -> list[str]:
        """A name for each image: its path below the folder that all images have in common."""
        paths = [sample.image for sample in self.pairs.samples]
        common = os.path.commonpath([path.parent for path in paths])
        return [path.relative_to(common).as_posix() for path in paths]
