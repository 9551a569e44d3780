"""Pairs as tensors, and their loaders; images stay uint8: the model normalises."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segtrain.console import Note
from segtrain.data.areas import AreaPixels, MaskArea
from segtrain.data.data_set import DataSet
from segtrain.data.findings import MOST_SKIPPED
from segtrain.data.loading.batch import Batch, BatchMemory, Items, TensorPair, make_batch
from segtrain.data.loading.cache import DiskCache, RamCache, stamp_of
from segtrain.data.loading.sampling import BatchSampler, Draw
from segtrain.data.loading.workers import CONTEXT, FORKS, next_batches
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError, shorten

PREFETCHED = 2  # batches that each worker prepares ahead


class Unread(NamedTuple):
    """A sample that could not be read."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    reason: SegtrainError


class Pairs(Dataset):
    """Pairs of an image uint8 (C,H,W) and a target (H,W) of class ids and lb_ignore.

    Targets have masks.dtype. Indexed by `Draw` with an augmentation, by image index without one.
    What can't be read is returned as the item: raised in a worker, it would arrive as a page of
    traceback. `record_unread` handles it where the batch arrives: it stops the run, or with
    on_error "skip" records it in `unread`.
    """

    def __init__(
        self,
        samples: list[Sample],
        images: Callable[..., np.ndarray],  # of a path and an area
        masks: MaskReader,
        augmentation: Callable | None = None,
        cache: RamCache | DiskCache | None = None,
        on_error: str = "",  # as "stop", where no config can set it
    ):
        self.samples, self.images, self.masks = samples, images, masks
        self.augmentation, self.cache, self.on_error = augmentation, cache, on_error
        self.unread: dict[int, SegtrainError] = {}
        self.most_unread = int(MOST_SKIPPED * len(samples))

    @classmethod
    def of(
        cls,
        data: DataSet,
        split: str,
        augmentation: Callable | None = None,
        cache: RamCache | DiskCache | None = None,
    ) -> Pairs:
        """Return the pairs of a split. Raises UsageError where there is no such split."""
        samples, on_error = data.split(split), data.config.on_error
        return cls(samples, data.images, data.masks, augmentation, cache, on_error)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Draw | int) -> TensorPair | Unread:
        sources = []
        try:
            if isinstance(key, Draw) and key.patch:
                index = key.patch.image
                sources.append(self.read(index))
            index = _index(key)
            if isinstance(key, Draw) and self.augmentation:
                # of an area, the crop is all that is read
                image, mask = self.augmentation(*self._open(key), key, *sources)
            else:
                image, mask = self.read(index)
        except SegtrainError as error:
            return Unread(index, error)
        return as_tensor(image).permute(2, 0, 1), as_tensor(mask)

    def __getitems__(self, keys: list[Draw | int]) -> Items:
        """Return the items of the batch of these keys, as a loader requests it."""
        items = Items([], [], {})
        for key in keys:
            for draw in self._tries(key):
                item = self[draw]
                if not isinstance(item, Unread):
                    items.pairs.append(item)
                    items.indices.append(_index(draw))
                    break
                items.unread[item.index] = item.reason
        return items

    def _tries(self, key: Draw | int) -> Iterator[Draw | int]:
        """Yield the key; in training with on_error "skip" then the next samples as substitutes.

        Where all of them fail, so many are unreadable that `record_unread` stops the run.
        """
        yield key
        if isinstance(key, Draw) and self.on_error == "skip":
            for offset in range(1, self.most_unread + 1):
                yield Draw(key.pass_, (key.index + offset) % len(self))

    def _open(self, draw: Draw) -> tuple[Any, Any]:
        """Return image and mask; those of an area that isn't cached are read as they are sliced."""
        sample = self.samples[draw.index]
        if not sample.area or self.cache:
            return self.read(draw.index)
        image = AreaPixels(sample.area, lambda area: self.images(sample.image, area))
        mask = AreaPixels(sample.area, lambda area: self.masks(MaskArea(sample.mask, area)))
        return image, mask[:, :] if draw.focus >= 0 else mask  # pixels of a class are searched

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image (H,W,C) uint8 and mask (H,W), maybe read-only. Raises SegtrainError."""
        sample = self.samples[index]
        stamp = stamp_of(sample) if self.cache else None
        if self.cache is None or stamp is None:
            return self.decode(sample)
        pair = self.cache.get(index, stamp)
        if pair is None:
            pair = self.decode(sample)
            if stamp_of(sample) == stamp:  # else a file changed while it was read
                self.cache.put(index, stamp, *pair)
        return pair

    def decode(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask, read from their files. Raises SegtrainError."""
        image, mask = self.images(sample.image, sample.area), self.masks(sample.mask_source)
        if image.shape[:2] != mask.shape:
            raise SegtrainError(f"sizes differ: {sample.image} and {sample.mask}")
        return image, mask

    def record_unread(self, unread: dict[int, SegtrainError]) -> None:
        """Count samples that could not be read, each once.

        Raises SegtrainError with on_error "stop" at the first, with "skip" at more than 1 % of the
        samples.
        """
        if unread and self.on_error != "skip":
            way = (
                "--set data.on_error=skip leaves" if self.most_unread else "data.exclude can leave"
            )
            hint = f"; {way} it out" if self.on_error else ""
            raise SegtrainError(f"{next(iter(unread.values()))}{hint}")
        self.unread |= unread
        if len(self.unread) > self.most_unread:
            raise SegtrainError(
                f"{len(self.unread)} of {len(self)} pairs can't be read, more than the 1 % that "
                f"data.on_error: skip allows: {shorten(self.unread.values())}; fix or remove them, "
                "or name them in data.exclude"
            )

    def skipped_notes(self, split: str = "") -> list[Note]:
        """Return a note such as '2 images skipped: a.png, b.png', none where all were read."""
        names = [self.samples[index].image.name for index in sorted(self.unread)]
        plural = "s" if len(names) > 1 else ""
        text = f"{len(names)} image{plural} skipped: {shorten(names)}"
        return [Note(f"{split}: {text}" if split else text)] if names else []


def _index(key: Draw | int) -> int:
    return key.index if isinstance(key, Draw) else key


def as_tensor(array: np.ndarray) -> Tensor:
    """Return the array as a tensor that shares its memory if it is writeable and contiguous."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def read_batches(loader: DataLoader) -> Iterator[Batch]:
    """Yield the loader's batches, without the pairs that could not be read.

    Raises SegtrainError for unreadable pairs as `Pairs.record_unread` does, and for a dead worker.
    """
    pairs = cast(Pairs, loader.dataset)
    for batch in next_batches(loader):
        pairs.record_unread(batch.unread)
        if batch.indices:
            yield batch


def train_loader(
    pairs: Pairs, sampler: BatchSampler, workers: int, pin_memory: bool = False
) -> DataLoader:
    persistent = workers > 0  # else each epoch waits for them to start, 0.2 s
    return _loader(pairs, workers, pin_memory, batch_sampler=sampler, persistent_workers=persistent)


def make_image_loader(
    pairs: Pairs, indices: Sequence[int], workers: int, pin_memory: bool = False
) -> DataLoader:
    """Return a loader of batches of one image at its own size, in the order of `indices`."""
    workers = workers if len(indices) > 1 else 0  # starting a worker takes longer than one image
    return _loader(pairs, workers, pin_memory, sampler=indices, batch_size=1)


def _loader(pairs: Pairs, workers: int, pin_memory: bool, **options: Any) -> DataLoader:
    memory = None
    if workers and FORKS:
        with suppress(OSError):  # too little address space: batches go torch's way
            memory = BatchMemory(workers)
    return DataLoader(
        pairs,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=partial(make_batch, memory),
        prefetch_factor=PREFETCHED if workers else None,
        multiprocessing_context=CONTEXT if workers else None,
        generator=torch.Generator(),  # else iter() draws from the global one, which dropout uses
        **options,
    )


def worker_count(workers: int | str, on_gpu: bool, devices: int) -> int:
    """Return the number of loader processes for each device; `auto` is 1 where the CPU trains."""
    if workers != "auto":
        return int(workers)
    return min(8, max(1, (os.cpu_count() or 1) // devices)) if on_gpu else 1
