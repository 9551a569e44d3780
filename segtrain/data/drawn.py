"""Masks that are not one file: drawn from regions, or merged from several files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np


class DrawnMask(ABC):
    """A mask that is computed at each reading; `str` names it in messages and caches."""

    in_memory = False  # its regions are: changes of its file have no effect on the run

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Files that the mask is computed from: when one changes, it is read again."""

    @abstractmethod
    def values(self, max_pixels: int) -> np.ndarray:
        """Return (H,W) whole numbers. Raises SegtrainError where that is impossible."""
