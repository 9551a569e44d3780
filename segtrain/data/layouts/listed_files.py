"""Files that lists name: by path, by the end of a foreign path, or by a name in some folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from segtrain.data.layouts.folders import walk_folder
from segtrain.data.layouts.pairing import fold_name


@dataclass
class FolderNames:
    """The names in a folder, and by their folded forms those that have it alone."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    @cached_property
    def folded(self) -> dict[str, str]:
        names = self.files | self.folders
        count = Counter(map(fold_name, names))
        return {key: name for name in names if count[key := fold_name(name)] == 1}


class FileFinder:
    """A finder of the files that a list names, relative to its folders.

    A path is absolute, relative to one of the folders (in any case and Unicode form where only one
    file can be meant), or has a foreign prefix: then its longest end that is a file is taken. With
    `search_below`, a name without a folder may be a file anywhere below root.
    """

    def __init__(self, root: Path, folders: Sequence[Path]):
        self.root = root
        self.folders = list(dict.fromkeys(map(str, folders)))
        self.search_below = False
        self.folded: set[str] = set()  # files that the list names in another case or Unicode form
        self._names: dict[str, FolderNames] = {}

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
        if not os.path.isabs(path):
            for look_up in (self._exact, self._folded):
                if whole := next((w for f in self.folders if (w := look_up(f, path))), None):
                    return [whole]
        parts = [part for part in path.split(os.sep) if part not in ("", os.pardir)]
        for first in range(len(parts)):
            end = os.sep.join(parts[first:])
            if whole := next((w for f in self.folders if (w := self._exact(f, end))), None):
                return [whole]
        return self._below.get(path, []) if self.search_below else []

    def _exact(self, folder: str, path: str) -> str | None:
        where, name = os.path.split(os.path.join(folder, path))
        return os.path.join(where, name) if name in self._list(where).files else None

    def _folded(self, folder: str, path: str) -> str | None:
        *above, name = path.split(os.sep)
        for part in above:
            names = self._list(folder)
            same = part if part in names.folders else names.folded.get(fold_name(part), part)
            folder = os.path.join(folder, same)
        found = self._list(folder).folded.get(fold_name(name))
        if found not in self._list(folder).files:
            return None
        self.folded.add(path)
        return os.path.join(folder, str(found))

    def _list(self, folder: str) -> FolderNames:
        if folder not in self._names:
            found = self._names[folder] = FolderNames()
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file():
                        found.files.add(entry.name)
                    elif entry.is_dir():
                        found.folders.add(entry.name)
        return self._names[folder]

    @cached_property
    def _below(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder, names in walk_folder(self.root):
            for name in names:
                found.setdefault(name, []).append(os.path.normpath(self.root / folder / name))
        return found
