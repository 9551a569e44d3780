"""Caches of decoded pairs, in memory or on disk, so that each file is decoded once.

A cache holds the result of `Pairs.decode`, before any augmentation, under the stamp of its files.
Stamps are compared at every read, so a changed file is decoded again, and a pair never mixes two
versions.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil
import torch
from torch import Tensor

from segtrain.console import Note, write
from segtrain.data.data_set import DataSet
from segtrain.data.images import ImageReader
from segtrain.data.loading.workers import CONTEXT, FORKS
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import first_line
from segtrain.files.places import cache_folder
from segtrain.files.whole import stamp_files
from segtrain.version import __version__

Pair = tuple[np.ndarray, np.ndarray]
PairStamp = tuple[int, int]  # 128 bits of the stamps of the files of image and mask
ImageSize = tuple[int, int]  # height, width

GB = 1e9
SHARE_OF_FREE_MEMORY = 0.75  # the network, the workers and their batches need the rest
EMPTY, FILLING, FILLED = range(3)
ALIGNED = 64  # bytes of a cache line
HEADER = struct.Struct("<16s32s4I")  # FORMAT, key, height, width, channels, bytes of a mask's pixel
FORMAT = b"segtrain pair 1\n"
STAMP = struct.Struct("<2q")


def stamp_of(sample: Sample) -> PairStamp | None:
    """Return the stamp of a pair's files, None where one is missing: reading it says why."""
    stamps = stamp_files(sample.image, *sample.mask_files)
    digest = hashlib.blake2b(repr(stamps).encode(), digest_size=16).digest()
    return STAMP.unpack(digest) if stamps else None


class RamCache:
    """Pairs in memory that this process shares with its workers, filled as they are read.

    The first pairs that fit into `quota` bytes have a slot; others are decoded each time, as are
    those that change after they were stored. A slot is written once, so arrays read from it stay
    unchanged.
    """

    def __init__(self, sizes: list[ImageSize], channels: int, mask_dtype: np.dtype, quota: float):
        self.sizes, self.channels, self.mask_dtype = sizes, channels, np.dtype(mask_dtype)
        each = [pair_bytes(size, channels, self.mask_dtype) for size in sizes]
        ends = np.cumsum(each, dtype=np.int64)
        self.slots = int(np.searchsorted(ends, quota, side="right"))
        self.starts = np.concatenate([[0], ends[: self.slots]])
        self.nbytes = int(self.starts[-1])
        self.memory = [
            _share_zeros(count) for count in (self.nbytes, STAMP.size * self.slots, self.slots)
        ]
        self.lock = CONTEXT.Lock()
        self._view()

    def _view(self) -> None:
        self.bytes, stamps, self.state = (memory.numpy() for memory in self.memory)
        self.stamps = stamps.view(np.int64).reshape(-1, 2)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without arrays: a spawned worker makes its own on the same memory."""
        return {k: v for k, v in vars(self).items() if k not in ("bytes", "stamps", "state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._view()

    def get(self, index: int, stamp: PairStamp) -> Pair | None:
        """Return the pair, read-only and without a copy."""
        if index >= self.slots or self.state[index] != FILLED:
            return None
        if tuple(self.stamps[index].tolist()) != stamp:
            return None
        pair = self._slot(index)
        for array in pair:
            array.flags.writeable = False
        return pair

    def put(self, index: int, stamp: PairStamp, image: np.ndarray, mask: np.ndarray) -> None:
        if index >= self.slots:
            return
        slot_image, slot_mask = self._slot(index)
        if slot_image.shape != image.shape or slot_mask.shape != mask.shape:
            return
        with self.lock:
            if self.state[index] != EMPTY:
                return
            self.state[index] = FILLING
        slot_image[...], slot_mask[...], self.stamps[index] = image, mask, stamp
        self.state[index] = FILLED  # last: readers take no lock

    def _slot(self, index: int) -> Pair:
        start, end = self.starts[index : index + 2]
        return _split(self.bytes[start:end], self.sizes[index], self.channels, self.mask_dtype)


class DiskCache:
    """Pairs in a folder that runs share, one file each, which appears whole or not at all.

    `quota` is the number of bytes that all workers together may still add. A file that is cut short
    or has another format counts as missing. After a failed write nothing more is stored; that is
    reported once, and the run goes on.
    """

    def __init__(
        self,
        samples: list[Sample],
        images: ImageReader,
        masks: MaskReader,
        folder: Path,
        quota: Synchronized,
    ):
        self.samples, self.folder, self.quota = samples, folder, quota
        self.opened: dict[int, PairStamp] = {}  # of masks in memory, which stay as they were then
        self.channels, self.mask_dtype = images.channels, np.dtype(masks.dtype)
        # versions: another one may decode to other pixels; readers by value: pickles of equal ones
        # differ once one was broadcast
        readers = repr((__version__, PIL.__version__, images, masks))
        self.readers = FORMAT + readers.encode()

    def get(self, index: int, stamp: PairStamp) -> Pair | None:
        key = self.key(index, stamp)
        try:
            content = np.fromfile(self.folder / key.hex(), np.uint8)
        except OSError:
            return None
        if content.size < HEADER.size:
            return None
        *stored, height, width, channels, itemsize = HEADER.unpack(content[: HEADER.size].data)
        expected = [FORMAT, key, self.channels, self.mask_dtype.itemsize]
        size = pair_bytes((height, width), self.channels, self.mask_dtype) + HEADER.size
        if [*stored, channels, itemsize] != expected or content.size != size:
            return None
        return _split(content[HEADER.size :], (height, width), self.channels, self.mask_dtype)

    def put(self, index: int, stamp: PairStamp, image: np.ndarray, mask: np.ndarray) -> None:
        key = self.key(index, stamp)
        header = HEADER.pack(FORMAT, key, *image.shape, mask.itemsize)
        content = np.zeros(pair_bytes(mask.shape, image.shape[2], mask.dtype), np.uint8)
        file_image, file_mask = _split(content, mask.shape, image.shape[2], mask.dtype)
        file_image[...], file_mask[...] = image, mask
        with self.quota.get_lock():
            if self.quota.value < (added := content.nbytes + HEADER.size):
                return
            self.quota.value -= added
        try:
            write_whole(self.folder / key.hex(), header, content.data)
        except OSError as error:
            with self.quota.get_lock():
                # negative for all workers, so that only the first to fail reports it
                first, self.quota.value = self.quota.value >= 0, -1
            if first:
                write(f"data.cache: nothing more is stored, {first_line(error)}", stderr=True)

    def key(self, index: int, stamp: PairStamp) -> bytes:
        sample = self.samples[index]
        if sample.mask_in_memory:
            stamp = self.opened.setdefault(index, stamp)
        files = [os.path.abspath(file) for file in (sample.image, *sample.mask_files)]
        key = hashlib.sha256(self.readers)
        key.update("\0".join([*files, str(sample.mask_source), *map(str, stamp)]).encode())
        return key.digest()


@dataclass(frozen=True)
class Caches:
    """The cache of each split that has one, and notes on what is stored there."""

    by_split: Mapping[str, RamCache | DiskCache]
    notes: tuple[Note, ...]


def open_caches(data: DataSet, sizes: dict[str, list[ImageSize]], processes: int = 1) -> Caches:
    """Open the caches of the splits of `sizes` as data.cache names them.

    `sizes` are of the upright images, in the samples' order. `processes` on this host open caches
    of their own each, and share data.cache_gb. Without space to write, nothing is cached.
    """
    try:
        if data.config.cache == "ram":
            return _open_in_memory(data, sizes, processes)
        if data.config.cache == "disk":
            return _open_on_disk(data, sizes, processes)
    except OSError as error:
        return Caches({}, (Note(f"cache: nothing is stored, {first_line(error)}"),))
    return Caches({}, ())


def _open_in_memory(data: DataSet, sizes: dict[str, list[ImageSize]], processes: int) -> Caches:
    limit, free = data.config.cache_gb * GB, SHARE_OF_FREE_MEMORY * free_memory()
    quota, caches = min(limit, free) / processes, {}
    for split, of_split in sizes.items():
        caches[split] = RamCache(of_split, data.images.channels, data.masks.dtype, quota)
        quota -= caches[split].nbytes
    slots, pairs = sum(c.slots for c in caches.values()), sum(map(len, sizes.values()))
    line = f"cache: {slots} of {pairs} pairs in memory, "
    line += _format_gb(c.nbytes for c in caches.values())
    if slots < pairs:
        why = f"data.cache_gb is {data.config.cache_gb:g}"
        if free < limit:
            why = f"{SHARE_OF_FREE_MEMORY:.0%} of the free memory is used, {free / GB:.1f} GB"
        line += f"; {why}" + f", for {processes} processes" * (processes > 1)
    return Caches(caches, (Note(line),))


def _open_on_disk(data: DataSet, sizes: dict[str, list[ImageSize]], processes: int) -> Caches:
    folder = cache_folder() / "decoded"
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # raises where nothing can be written
    quota = CONTEXT.Value("q", 0)
    caches = {s: DiskCache(data.splits[s], data.images, data.masks, folder, quota) for s in sizes}
    wanted = {}
    for split, cache in caches.items():
        for index, (sample, size) in enumerate(zip(cache.samples, sizes[split], strict=True)):
            if stamp := stamp_of(sample):
                nbytes = HEADER.size + pair_bytes(size, cache.channels, cache.mask_dtype)
                wanted[cache.key(index, stamp).hex()] = nbytes
    stored = evict(folder, wanted, int(data.config.cache_gb * GB))
    quota.value = int(data.config.cache_gb * GB - sum(stored.values())) // processes
    line = (
        f"cache: {len(stored.keys() & wanted.keys())} of {sum(map(len, sizes.values()))} pairs in "
        f"{folder}, {_format_gb(stored.values())} of {data.config.cache_gb:g} GB"
    )
    return Caches(caches, (Note(line),))


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that others see whole or not at all. Raises OSError.

    On a crash it may be lost, unlike those of `files`, which wait for the disk.
    """
    temporary = path.with_name(f".tmp-{os.urandom(8).hex()}")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def pair_bytes(size: ImageSize, channels: int, mask_dtype: np.dtype) -> int:
    """Return the bytes of a stored pair, rounded up to whole cache lines."""
    return -(-size[0] * size[1] * (channels + mask_dtype.itemsize) // ALIGNED) * ALIGNED


def _split(memory: np.ndarray, size: ImageSize, channels: int, mask_dtype: np.dtype) -> Pair:
    """Return views of image (H,W,C) and mask (H,W) in uint8 memory, which has the mask first."""
    pixels = size[0] * size[1]
    end = pixels * mask_dtype.itemsize
    mask = memory[:end].view(mask_dtype).reshape(size)
    return memory[end : end + pixels * channels].reshape(*size, channels), mask


def _share_zeros(count: int) -> Tensor:
    """Return zeros (count,) in uint8 that workers share: forked ones without using /dev/shm."""
    if FORKS:
        return torch.from_numpy(np.frombuffer(mmap.mmap(-1, max(1, count)), np.uint8, count))
    try:
        return torch.zeros(count, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise OSError(first_line(error)) from error


def _format_gb(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / GB:.2f} GB"


def free_memory() -> float:
    """Return the bytes available without swapping, by the kernel and a container's limit."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no limit reads "max"
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        taken = dict(s.split() for s in (group / "memory.stat").read_text().splitlines())
        # without the page cache, which the kernel gives back
        free = min(free, limit - int(taken["anon"]) - int(taken["shmem"]))
    return free


def evict(folder: Path, wanted: dict[str, int], limit: int) -> dict[str, int]:
    """Remove the least recently used files of `folder`; return the bytes of each other file.

    `wanted` has the names and bytes of the run's files: those found are marked as used now, and as
    far as `limit` bytes allow, there will be space for those it has yet to write.
    """
    files = {}
    for entry in os.scandir(folder):
        with suppress(OSError):  # another run removes files too
            status = entry.stat()
            files[entry.name] = status.st_size, status.st_mtime
            if entry.name in wanted:
                os.utime(entry)  # many file systems are mounted without times of access
    total = sum(size for size, _ in files.values())
    missing = sum(size for name, size in wanted.items() if name not in files)
    oldest_first = sorted(files, key=lambda name: (name in wanted, files[name][1]))
    for name in oldest_first:
        if total <= (limit if name in wanted else limit - missing):
            continue
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
            total -= files.pop(name)[0]
    return {name: size for name, (size, _) in files.items()}
