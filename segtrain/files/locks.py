"""Locks on files and folders that processes share; they end with the process at last."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BY_SYSTEM = sys.platform != "win32"  # Windows locks no folder


@contextmanager
def lock_path(path: Path, wait: bool = False, shared: bool = False) -> Iterator[bool | None]:
    """Lock a folder or a file itself, so that no lock file stays.

    Several processes may have a shared lock at a time, and no other lock beside it. Yield True,
    False where another process has the lock, None where there is no such path or its file system
    has no locks. On Windows the locks are files among the temporary ones.
    """
    with (_lock_itself if BY_SYSTEM else _lock_beside)(path, wait, shared) as locked:
        yield locked


@contextmanager
def _lock_itself(path: Path, wait: bool, shared: bool) -> Iterator[bool | None]:
    if sys.platform == "win32":
        raise NotImplementedError
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        locked: bool | None = True
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            locked = False
        except OSError:
            locked = None
        yield locked
    finally:
        os.close(handle)


@contextmanager
def _lock_beside(path: Path, wait: bool, shared: bool) -> Iterator[bool | None]:
    from filelock import ReadWriteLock, Timeout

    if not path.exists():
        yield None
        return
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    file = Path(tempfile.gettempdir()) / f"segtrain-{name}.lock"
    lock = ReadWriteLock(file, is_singleton=False)  # a second lock of this process conflicts, too
    with closing(lock):
        try:
            (lock.acquire_read if shared else lock.acquire_write)(blocking=wait)
        except Timeout:
            yield False
        else:
            yield True
