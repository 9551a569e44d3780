"""Pairs -> tensors, and the loaders around them. Images stay uint8: the model normalises."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segtrain.data.formats import Sample
from segtrain.data.images import read_image
from segtrain.data.masks import MaskReader
from segtrain.data.sampling import BatchSampler
from segtrain.errors import SegtrainError

Item = tuple[Tensor, Tensor]


class Pairs(Dataset):
    """image uint8 (3,H,W) and target int64 (H,W), of class ids and lb_ignore.

    Indexed by (pass, image index) with an augmentation, by image index without one. A
    SegtrainError is handed out as the item: raised in a worker, it would arrive as a page of
    traceback. `checked` raises it where the batch arrives.
    """

    def __init__(self, samples: list[Sample], masks: MaskReader, augmentation=None):
        self.samples, self.masks, self.augmentation = samples, masks, augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> Item | SegtrainError:
        pass_, index = key if self.augmentation else (0, key)
        try:
            image, mask = self.read(index)
        except SegtrainError as error:
            return error
        if self.augmentation:
            image, mask = self.augmentation(image, mask, pass_, index)
        return to_tensor(image), torch.from_numpy(mask.astype(np.int64))

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image, mask = read_image(sample.image), self.masks(sample.mask)
        if image.shape[:2] != mask.shape:
            raise SegtrainError(f"sizes differ: {sample.image} and {sample.mask}")
        return image, mask


def to_tensor(image: np.ndarray) -> Tensor:
    """(H,W,3) uint8 -> (3,H,W) uint8."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def collate(items: list[Item | SegtrainError]) -> Item | SegtrainError:
    for item in items:
        if isinstance(item, SegtrainError):
            return item
    images, targets = zip(*items)
    return torch.stack(images), torch.stack(targets)


def checked(batches: Iterable[Item | SegtrainError]) -> Iterator[Item]:
    """The batches; raises the SegtrainError that stands in place of one."""
    for batch in batches:
        if isinstance(batch, SegtrainError):
            raise batch
        yield batch


def train_loader(
    pairs: Pairs, sampler: BatchSampler, workers: int, pin_memory: bool = False
) -> DataLoader:
    return DataLoader(
        pairs,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def one_by_one(pairs: Pairs, indices: range, workers: int) -> DataLoader:
    """Batches of one image at its own size, in the order of `indices`."""
    return DataLoader(pairs, sampler=indices, batch_size=1, collate_fn=collate, num_workers=workers)


def worker_count(asked: int | str, on_gpu: bool, devices: int) -> int:
    """Loader processes of each device; `auto` leaves the cores to a CPU that also trains."""
    if asked != "auto":
        return int(asked)
    return min(8, max(1, (os.cpu_count() or 1) // devices)) if on_gpu else 1
