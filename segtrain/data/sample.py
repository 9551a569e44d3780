"""A sample: one image and its mask, or an area of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segtrain.data.areas import Area, MaskArea
from segtrain.data.drawn import DrawnMask


@dataclass(frozen=True)
class Sample:
    """One image and its mask, or an area of both."""

    image: Path
    mask: Path | DrawnMask
    area: Area | None = None  # None: all of the image

    @property
    def name(self) -> str:
        return self.image.stem

    @property
    def title(self) -> str:
        """The name, with the area."""
        return f"{self.name}{self.area or ''}"

    @property
    def mask_source(self) -> Path | DrawnMask | MaskArea:
        """The mask, or the area of it."""
        return MaskArea(self.mask, self.area) if self.area else self.mask

    @property
    def mask_in_memory(self) -> bool:
        """True where a change of the mask's file has no effect until the next start."""
        return isinstance(self.mask, DrawnMask) and self.mask.in_memory

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """Files that hold the mask: for a COCO mask, the JSON of all images."""
        return (self.mask,) if isinstance(self.mask, Path) else self.mask.files
