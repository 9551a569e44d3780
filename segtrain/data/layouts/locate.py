"""The folder that a data section means: its path, ./data, or the demo."""

from __future__ import annotations

import tempfile
from pathlib import Path

from segtrain.config import DataConfig
from segtrain.data.demo import CLASSES, PALETTE, write_demo
from segtrain.data.layouts.detect import find_layout
from segtrain.errors import SegtrainError
from segtrain.files import cache_folder
from segtrain.version import __version__

DEFAULT_FOLDER = Path("data")


def demo_folder() -> Path:
    """The embedded demo on disk, made at the first call: $SEGTRAIN_CACHE or ~/.cache/segtrain."""
    cache = cache_folder()
    folder = cache / f"demo-{__version__}"
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                write_demo(Path(temporary) / "demo")
                (Path(temporary) / "demo").rename(folder)  # whole or not at all
        except OSError as error:
            if not folder.is_dir():  # else another process was first
                raise SegtrainError(f"cannot write the demo data to {folder}: {error}") from error
    return folder


def locate(data: DataConfig) -> tuple[DataConfig, str]:
    """The data section with its path filled in, and one line that says which data set it is.

    demo is the embedded one; with no path, ./data where it holds a data set, else the demo.
    """
    if data.path is None and (data.splits or find_layout(DEFAULT_FOLDER)):
        data = data.model_copy(update={"path": str(DEFAULT_FOLDER)})
    if data.path in (None, "demo"):
        why = "no --data and no data set in data/: " if data.path is None else ""
        root = demo_folder()
        own = {
            "path": "demo",
            "classes": data.classes or list(CLASSES),
            "palette": data.palette or list(PALETTE),
        }
        return data.model_copy(update=own), f"data: {why}the embedded demo, at {root}"
    root = Path(data.path).expanduser().resolve()
    return data.model_copy(update={"path": str(root)}), f"data: {root}"


def root_of(data: DataConfig) -> Path:
    """The folder of a located data section."""
    assert data.path is not None
    return demo_folder() if data.path == "demo" else Path(data.path)
