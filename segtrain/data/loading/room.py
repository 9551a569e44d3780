"""How much memory and disk a cache may take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def free_memory() -> float:
    """Bytes that may be taken without swapping, by the kernel and by a container's limit."""
    free = float("inf")
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # no limit reads "max"
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        taken = dict(s.split() for s in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - int(taken["anon"]) - int(taken["shmem"]))
    return free


def make_room(folder: Path, wanted: dict[str, int], bound: int) -> dict[str, int]:
    """Bytes of each file in `folder` once those not used for longest are gone.

    `wanted` are the names and bytes of a run's own: its files are marked as used now, and as far
    as `bound` allows, those that it has yet to write find room.
    """
    found = {}
    for entry in os.scandir(folder):
        with suppress(OSError):  # another run removes files too
            state = entry.stat()
            found[entry.name] = state.st_size, state.st_mtime
            if entry.name in wanted:
                os.utime(entry)
    total = sum(size for size, _ in found.values())
    missing = sum(size for name, size in wanted.items() if name not in found)
    oldest_first = sorted(found, key=lambda name: (name in wanted, found[name][1]))
    for name in oldest_first:
        if total <= (bound if name in wanted else bound - missing):
            continue
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
            total -= found.pop(name)[0]
    return {name: size for name, (size, _) in found.items()}
