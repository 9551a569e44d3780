"""Paths as users give them; home and cache folders."""

import getpass
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from segtrain.errors import UsageError, first_line

CACHE = Path(".cache/segtrain")  # in a home folder


def resolve_path(text: str) -> Path:
    """Return a user's path without ~ and links. Raise UsageError for what can't be a path."""
    if not text:  # as of a shell's variable that isn't set
        raise UsageError("an empty path was given: ''")
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no home, a ring of links, a null byte
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UsageError(f"{text}: {reason}") from error


def relative_path(path: Path | str, start: Path | str) -> str:
    """Return a path from `start` on, with / on every system; the whole path from another drive."""
    try:
        path = os.path.relpath(path, start)
    except ValueError:
        path = os.path.abspath(path)
    return os.fspath(path).replace(os.sep, "/")


def common_folder(paths: Iterable[Path]) -> Path:
    """Return the folder that all absolute paths have in common; of several drives, the first's."""
    known = list(paths)
    try:
        return Path(os.path.commonpath(known))
    except ValueError:
        return known[0]


def cache_folder() -> Path:
    """Return $SEGTRAIN_CACHE, else ~/.cache/segtrain, or a temporary folder where that can't be.

    Users may delete it at any time.
    """
    if place := os.environ.get("SEGTRAIN_CACHE"):
        return Path(place)
    folder = Path(os.path.expanduser("~"), CACHE)
    if folder.is_absolute() and _can_hold_files(folder):
        return folder
    return temporary_home() / CACHE


def provide_home() -> None:
    """Give libraries a home folder, and a user's name, in a process that has none.

    A home that is only read keeps what is in it; matplotlib and Triton write elsewhere.
    """
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute() or not os.path.isdir(home):
        os.environ["HOME"] = str(temporary_home())
    elif not os.access(home, os.W_OK):
        for name, folder in {"MPLCONFIGDIR": "matplotlib", "TRITON_CACHE_DIR": "triton"}.items():
            os.environ.setdefault(name, str(cache_folder() / folder))
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # of which torch makes the name of a folder
        os.environ["USER"] = "user"
        if sys.platform != "win32":
            os.environ["USER"] += f"-{os.getuid()}"


def temporary_home() -> Path:
    """Return this user's folder among temporary files, or one of this process alone.

    A folder in /tmp may be another user's trap: only one that nobody else can write is taken.
    """
    if sys.platform == "win32":  # each user has temporary files of their own
        return Path(tempfile.gettempdir()) / "segtrain"
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"segtrain-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            if not status.st_mode & 0o022 and os.access(folder, os.W_OK):
                return folder
        return Path(_private_folder().name)
    return Path(os.devnull) / "segtrain"  # no place at all: nothing is stored


@cache
def _private_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="segtrain-")  # until the process ends


def _can_hold_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
