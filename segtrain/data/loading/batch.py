"""Batches, and the memory in which loader workers hand them to their parent."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from segtrain.errors import SegtrainError

TensorPair = tuple[Tensor, Tensor]  # image uint8 (C,H,W) and target (H,W)

SLOTS = 8  # of each worker: for batches that wait, and for those in use
SLOT_BYTES = 2**26  # the system provides only what is written
ALIGNED = 64  # bytes of a cache line
NUMBERS = count()


class Batch(NamedTuple):
    """Pairs of one size; `images` lie in memory as (N,H,W,C), torch's channels_last."""

    images: Tensor  # uint8 (N,C,H,W); empty where no pair could be read
    targets: Tensor  # uint8 or int16 (N,H,W): class ids and lb_ignore; likewise
    indices: list[int]  # the sample behind each image
    unread: dict[int, SegtrainError]  # samples that could not be read, with the reason


class Items(NamedTuple):
    """The pairs of a batch before they are stacked, and those that are missing."""

    pairs: list[TensorPair]
    indices: list[int]
    unread: dict[int, SegtrainError]


class BatchMemory:
    """Memory that forked workers share with their parent: a batch is written there and read there.

    Torch's own way, two files in /dev/shm that are made, sent by a socket and mapped, is left for
    batches that fit in no slot of their worker's or find none that is free.
    """

    def __init__(self, workers: int):
        """Reserve the address space. Raise OSError where the system limits that."""
        self.number, self.reader = next(NUMBERS), os.getpid()
        # not in /dev/shm, which is small in containers
        count = workers * SLOTS
        memory = np.frombuffer(mmap.mmap(-1, count * (SLOT_BYTES + 1)), np.uint8)
        self.slots = memory[:-count].reshape(count, SLOT_BYTES)
        self.taken = memory[-count:]
        MEMORIES[self.number] = self

    def take(self, nbytes: int) -> int | None:
        """Return a free slot of this worker's for that many bytes, and mark it as taken."""
        worker = get_worker_info()
        if worker is None or nbytes > SLOT_BYTES:
            return None
        first = worker.id * SLOTS
        free = np.flatnonzero(self.taken[first : first + SLOTS] == 0)
        if not len(free):
            return None
        slot = first + int(free[0])
        self.taken[slot] = 1
        return slot

    def open(self, slot: int, own: bool) -> Tensor:
        """Return the bytes of a slot; `own`: the slot is free once no tensor on them is left."""
        memory = self.slots[slot]
        if own:
            weakref.finalize(memory, self.release, slot).atexit = False
        return torch.from_numpy(memory)  # keeps that array

    def release(self, slot: int) -> None:
        """Mark a slot as free; a forked process that drops its copy of a batch does not."""
        if os.getpid() == self.reader:
            self.taken[slot] = 0


MEMORIES: weakref.WeakValueDictionary[int, BatchMemory] = weakref.WeakValueDictionary()


class StoredBatch(NamedTuple):
    """A batch in a slot, on its way from the worker: what arrives is a Batch."""

    memory: int  # its number
    slot: int
    size: tuple[int, int, int, int]  # N, H, W, C
    dtype: torch.dtype  # of the targets
    indices: list[int]
    unread: dict[int, SegtrainError]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_batch, tuple(self)


def measure_slot(size: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int, int]:
    """Return where in a slot the images' bytes end, the targets' start, and those end."""
    end = math.prod(size)
    start = -(-end // ALIGNED) * ALIGNED
    return end, start, start + math.prod(size[:3]) * dtype.itemsize


def cut_slot(slot: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return images (N,H,W,C) and targets (N,H,W) of that type in the bytes of a slot."""
    end, start, last = measure_slot(size, dtype)
    return slot[:end].view(size), slot[start:last].view(dtype).view(size[:3])


def open_batch(
    memory: int, slot: int, size: tuple[int, ...], dtype: torch.dtype, *rest: Any
) -> Batch:
    """Return the batch that a worker has stored; `rest` are its indices and what is unread."""
    images, targets = cut_slot(MEMORIES[memory].open(slot, own=True), size, dtype)
    return Batch(images.permute(0, 3, 1, 2), targets, *rest)


def collate(pairs: list[TensorPair]) -> tuple[Tensor, Tensor]:
    """Return images (N,C,H,W), in memory as (N,H,W,C), and targets (N,H,W).

    In a worker, both are written directly into shared memory.
    """
    images, targets = zip(*pairs, strict=True)
    rows = default_collate([image.permute(1, 2, 0) for image in images])
    return rows.permute(0, 3, 1, 2), default_collate(list(targets))


def make_batch(memory: BatchMemory | None, items: Items) -> Batch | StoredBatch:
    """Return the batch of these items, in a slot of `memory` where this is a worker."""
    pairs, indices, unread = items
    if not pairs:
        return Batch(torch.empty(0), torch.empty(0), indices, unread)
    (channels, height, width), dtype = pairs[0][0].shape, pairs[0][1].dtype
    size = len(pairs), height, width, channels
    slot = memory.take(measure_slot(size, dtype)[-1]) if memory else None
    if memory is None or slot is None:
        return Batch(*collate(pairs), indices, unread)
    images, targets = cut_slot(memory.open(slot, own=False), size, dtype)
    torch.stack([image.permute(1, 2, 0) for image, _ in pairs], out=images)
    torch.stack([target for _, target in pairs], out=targets)
    return StoredBatch(memory.number, slot, size, dtype, indices, unread)
