"""A sample: one image and its mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segtrain.data.coco import CocoMask


@dataclass(frozen=True)
class Sample:
    """One image and its mask."""

    image: Path
    mask: Path | CocoMask

    @property
    def name(self) -> str:
        return self.image.stem
