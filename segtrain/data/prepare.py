"""The data section as given -> what is there: pairs, classes and colours, said in lines."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import segtrain
from segtrain.config import Data
from segtrain.data.demo import CLASSES, PALETTE, write_demo
from segtrain.data.formats import Sample, find_layout, find_pairs
from segtrain.data.masks import MaskReader, class_palette, find_num_classes
from segtrain.data.scan import check_values, median_size, scan_pairs, values_found
from segtrain.errors import SegtrainError

DEFAULT_FOLDER = Path("data")


def demo_folder() -> Path:
    """The embedded demo on disk, made at the first call: $SEGTRAIN_CACHE or ~/.cache/segtrain."""
    cache = Path(os.environ.get("SEGTRAIN_CACHE") or Path.home() / ".cache" / "segtrain")
    folder = cache / f"demo-{segtrain.__version__}"
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


@dataclass(frozen=True)
class Prepared:
    """A data set that training can use: every mask was read, every size compared."""

    data: Data  # path and classes filled in
    splits: dict[str, list[Sample]]
    palette: list[tuple[int, int, int]]  # a colour a class
    # of the training masks: each class's pixels, and all pixels of the masks that have the class
    class_pixels: tuple[list[int], list[int]]
    median_size: tuple[int, int]  # (height, width) of the training images
    summary: list[str]


def locate(data: Data) -> tuple[Data, str]:
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


def root_of(data: Data) -> Path:
    """The folder of a located data section."""
    return demo_folder() if data.path == "demo" else Path(data.path)


def mask_reader(data: Data) -> MaskReader:
    """The reader of a data section whose classes are known."""
    return MaskReader(len(data.classes), data.label_map, data.lb_ignore, data.palette)


def prepare(data: Data) -> Prepared:
    """Finds, pairs and reads the masks of the training and validation data."""
    data, where = locate(data)
    found = find_pairs(data, root_of(data))
    if "train" not in found.splits:
        raise SegtrainError(f"{data.path}: no train split; found {', '.join(found.splits)}")
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in found.splits.items())
    facts = {s: scan_pairs(found.splits[s], data.palette) for s in ("train", "val")}
    summary = [where, f"pairs: {counts}; {found.layout}"]
    if data.classes is None:
        values = values_found(facts["train"])
        num_classes = find_num_classes(values, data.label_map, data.lb_ignore)
        data = data.model_copy(update={"classes": [str(i) for i in range(num_classes)]})
        nothing = ("ignore", data.lb_ignore)
        unused = [value for value in sorted(values) if data.label_map.get(value, value) in nothing]
        ignored = "".join(f", {value} ignored" for value in unused)
        summary.append(f"classes: ids 0..{num_classes - 1} found in the training masks{ignored}")
    masks = mask_reader(data)
    counts = {split: check_values(facts[split], masks) for split in facts}
    pixels, where_present = counts["train"]
    summary.append(_shares(data.classes, pixels))
    palette = class_palette(masks.num_classes, data.palette, data.label_map)
    class_pixels = pixels.tolist(), where_present.tolist()
    return Prepared(data, found.splits, palette, class_pixels, median_size(facts["train"]), summary)


def _shares(names: list[str], pixels) -> str:
    if not pixels.sum():
        raise SegtrainError("no training pixel has a class: all are ignored")
    shares = ", ".join(f"{n} {share:.2%}" for n, share in zip(names, pixels / pixels.sum()))
    return f"training pixels: {shares}"
