"""The subject of an evaluation: predictions of a split, with classes, palette and origin."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from segtrain.config import Config
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation.prediction import Prediction
from segtrain.metrics import calibration
from segtrain.render.overlay import Palette


@dataclass(frozen=True)
class Subject:
    """What is scored: a split's predictions, and what it takes to say what they are."""

    folder: Path  # where the report goes
    config: Config
    split: str
    layout: str
    classes: list[str]
    palette: Palette
    pairs: Pairs
    predict: Callable[[range, calibration.Calibration | None], Iterator[Prediction]]
    device: torch.device
    mines: bool = False  # the loss does
    checkpoint: Path | None = None
    history: Path | None = None  # metrics.csv of its training

    @property
    def title(self) -> str:
        """Whose predictions of what, such as 'unet, ohem: val of camvid'."""
        config, whose = self.config, self.folder.resolve().parents[1].name
        if self.checkpoint:
            whose = f"{config.model.arch}, {config.loss.expression}"
        assert config.data.path is not None  # else there would be no pairs
        return f"{whose}: {self.split} of {Path(config.data.path).name}"

    @property
    def images(self) -> list[str]:
        """A name an image: its path from the folder that they all have in common."""
        paths = [sample.image for sample in self.pairs.samples]
        common = os.path.commonpath([path.parent for path in paths])
        return [path.relative_to(common).as_posix() for path in paths]
