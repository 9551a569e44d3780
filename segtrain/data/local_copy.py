"""Local copies of remote data sets, bounded in size, which all else reads as ordinary folders.

A copy is brought up to date when a command opens its data set. After that nothing is fetched: a
training reads what it would read from a disk, in the same order. Files appear whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from segtrain.console import Note
from segtrain.data.layouts.folder_words import SPLIT_WORDS
from segtrain.data.layouts.list_layout import LIST_SUFFIXES
from segtrain.data.layouts.text_tables import has_image_suffix, read_table
from segtrain.data.remote_files import RemoteFault, RemoteFile, RemoteFiles, is_name
from segtrain.errors import SegtrainError, UsageError
from segtrain.files.locks import lock_path
from segtrain.files.places import cache_folder, resolve_path
from segtrain.files.whole import save_json

GB = 1e9
INDEX = "index.json"  # of a copy: size and stamp of each file
ARCHIVE = re.compile(r"zip://(?:(?P<inside>[^:]*)::)?(?P<chained>.+)|(?P<direct>.+\.zip)", re.I)
IN_USE = ExitStack()  # locks of the copies that this process reads, until it ends
RemoteListing = dict[str, RemoteFile]  # the files of a data set by name
Finder = Callable[[RemoteFiles, Path], RemoteListing]  # of what is there, for a copy in a folder


@dataclass(frozen=True)
class LocalCopy:
    """The address of a remote data set, and the folder or the list that was copied."""

    address: str
    root: Path
    note: Note


@cache
def open_copy(address: str, limit: float) -> LocalCopy:
    """Return the copy of a data set, brought up to date; all copies are at most `limit` GB.

    The address is of a folder, a list of pairs or a zip. Raise UsageError, SegtrainError.
    """
    address = address.rstrip("/")
    if archive := ARCHIVE.fullmatch(address):
        return _unpack(archive["inside"] or "", archive["chained"] or archive["direct"], limit)
    folder, _, name = address.rpartition("/")
    if name.lower().endswith(LIST_SUFFIXES):
        root, note = _update(RemoteFiles(folder), address, partial(_find_listed, name), limit)
        return LocalCopy(address, root / name, note)
    if name.lower().endswith(".json"):
        raise UsageError(f"{address}: give its folder, a list of pairs, or a zip of the data set")
    return LocalCopy(address, *_update(RemoteFiles(address), address, _find_all, limit))


def _unpack(inside: str, archive: str, limit: float) -> LocalCopy:
    """Return the copy of what is in a zip; one that is remote is fetched whole before."""
    fetched = None
    if "://" in archive:
        folder, _, name = archive.rpartition("/")
        find = partial(_find_one, name)
        root, fetched = _update(RemoteFiles(folder), f"{archive} itself", find, limit)
        file = root / name
    else:
        file = resolve_path(archive)
        archive = str(file)
        if not file.is_file():
            raise UsageError(f"data.path {file}: no such file")
    address = f"zip://{inside}::{archive}" if inside else archive
    root, note = _update(RemoteFiles(f"zip://{inside}::{file}"), address, _find_all, limit)
    stale = fetched and fetched.level == "warning"  # the server was not reached
    return LocalCopy(address, root, fetched if fetched and stale else note)


def _find_one(name: str, files: RemoteFiles, root: Path) -> RemoteListing:
    return {name: files.describe(name)}


def _find_all(files: RemoteFiles, root: Path) -> RemoteListing:
    names = files.list_names()
    if not names:
        way = "; a web server must show it as a page of links, else give a list of pairs or a zip"
        raise SegtrainError(f"{files.address}: no files found{way * files.is_web}")
    sized = {name: info if info.get("size") is not None else None for name, info in names.items()}
    entries = files.map(lambda name: files.describe(name, sized[name]), list(names), "listing")
    return dict(zip(names, entries, strict=True))


def _find_some(files: RemoteFiles, names: Iterable[str], guessed: bool = False) -> RemoteListing:
    """Find those of the files that are there; of guessed names, those that no server refuses."""

    def describe(name: str) -> RemoteListing:
        try:
            return {name: files.describe(name)}
        except RemoteFault as fault:
            if fault.is_missing or guessed and fault.lasts:
                return {}
            raise

    found = files.map(describe, sorted(names), "listing")
    return {name: entry for part in found for name, entry in part.items()}


def _find_listed(name: str, files: RemoteFiles, root: Path) -> RemoteListing:
    """Find the files that a list names; beside train.txt, also those of val.txt and test.txt.

    Those that aren't there are reported where the copy is read.
    """
    listing = {name: files.describe(name)}
    stem, suffix = os.path.splitext(name)
    if stem.lower() in SPLIT_WORDS["train"]:
        others = [word for split in ("val", "test") for word in SPLIT_WORDS[split]]
        listing |= _find_some(files, [word + suffix for word in others], guessed=True)
    named = set()
    for file, entry in listing.items():
        files.fetch(file, entry.size, root / file)
        table = read_table(root / file, has_image_suffix, 2)
        cells = (cell.replace("\\", "/") for row in table.rows for cell in row.cells)
        paths = (os.path.normpath(cell.removeprefix(f"{files.address}/")) for cell in cells)
        named |= {path for path in paths if has_image_suffix(path) and is_name(path)}
    return listing | _find_some(files, named)


def _update(files: RemoteFiles, key: str, find: Finder, limit: float) -> tuple[Path, Note]:
    """Bring the copy of a key up to date, alone among all processes; return its folder."""
    home = cache_folder() / "remote" / hashlib.sha256(key.encode()).hexdigest()[:16]
    name = files.address.rpartition("/")[2].removesuffix(".zip")
    name = re.sub(r"[^\w@.-]", "_", name).lstrip(".") or "data"
    root = home / name
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with lock_path(home.parent, wait=True):  # nobody evicts it meanwhile
            root.mkdir(parents=True, exist_ok=True)
            IN_USE.enter_context(lock_path(home, wait=True, shared=True))
            os.utime(home)
        with lock_path(root, wait=True):
            warning, text = _synchronise(files, root, find, limit)
        return root, Note(
            f"data: {warning or key}{text}, in {root}", "warning" if warning else "info"
        )
    except OSError as error:
        raise SegtrainError(
            f"cannot write {root}: {error.strerror or error}; set SEGTRAIN_CACHE to a folder that "
            "can be written"
        ) from error


def _synchronise(files: RemoteFiles, root: Path, find: Finder, limit: float) -> tuple[str, str]:
    """Fetch what a copy lacks or has of another version, and remove what is gone.

    Return a warning where the server isn't reached, and what was done.
    """
    old = _read_index(root.parent / INDEX)
    try:
        listing = find(files, root)
    except RemoteFault as fault:
        lacking = [name for name, entry in old.items() if not _is_there(root / name, entry)]
        if fault.lasts or not old:
            raise
        if lacking:
            raise SegtrainError(f"{fault}; its copy lacks {len(lacking)} of {len(old)} files")
        return str(fault), "; the copy is used that was made before"
    _make_room(root, listing, limit, files.address)
    _remove_others(root, listing)
    missing = [
        name
        for name, entry in listing.items()
        if old.get(name) != entry or not _is_there(root / name, entry)
    ]
    # a file of an older version stays until the new one is whole, so it isn't in the index yet
    begun = {n: e for n, e in listing.items() if n not in missing or not (root / n).exists()}
    _save_index(root, begun)
    try:
        files.map(lambda n: files.fetch(n, listing[n].size, root / n), missing, "fetching")
    except RemoteFault as fault:
        raise SegtrainError(f"{fault}; what was fetched is kept for the next try") from fault
    _save_index(root, listing)
    new = f", of which {len(missing)} are new" if missing else ""
    return "", f": {len(listing)} files{new}"


def _make_room(root: Path, listing: RemoteListing, limit: float, address: str) -> None:
    """Remove the copies that were not used for longest, as far as `limit` GB need it.

    Raise SegtrainError where too little is left, for copies in use stay.
    """
    needed = sum(entry.size for entry in listing.values())
    with lock_path(root.parent.parent, wait=True):
        homes = sorted(root.parent.parent.iterdir(), key=lambda home: home.stat().st_mtime)
        others = {home: _measure(home) for home in homes if home != root.parent}
        for home in homes:
            if needed <= limit * GB < sum(others.values()) + needed and home in others:
                with lock_path(home) as locked:
                    if locked:
                        shutil.rmtree(home)
                        del others[home]
    if sum(others.values()) + needed > limit * GB:
        beside = f", beside {sum(others.values()) / GB:.2f} GB in use" if others else ""
        raise SegtrainError(
            f"{address}: {len(listing):,} files of {needed / GB:.2f} GB are more than "
            f"data.cache_gb ({limit:g}) allows{beside}; raise it, or give a smaller data set"
        )


def _measure(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove_others(root: Path, listing: RemoteListing) -> None:
    """Remove what a copy has beyond its listing, also what a killed process was writing."""
    for folder, _, names in os.walk(root, topdown=False):
        for path in (Path(folder, name) for name in names):
            if path.relative_to(root).as_posix() not in listing:
                path.unlink()
        if folder != str(root) and not os.listdir(folder):
            os.rmdir(folder)


def _is_there(file: Path, entry: RemoteFile) -> bool:
    try:
        return file.stat().st_size == entry.size
    except OSError:
        return False


def _read_index(file: Path) -> RemoteListing:
    """Return the files that a copy has, or was to have when its process was killed."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return {n: RemoteFile(*entry) for n, entry in json.loads(file.read_text("utf-8")).items()}
    return {}


def _save_index(root: Path, listing: RemoteListing) -> None:
    save_json(root.parent / INDEX, {name: [*entry] for name, entry in listing.items()})
