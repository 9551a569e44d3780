"""Tiles on threads of Python, each of which runs torch's operators on its own core."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, product
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


def map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return function(item) for each item, in their order, without gradient.

    torch's own threads would meet after each operator, and a tile's are short; these meet once.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        return list(map(function, items))
    inference, waiting = torch.is_inference_mode_enabled(), deque(enumerate(items))

    def work(_: int) -> list[tuple[int, Result]]:
        done = []
        with torch.inference_mode(inference), torch.no_grad():  # a thread has its own modes
            while waiting:
                try:
                    place, item = waiting.popleft()
                except IndexError:  # another thread took the last
                    break
                done.append((place, function(item)))
        return done

    # one future a thread: the caller, woken for each item, would take the interpreter's lock
    done = dict(chain.from_iterable(_pool(threads, os.getpid()).map(work, range(threads))))
    return [done[place] for place in range(len(items))]


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
