"""Options of the data section for the reading of mask files, whatever their classes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segtrain.config import DataConfig
from segtrain.data.decoding import MAX_PIXELS

LARGEST = tuple(2**bits - 1 for bits in (15, 16, 31, 32, 63))  # of integer types of 16 bits or more


@dataclass(frozen=True)
class MaskOptions:
    """Options of the data section for the reading of mask files, whatever their classes are."""

    max_pixels: int = MAX_PIXELS
    palette_by: str | None = None  # "index" or "colour"; None: index, where nothing contradicts
    grey_ids: bool = False  # grey levels are ids also where palette_by is "colour"
    upright: bool = True  # turned as EXIF says
    nodata: tuple[int, ...] | None = None  # None: negative, the largest of a type, a file's own tag
    other_values: int | str | None = None  # meaning of values that have none; None: refused

    @classmethod
    def of(cls, config: DataConfig) -> MaskOptions:
        nodata = None if config.nodata is None else tuple(config.nodata)
        upright = config.exif is not False
        return cls(
            max_pixels=config.max_pixels,
            palette_by=config.palette_by,
            upright=upright,
            nodata=nodata,
            other_values=config.other_values,
        )

    def find_nodata(self, values: np.ndarray, tag: float | None = None) -> np.ndarray:
        """Return a boolean array: where values are nodata, unless something else names them.

        tag: the value that the file itself names as nodata.
        """
        if self.nodata is not None:
            return np.isin(values, self.nodata)
        return (values < 0) | np.isin(values, LARGEST) | (values == tag)


AS_STORED = MaskOptions()
