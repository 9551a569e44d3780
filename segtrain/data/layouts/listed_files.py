"""Names in lists: the files that they mean by path, or the groups of files by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from segtrain.data.layouts.folders import walk_folder
from segtrain.data.layouts.pairing import Group, fold_name

Value = TypeVar("Value")
EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}$")


class FileFinder:
    """A finder of the files that a list names, relative to its folders.

    A path is absolute, relative to one of the folders, or has a foreign prefix: then its longest
    end that is a file is taken. Where only one file can be meant, case and Unicode form may differ.
    With `search_below`, a name without a folder may be a file anywhere below root.
    """

    def __init__(self, root: Path, folders: Sequence[Path]):
        self.root = root
        self.folders = list(dict.fromkeys(map(str, folders)))
        self.search_below = False
        self._entries: dict[str, tuple[dict[str, bool], dict[str, str]]] = {}

    def exists(self, path: str) -> bool:
        """Return whether a path names a file, or several."""
        return bool(self.find_all(path))

    def find_all(self, path: str) -> list[str]:
        """Return the file that a path names; several where they only share their name."""
        if not path or "\0" in path:
            return []
        path = os.path.normpath(path.replace("\\", "/"))
        if os.path.isabs(path) and os.path.isfile(path):
            return [path]
        parts = [part for part in path.split(os.sep) if part not in ("", os.pardir)]
        ends = [parts[first:] for first in range(len(parts))]
        for end in ends if os.path.isabs(path) else [path.split(os.sep), *ends]:
            for folder in self.folders:
                if found := self._descend(folder, end):
                    return [found]
        return self._below.get(path, []) if self.search_below and len(parts) == 1 else []

    def _descend(self, folder: str, parts: Sequence[str]) -> str | None:
        is_file = False
        for part in parts:
            files, unfolded = self._list(folder)
            name = part if part in files else unfolded.get(fold_name(part))
            if name is None and part != os.pardir:
                return None
            folder = os.path.join(folder, name) if name else os.path.dirname(folder)
            is_file = bool(name and files[name])
        return folder if is_file else None

    def _list(self, folder: str) -> tuple[dict[str, bool], dict[str, str]]:
        """Return for the names in a folder if they are files, and those unique in folded form."""
        if folder not in self._entries:
            is_file: dict[str, bool] = {}
            with suppress(OSError), os.scandir(folder) as entries:
                is_file = {entry.name: entry.is_file() for entry in entries}
            folded = _map_unique((fold_name(name), name) for name in is_file)
            self._entries[folder] = is_file, {key: name for key, name in folded.items() if name}
        return self._entries[folder]

    @cached_property
    def _below(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder, names in walk_folder(self.root):
            for name in names:
                found.setdefault(name, []).append(os.path.normpath(self.root / folder / name))
        return found


class NameIndex:
    """Groups of files by the names that a list may give them.

    These are `names`, then the images' paths and their ends without extension, then the masks',
    then what the names of both begin or end with; in another case or Unicode form, too. A name of
    several groups is unknown.
    """

    def __init__(self, groups: Sequence[Group], names: Sequence[str] = ()):
        ends: list[list[tuple[str, int]]] = [[], [], []]  # of common parts, of masks, of images
        for place, (images, masks) in enumerate(groups):
            files = [[path for path in side if isinstance(path, str)] for side in (masks, images)]
            for kind, paths in zip(ends[1:], files, strict=True):
                kind += [(end, place) for path in paths for end in _ends(EXTENSION.sub("", path))]
            if all(files):
                ends[0] += [(part, place) for part in _common_parts(files[0][0], files[1][0])]
        self._kinds = [*ends, [(name, place) for place, name in enumerate(names)]]

    @cached_property
    def _places(self) -> dict[str, int | None]:
        return self._map_names(str)

    @cached_property
    def _folded(self) -> dict[str, int | None]:
        return self._map_names(fold_name)

    def _map_names(self, form: Callable[[str], str]) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for kind in self._kinds:  # what comes later wins
            found |= _map_unique((form(name), place) for name, place in kind)
        return found

    def find(self, name: str) -> int | None:
        """Return the place of the group that a name, or the end of a path, means."""
        path = os.path.normpath(name.replace("\\", "/")).strip("/")
        forms = dict.fromkeys((path, EXTENSION.sub("", path)))
        for form in forms:
            if form in self._places:
                return self._places[form]
        ends = [
            end
            for form in forms
            for end in _ends(form)
            # else what is cut off are no folders, but other cells
            if not any(mark in form[: len(form) - len(end)] for mark in ',;|\t"')
        ]
        for end in ends:
            if end in self._places:
                return self._places[end]
        return next(
            (self._folded[key] for key in map(fold_name, ends) if key in self._folded), None
        )

    def knows(self, name: str) -> bool:
        """Return whether a name means a group."""
        return self.find(name) is not None


def _ends(path: str) -> list[str]:
    """Return a path and what is left of it without its first folders, the longest first."""
    parts = path.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _map_unique(items: Iterable[tuple[str, Value]]) -> dict[str, Value | None]:
    """Return the value of each key, None where it has several."""
    found: dict[str, Value | None] = {}
    for key, value in items:
        if found.setdefault(key, value) != value:
            found[key] = None
    return found


def _common_parts(image: str, mask: str) -> set[str]:
    """Return what the stems of both begin and end with."""
    stems = [EXTENSION.sub("", os.path.basename(path)) for path in (image, mask)]
    start = os.path.commonprefix(stems).rstrip("_-. ")
    end = os.path.commonprefix([stem[::-1] for stem in stems])[::-1].lstrip("_-. ")
    return {part for part in (start, end) if part and part not in stems}
