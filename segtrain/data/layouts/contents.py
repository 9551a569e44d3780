"""A folder's contents in one line, for where no data set is found in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segtrain.data.decoding import SUFFIXES
from segtrain.data.layouts.folder_words import read_name
from segtrain.errors import shorten

# by the end of the name: what such files are, and what to do with them
KINDS = {
    ".nii": "volumes; export slices as PNG",
    ".nii.gz": "volumes; export slices as PNG",
    ".nrrd": "volumes; export slices as PNG",
    ".mha": "volumes; export slices as PNG",
    ".dcm": "DICOM; export PNG",
    ".mat": "MATLAB arrays; save them as .npy or PNG",
    ".h5": "HDF5 arrays; save them as .npy or PNG",
    ".hdf5": "HDF5 arrays; save them as .npy or PNG",
    ".npz": "archives of arrays; save each as .npy",
    ".xml": "annotations in XML; export masks or COCO",
    ".json": "annotations in JSON; export masks, or name COCO's with data.splits",
    ".geojson": "outlines; rasterise them",
    ".shp": "outlines; rasterise them",
    ".psd": "Photoshop's; export PNG",
    ".svg": "drawings; export PNG",
    ".heic": "photos; convert them to JPEG or PNG",
    ".mp4": "videos; extract the frames",
    ".avi": "videos; extract the frames",
    ".mov": "videos; extract the frames",
    ".mkv": "videos; extract the frames",
    ".parquet": "tables; save images and masks as files",
    ".tfrecord": "TensorFlow's; save images and masks as files",
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "archives; unpack them"),
}
MOST_ROWS = 6
ASIDE = {".md", ".db", ".ini", ".yaml", ".yml", ".py", ".ipynb", ".pdf", ".license", ""}


def describe_contents(tree: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return the files of each folder by kind, those of splits and subfolders as one.

    `tree` has the names of the files by folder, as walk_folder yields them.
    """
    found: dict[str, Counter[str]] = {}
    for folder, names in tree:
        place = _place(folder)
        for name in names:
            suffix = ".nii.gz" if name.lower().endswith(".nii.gz") else _suffix(name)
            found.setdefault(place, Counter())[suffix] += 1
        if folder != ".":
            found.setdefault(place, Counter())
    rows = []
    for place, suffixes in sorted(found.items(), key=lambda row: -sum(row[1].values())):
        main = {s: n for s, n in suffixes.most_common() if place != "." or s not in ASIDE}
        kinds = [
            f"{count} {suffix or 'without extension'}"
            + (f" ({KINDS[suffix]})" if suffix in KINDS.keys() - SUFFIXES else "")
            for suffix, count in main.items()
        ]
        if kinds or not any(other.startswith(f"{place}/") for other in found) and place != ".":
            where = "it" if place == "." else place
            rows.append(f"{where} holds {shorten(kinds) or 'no files'}")
    return shorten(rows, MOST_ROWS).replace(", it holds", "; it holds") or "it is empty"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _place(folder: str) -> str:
    """Return a folder up to the last name that says what it is for, * instead of its split."""
    parts = [] if folder == "." else list(Path(folder).parts)
    meanings = [read_name(part) for part in parts]
    roles = [i for i, m in enumerate(meanings) if m.split or m.is_mask or m.is_image]
    kept = parts[: roles[-1] + 1 if roles else 1]
    named = zip(kept, meanings, strict=False)
    return "/".join(m.template if m.split else part for part, m in named) or "."
