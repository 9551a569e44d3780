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

    @property
    def mask_file(self) -> Path:
        """File that holds the mask: for a COCO mask, the JSON of all images."""
        return self.mask.file if isinstance(self.mask, CocoMask) else self.mask
