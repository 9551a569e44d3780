"""The folder that a data section means: its path, ./data, or the demo."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.config.addresses import is_remote
from segtrain.console import Note
from segtrain.data.demo import CLASSES, PALETTE, write_demo
from segtrain.data.layouts.detect import find_layout
from segtrain.data.layouts.folder_words import read_name
from segtrain.data.layouts.folders import DEEPEST
from segtrain.data.local_copy import open_copy
from segtrain.errors import SegtrainError
from segtrain.files.places import cache_folder, resolve_path, temporary_home
from segtrain.version import __version__

DEFAULT_FOLDER = Path("data")
# what may lie beside the only folder of an archive
ASIDE = re.compile(r"(?i)\..*|__MACOSX|(read.?me|licen[cs]e).*|.*\.(md|pdf|html?|url|ini|db)")


@dataclass(frozen=True)
class Location:
    """The folder of a data set, and the data section that names it."""

    config: DataConfig  # with its path; for the demo with its classes and colours, too
    root: Path
    note: Note  # which data set it is


def demo_folder() -> Path:
    """Return the folder of the embedded demo, painted at the first call below cache_folder().

    Where that can't be written, it is painted among temporary files.
    """
    for find_place in (cache_folder, temporary_home):
        cache = find_place()
        folder = cache / f"demo-{__version__}"
        try:
            if not folder.is_dir():
                cache.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=cache) as temporary:
                    write_demo(Path(temporary) / "demo")
                    (Path(temporary) / "demo").rename(folder)  # whole or not at all
            return folder
        except OSError as error:
            if folder.is_dir():  # another process was first
                return folder
            failed = f"cannot write the demo data to {folder}: {error}"
    raise SegtrainError(f"{failed}; set SEGTRAIN_CACHE to a folder that can be written")


def enter_single_folders(root: Path, config: DataConfig) -> Path:
    """Return root, or the folder in it that alone holds the data set, as in unpacked archives.

    A folder named for images, masks or a split is part of a data set, and so is one that
    data.splits or data.exclude names.
    """
    splits = config.splits.values()
    given = [
        *config.exclude,
        *(path for s in splits for path in (s.images, s.list, s.coco) if path),
    ]
    names = {Path(path).parts[:1] for path in given}
    inner: list[os.DirEntry] = []
    for _ in range(DEEPEST):
        if any((root / Path(*name)).exists() for name in names) or not root.is_dir():
            break
        with suppress(OSError), os.scandir(root) as entries:
            inner = list(islice((e for e in entries if not ASIDE.fullmatch(e.name)), 2))
        meaning = read_name(inner[0].name if len(inner) == 1 else "images")
        if meaning.split or meaning.is_mask or meaning.is_image or not inner[0].is_dir():
            break
        root = root / inner[0].name
    return root


def is_demo(config: DataConfig) -> bool:
    """Return whether the data section means the embedded demo."""
    if config.path is None and not config.splits:
        root = enter_single_folders(DEFAULT_FOLDER, config)
        return not (DEFAULT_FOLDER.is_dir() and find_layout(root))
    return config.path == "demo"


def locate(config: DataConfig) -> Location:
    """Return the folder that data.path names.

    The path `demo` is the embedded demo; without a path it is ./data where that holds a data set,
    else the demo. Of a remote data set, the folder is that of its copy.
    """
    if config.path is None and not is_demo(config):
        config = config.model_copy(update={"path": str(DEFAULT_FOLDER)})
    if config.path is None or config.path == "demo":
        why = "no --data and no data set in data/: " if config.path is None else ""
        root = demo_folder()
        own = {
            "path": "demo",
            "classes": config.classes or list(CLASSES),
            "palette": config.palette or list(PALETTE),
        }
        note = Note(f"data: {why}the embedded demo, at {root}")
        return Location(config.model_copy(update=own), root, note)
    if is_remote(config.path):
        copy = open_copy(config.path, config.cache_gb)
        root = enter_single_folders(copy.root, config)
        return Location(config.model_copy(update={"path": copy.address}), root, copy.note)
    root = enter_single_folders(resolve_path(config.path), config)
    return Location(config.model_copy(update={"path": str(root)}), root, Note(f"data: {root}"))
