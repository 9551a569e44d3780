"""Which images make a batch: a function of (seed, step), so resuming cannot get it wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


def steps_per_pass(images: int, batch_size: int) -> int:
    """Whole batches in one pass over the images; a short last one is dropped."""
    return images // batch_size


@lru_cache(maxsize=1)  # the steps of a pass follow each other, and share its order
def pass_order(images: int, seed: int, pass_: int) -> np.ndarray:
    return np.random.default_rng([seed, pass_]).permutation(images)


def batch_at(step: int, images: int, batch_size: int, seed: int) -> list[tuple[int, int]]:
    """The (pass, image index) pairs of a step; each pass is a permutation of its own."""
    pass_, place = divmod(step, steps_per_pass(images, batch_size))
    order = pass_order(images, seed, pass_)
    return [(pass_, int(i)) for i in order[place * batch_size : (place + 1) * batch_size]]


def seed_at(*key: int) -> int:
    """32 bits that depend on the key alone, to seed what happens at one place of a run."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class BatchSampler:
    """The batches of steps `start` to `stop` for one of `world` processes, for a DataLoader."""

    def __init__(self, images: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.rank, self.world = rank, world
        self.start = self.stop = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            batch = batch_at(step, self.images, self.batch_size, self.seed)
            yield batch[self.rank :: self.world]
