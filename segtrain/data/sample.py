"""A sample: one image and its mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segtrain.data.drawn import DrawnMask


@dataclass(frozen=True)
class Sample:
    """One image and its mask."""

    image: Path
    mask: Path | DrawnMask

    @property
    def name(self) -> str:
        return self.image.stem

    @property
    def mask_in_memory(self) -> bool:
        """True where a change of the mask's file has no effect until the next start."""
        return isinstance(self.mask, DrawnMask) and self.mask.in_memory

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """Files that hold the mask: for a COCO mask, the JSON of all images."""
        return (self.mask,) if isinstance(self.mask, Path) else self.mask.files
