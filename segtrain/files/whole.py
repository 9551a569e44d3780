"""Files and folders written whole or not at all: text, bytes, JSON."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from segtrain.errors import SegtrainError
from segtrain.files.locks import lock_path

TEMPORARY = re.compile(r"\.tmp-(\d+)-")  # and the process that writes it
SHELL_PIPES = ("/dev/fd/", "/dev/stdin", "/dev/null")


@contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block ends without an exception.

    Without `sync` a power failure may leave the name empty; `sync_file` is for later then.
    The temporary name keeps the suffix, by which writers choose a format. Raise SegtrainError
    where the file can't be written (full disk, read-only folder), with `path` unchanged.
    """
    if not path.name:
        raise SegtrainError(f"cannot write {path}: it is a folder")
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")  # ranks may write the same file
    try:
        _prepare_place(path)
        yield temporary
        if sync:
            sync_file(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise SegtrainError(f"cannot write {path}: {error.strerror or error}") from error
    except SegtrainError as error:  # of what is written, by the name that it would have had
        error.args = (str(error).replace(temporary.name, path.name),)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk. Raise OSError."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _prepare_place(path: Path) -> None:
    if path.exists() and not path.is_file():  # root could replace even /dev/null
        raise SegtrainError(f"cannot write {path}: it exists and is no ordinary file")
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def resumable_file(path: Path, key: str) -> Iterator[BinaryIO]:
    """Yield an open file that replaces `path` if the block ends without an exception.

    key: a digest of all that determines the content. What an interruption (Ctrl-C, a kill) left is
    in the file again; after any other exception nothing is left. Raise SegtrainError where the
    file can't be written, or another process does so.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".partial-{name}-{key}")
    with ExitStack() as stack:
        try:
            _prepare_place(path)
            for other in path.parent.glob(f".partial-{name}-*"):
                if other != temporary:
                    other.unlink(missing_ok=True)
            temporary.touch()
            if stack.enter_context(lock_path(temporary)) is False:
                raise SegtrainError(f"cannot write {path}: another process is writing it")
            stack.callback(_remove_unless_interrupted, temporary)
            with open(temporary, "rb+") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # closed: Windows moves no open file
        except OSError as error:
            raise SegtrainError(f"cannot write {path}: {error.strerror or error}") from error


def _remove_unless_interrupted(path: Path) -> None:
    if not isinstance(sys.exception(), KeyboardInterrupt):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def refuse_special(path: Path) -> None:
    """Raise OSError for what exists and is no file: a pipe would never end, nor a device.

    A pipe of the shell's, as of <(command), is read.
    """
    status = path.stat()
    if stat.S_ISREG(status.st_mode) or str(path).startswith(SHELL_PIPES):
        return
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    number = errno.EISDIR if kind == "a folder" else errno.EINVAL
    raise OSError(number, f"{kind}, not a file", str(path))


@contextmanager
def whole_folder(folder: Path, own: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` if the block ends without an exception.

    own: names of the files that the caller writes; all others in `folder` are the user's and stay.
    What killed processes left behind is repaired. Raise SegtrainError where it can't be written.
    """
    folder = folder.resolve()  # a link stays one
    temporary = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as writing:
            with lock_path(folder.parent, wait=True):
                remove_leftovers(folder.parent)
                _finish_swap(folder, own)
                shutil.rmtree(temporary, ignore_errors=True)  # where file systems have no locks
                temporary.mkdir()
                writing.enter_context(lock_path(temporary))  # else it looks like a leftover
            yield temporary
            with lock_path(folder.parent, wait=True):
                _finish_swap(folder, own)
                try:
                    if folder.exists():
                        os.rename(folder, _aside(folder))
                    os.rename(temporary, folder)
                finally:
                    _finish_swap(folder, own)
    except OSError as error:
        raise SegtrainError(f"cannot write {folder}: {error.strerror or error}") from error
    except SegtrainError as error:  # of a file in it, by the name that it would have had
        error.args = (str(error).replace(str(temporary), str(folder)),)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_together(folder: Path, texts: dict[str, str]) -> None:
    """Write several text files, by name, that belong together, whole or not at all.

    A kill leaves some of them missing, never files of two writers.
    """
    paths = [folder / name for name in texts]
    with suppress(OSError):  # else `whole_file` says why
        folder.mkdir(parents=True, exist_ok=True)
    with lock_path(folder, wait=True), ExitStack() as files:
        for path, text in zip(paths, texts.values(), strict=True):
            temporary = files.enter_context(whole_file(path))
            temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        for path in paths[:-1]:  # the last is replaced first
            path.unlink(missing_ok=True)


def _aside(folder: Path) -> Path:
    """Return the name of a folder while another takes its place."""
    return folder.with_name(f".old-{folder.name}")


def _finish_swap(folder: Path, own: Collection[str]) -> None:
    """Remove the folder set aside after moving the user's files out of it, or put it back."""
    aside = _aside(folder)
    if not aside.exists():
        return
    if not folder.exists():
        os.rename(aside, folder)
        return
    for entry in aside.iterdir():
        if entry.name not in own and not (folder / entry.name).exists():
            os.rename(entry, folder / entry.name)
    shutil.rmtree(aside, ignore_errors=True)


# of a file: bytes, times of the last change of its content and of its status in ns, and inode
FileStamp = tuple[int, int, int, int]


def stamp_files(*paths: Path) -> tuple[FileStamp, ...] | None:
    """Return a stamp of each file: unchanged as long as the files are. None where one is missing.

    The time of the content can be set, as `rsync -t` and `tar` do, that of the status can't. Stamps
    hold on one machine only; without stable inodes or times they differ, and never agree by chance.
    """
    try:
        status = [path.stat() for path in paths]
    except OSError:
        return None
    return tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in status)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders of processes that were killed while writing."""
    for leftover in folder.glob(".tmp-*"):
        writer = TEMPORARY.match(leftover.name)
        if not writer:
            continue
        if leftover.is_dir():
            with lock_path(leftover) as locked:
                if locked:
                    shutil.rmtree(leftover, ignore_errors=True)
        elif not psutil.pid_exists(int(writer[1])):
            with suppress(OSError):
                leftover.unlink()


def save_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; undecodable bytes of names as \\udcNN."""
    save_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def save_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def save_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all. Raise ValueError for NaN and infinities."""
    save_text(path, format_json(content))


def format_json(content: Any) -> str:
    """Return the text of a JSON file. Raise ValueError for NaN and infinities."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"
