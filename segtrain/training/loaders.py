"""Loaders of one process: the training batches, and the validation pairs."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from segtrain.console import Note
from segtrain.data.loading.cache import open_caches
from segtrain.data.loading.dataset import Pairs, train_loader, worker_count
from segtrain.data.loading.sampling import BatchSampler, Shards
from segtrain.training.plan import TrainingPlan, make_augmentation


@dataclass(frozen=True)
class Loaders:
    """The loader of training batches and the pairs of one process."""

    train: DataLoader
    sampler: BatchSampler  # of `train`; the loop sets its first and last step
    pairs: dict[str, Pairs]  # of train and val
    workers: int
    notes: tuple[Note, ...]  # on the cache


def open_loaders(plan: TrainingPlan, fabric: Fabric) -> Loaders:
    """Open the loaders of this rank."""
    config, train = plan.config, plan.config.train
    device = fabric.device.type
    workers = worker_count(config.data.workers, device != "cpu", train.devices)
    # each rank of this host has its own caches, and they share data.cache_gb
    caches = open_caches(plan.data, plan.image_sizes, train.devices)
    augmentations = {"train": make_augmentation(config, plan.crop), "val": None}
    pairs = {
        split: Pairs.of(plan.data, split, augmentation, caches.by_split.get(split))
        for split, augmentation in augmentations.items()
    }
    shards = Shards(fabric.global_rank, fabric.world_size, train.accumulate)
    count = len(pairs["train"])
    sampler = BatchSampler(count, train.images_per_step, train.seed, plan.by_class, shards)
    loader = train_loader(pairs["train"], sampler, workers, pin_memory=device == "cuda")
    return Loaders(loader, sampler, pairs, workers, caches.notes)
