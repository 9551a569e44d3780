"""Tiles on threads of Python, each of which runs torch's operators on its own core."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

Place = tuple[int, slice]  # image and rows of a tile

Item = TypeVar("Item")
Result = TypeVar("Result")


def list_places(maps: Tensor, rows: int) -> list[Place]:
    """Return the tiles of maps (N,H,W), each of that many rows but the last ones."""
    images, height, _ = maps.shape
    parts = [slice(first, min(height, first + rows)) for first in range(0, height, rows)]
    return list(product(range(images), parts))


def map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """Return function(item) for each item, in their order, without gradient.

    torch's own threads would meet after each operator, and a tile's are short; these meet once.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        return map(function, items)
    inference = torch.is_inference_mode_enabled()

    def call(item: Item) -> Result:
        with torch.inference_mode(inference), torch.no_grad():  # a thread has its own modes
            return function(item)

    return _pool(threads, os.getpid()).map(call, items)


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads with one core each; a forked process has none of its parent's."""
    pool = ThreadPoolExecutor(threads, "tiles", _take_one_core)
    started = threading.Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(threads)  # theirs has become the default of new threads
    return pool


def _take_one_core() -> None:
    """Run torch's operators in this thread on one core."""
    torch.get_num_threads()  # a thread's first use of it would set the process's number later
    torch.set_num_threads(1)
