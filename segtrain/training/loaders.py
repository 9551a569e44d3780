"""Loaders of one process: training batches, and the held-out pairs."""

from __future__ import annotations

from torch.utils.data import DataLoader

from segtrain.console import Note
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.cache import open_caches
from segtrain.data.loading.dataset import Pairs, train_loader
from segtrain.data.loading.sampling import BatchSampler
from segtrain.training.plan import Plan

SPLITS = ("train", "val")


def open_feed(
    plan: Plan, workers: int, pin_memory: bool, rank: int, world: int
) -> tuple[DataLoader, Pairs, tuple[Note, ...]]:
    """One process's training loader, the held-out pairs, and notes on the cache.

    The loader's sampler gives the batches of steps `start` to `stop`, which the loop sets.
    """
    data, channels = plan.data, plan.config.model.in_channels
    seed, batch_size = plan.config.train.seed, plan.config.train.batch_size
    caches = open_caches(data, plan.sizes, plan.config.train.devices)
    augmentation = Augmentation(plan.config.augment, data.lb_ignore, seed, channels)
    train, held_out = (
        Pairs.of(data, split, change, caches.get(split))
        for split, change in zip(SPLITS, (augmentation, None), strict=True)
    )
    accumulate = plan.config.train.accumulate
    sampler = BatchSampler(len(train), batch_size, seed, rank, world, plan.by_class, accumulate)
    return train_loader(train, sampler, workers, pin_memory), held_out, caches.notes
