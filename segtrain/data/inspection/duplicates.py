"""Duplicate images: by content, by perceptual hash, by bytes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

NEAR_BITS = 3  # of 64; four bands of 16 then find every such pair
BANDS = 4
MOST_IN_A_BAND = 1000  # larger groups of similar images are not compared pairwise
PROBE_BYTES = 4096


def groups_by(keys: dict[Path, str]) -> list[list[Path]]:
    """Return the groups of paths that share a key, sorted."""
    groups = defaultdict(list)
    for path, key in keys.items():
        groups[key].append(path)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def near_pairs(hashes: dict[Path, int]) -> list[tuple[Path, Path]]:
    """Return pairs whose 64-bit hashes differ in at most NEAR_BITS bits.

    Two hashes that differ in 3 bits agree in at least one of their four 16-bit bands. Flat images
    (hash 0) are left out.
    """
    paths = [path for path, value in hashes.items() if value]
    values = np.array([hashes[path] for path in paths], dtype=np.uint64)
    found = set()
    for band in range(BANDS):
        part = (values >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            if 1 < len(bucket) <= MOST_IN_A_BAND:
                apart = np.bitwise_count(values[bucket][:, None] ^ values[bucket][None])
                close = np.argwhere(np.triu(apart <= NEAR_BITS, 1)).tolist()
                found |= {tuple(sorted((bucket[a], bucket[b]))) for a, b in close}
    return [(paths[a], paths[b]) for a, b in sorted(found)]


def same_bytes(splits: Mapping[str, Iterable[Path]]) -> list[list[Path]]:
    """Return files of different splits with the same bytes; only likely ones are read whole."""
    entries = [(split, path) for split, paths in splits.items() for path in paths]
    groups = _in_several_splits(entries, _size)
    for digest in (_probe, _whole):
        groups = [same for group in groups for same in _in_several_splits(group, digest)]
    return sorted(sorted(path for _, path in group) for group in groups)


def _in_several_splits(entries: list[tuple[str, Path]], key: Callable) -> list[list]:
    """Group entries (split, path) by a key of the path; keep groups over several splits."""
    groups = defaultdict(list)
    for split, path in entries:
        try:
            groups[key(path)].append((split, path))
        except OSError:
            continue  # an unreadable file is a finding of its own
    return [group for group in groups.values() if len({split for split, _ in group}) > 1]


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _probe(path: Path) -> bytes:
    """Return the first and last bytes, which differ in nearly all files that differ."""
    with open(path, "rb") as file:
        first = file.read(PROBE_BYTES)
        file.seek(-min(PROBE_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return first + file.read()


def _whole(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
