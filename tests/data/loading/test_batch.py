"""Batches in memory that workers share with their parent."""

from __future__ import annotations

import gc
import mmap
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dataset import Listed, cut, draws_of, make_pairs, samples_in, top_left

from segtrain.data.loading import batch as module
from segtrain.data.loading.batch import SLOTS, BatchMemory
from segtrain.data.loading.dataset import Pairs, make_image_loader, read_batches, train_loader
from segtrain.data.loading.sampling import Draw
from segtrain.data.loading.workers import FORKS
from segtrain.data.masks import MaskReader

pytestmark = pytest.mark.skipif(not FORKS, reason="only forked workers share this memory")


def of_pairs(folder: Path, batches: int, workers: int):
    draws = Listed(*([Draw(n, n % 6), Draw(n, (n + 1) % 6)] for n in range(batches)))
    return train_loader(make_pairs(samples_in(folder), top_left), draws, workers)


def memory_of(loader) -> BatchMemory:
    return loader.collate_fn.args[0]


@pytest.fixture
def no_copies(monkeypatch):
    """Workers can't send a batch torch's way."""
    monkeypatch.setattr(module, "collate", None)


@pytest.mark.usefixtures("no_copies")
@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_read_where_a_worker_wrote_them(pairs: Path, workers: int):
    loader = of_pairs(pairs, 40, workers)
    memory = memory_of(loader)
    begin = memory.slots.ctypes.data
    for number, batch in enumerate(read_batches(loader)):
        assert draws_of(batch) == [[number, number % 6, 0], [number, (number + 1) % 6, 0]]
        for tensor in (batch.images, batch.targets):
            assert 0 <= tensor.data_ptr() - begin < memory.slots.nbytes
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert number == 39
    del batch, tensor
    gc.collect()
    assert not memory.taken.any()


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_in_use_is_never_written_over(pairs: Path, seed: int):
    """Also where more are kept than there are slots, and where only a part of one is."""
    rng, kept, taken = random.Random(seed), [], 0
    loader = of_pairs(pairs, 120, 1)
    for number, batch in enumerate(read_batches(loader)):
        if rng.random() < 0.5:
            kept.append(
                (number, batch.images[1, :, :1, :1], batch.targets.clone(), batch.targets[:, 1:])
            )
        while kept and (len(kept) > 2 * SLOTS or rng.random() < 0.2):
            kept.pop(rng.randrange(len(kept)))
        taken = max(taken, memory_of(loader).taken.sum())
        for number_then, corner, targets, rest in kept:
            assert corner[:, 0, 0].tolist() == [number_then, (number_then + 1) % 6, 0]
            assert torch.equal(rest, targets[:, 1:])
    assert number == 119 and taken == SLOTS


def test_a_forked_process_frees_no_slot(pairs: Path):
    """Workers of another loader inherit the batches in use, and may collect them as garbage."""
    loader = of_pairs(pairs, 2, 1)
    batches = read_batches(loader)
    batch, _ = next(batches), next(batches)  # the generator keeps the latest one
    if not (child := os.fork()):
        del batch
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert memory_of(loader).taken[0]
    del batch
    assert not memory_of(loader).taken[0]


@pytest.mark.usefixtures("no_copies")
def test_targets_of_16_bits_and_odd_sizes(tmp_path: Path, pairs: Path):
    samples = samples_in(pairs)
    alone = Pairs(
        samples, lambda path, area: np.full((7, 5, 3), len(path.stem), np.uint8), MaskReader(3)
    )
    alone.masks = lambda source: np.arange(-1, 34, dtype=np.int16).reshape(7, 5)
    for batch in read_batches(make_image_loader(alone, range(6), 1)):
        assert batch.targets.dtype == torch.int16
        assert torch.equal(batch.targets[0].flatten(), torch.arange(-1, 34, dtype=torch.int16))
        assert batch.images.shape == (1, 3, 7, 5) and (batch.images == 3).all()


def test_a_batch_that_fits_in_no_slot_travels_torchs_way(pairs: Path, monkeypatch):
    monkeypatch.setattr(module, "SLOT_BYTES", 200)
    loader = of_pairs(pairs, 10, 1)
    assert [draws_of(batch)[0][0] for batch in read_batches(loader)] == list(range(10))
    assert not memory_of(loader).taken.any()


def test_without_address_space_batches_travel_torchs_way(pairs: Path, monkeypatch):
    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    loader = of_pairs(pairs, 10, 1)
    assert memory_of(loader) is None
    assert [draws_of(batch)[0][0] for batch in read_batches(loader)] == list(range(10))


@pytest.mark.usefixtures("no_copies")
def test_a_batch_of_unreadable_pairs_takes_no_slot(pairs: Path):
    cut(pairs / "images/000.png")
    cut(pairs / "images/001.png")
    found = make_pairs(samples_in(pairs), None, on_error="skip")
    found.most_unread = 6
    loader = make_image_loader(found, range(6), 1)
    assert [batch.indices for batch in read_batches(loader)] == [[2], [3], [4], [5]]
    assert sorted(found.unread) == [0, 1]
