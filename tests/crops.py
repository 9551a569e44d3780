"""Augmentations that spawned workers can import: they return the pair as it is, or fail to."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import numpy as np

from segtrain.data.loading.sampling import Draw

Pair = tuple[np.ndarray, np.ndarray]


def unchanged(image: np.ndarray, mask: np.ndarray, draw: Draw) -> Pair:
    return image, mask


def faulty(image: np.ndarray, mask: np.ndarray, draw: Draw) -> Pair:
    return image, mask.nonsense


def stuck(image: np.ndarray, mask: np.ndarray, draw: Draw) -> Pair:
    """Hold the interpreter for ever at draw 54, once the file `stuck` says so."""
    if draw.index == 54:
        time.sleep(0.5)  # the batches before it are sent by a thread
        Path("stuck").touch()
        ctypes.PyDLL(None).sleep(600)
    return image, mask


def hold_the_interpreter(begun: str) -> None:
    Path(begun).touch()
    ctypes.PyDLL(None).sleep(60)
