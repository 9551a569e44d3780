"""Damage random data sets, and assert that segtrain reads the right pixels or names the file.

What it is for. A damaged data set must never train on wrong pixels or labels in silence. Tests of
single faults cover what someone has thought of; this is a fuzz test of whole data sets: every
layout, many file formats, and several kinds of damage at once.

How it works, step by step:

1. Hypothesis draws a `Case`: a layout, the number of pairs of each split, how many of them to
   damage, and a seed, from which all other choices follow.
2. `write` makes the data set. It draws a *meaning* (which mask values stand for which class ids),
   writes an image and a mask for each pair, and remembers in a `Pair` the pixels and class ids
   that a correct reader must find. Then it damages some of the pairs.
3. `judge` surveys the data set as `segtrain check` does. The survey may raise an error or report
   findings; each must name a damaged file (otherwise it is a false alarm).
4. `follow` looks at what became of each pair. If no error names it, it must be in its split, and
   its image and mask are read and compared with what the pair remembers.
5. A quarter of the cases also go `through_the_command`: `segtrain check` must agree with the survey
   in its exit code, its JSON and the config that it writes, and so must what `fit` runs first.
6. `BROKEN` turns the test on itself: each row breaks segtrain on purpose, and the judge must fail
   within 50 cases.

What the words mean:

- *damage*: one of `DAMAGES`, for instance "truncate", "flip" (bits) or "leak" (the same image in
  two splits). The *side* is the file of the pair that it is done to: the image or the mask.
- *rule*: what a pair must come to if no error names it, one for each side. "right": its pixels or
  labels are read as they were written. "shape": a flipped bit in a file without checksums cannot
  be noticed, so only the size must be right. "bad": an error must name it. "clash": it contradicts
  the others (another palette, 255 where they have 1), so there must be an error, which may name
  any of them: where several readings are possible, nothing may be read at all.
- *loose*: a damaged list or COCO JSON. It may change anything, so only a traceback is a failure.
- *outcome*: "right", "shape", "finding" or "error"; `OUTCOMES` counts them.

How to extend it:

- A damage: a name in `DAMAGES` and a `case` in `spoil` that changes the file and sets the rule of
  its side; for the masks in a COCO JSON, which are no files, an entry in `spoil_region`. One that
  means something in a few layouts only stands in their `damages`, and is done to masks alone.
- A file format: a row of `IMAGES` or of the `..._MASKS`. A layout: a row of `LAYOUTS`; `finish`
  writes what it has besides pairs, and returns fields of the config.

By hand, more cases, and what came of them:

    SEGTRAIN_DAMAGE_CASES=2000 pytest -s tests/data/test_damage.py

A failure prints its case. To run it alone, from tests/data:

    PYTHONPATH=.. python -c "from test_damage import *; tried(judge, Case('voc', (3, 1, 0), 2, 17))"
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import yaml
from conftest import run_cli
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from segtrain.config import DataConfig
from segtrain.data import decoding, masks
from segtrain.data.inspection.checks import Checks
from segtrain.data.inspection.survey import Inspection, Survey, inspect_data_set, survey_data_set
from segtrain.errors import SegtrainError

CASES = int(os.environ.get("SEGTRAIN_DAMAGE_CASES", 0))
VOID = 255
LOSSY_ERROR = 8  # mean difference that JPEG and WebP may make; a wrong turn makes 40 and more
ORIENTATION = 0x0112
OUTCOMES: Counter = Counter()


# ---- files


def turn(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a file of this EXIF orientation stores, by the table of the standard."""
    side_of_first_row, side_of_first_column = {
        1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left",
        5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom",
    }[orientation].split()  # fmt: skip
    stored = upright if orientation < 5 else upright.swapaxes(0, 1)
    stored = stored[::-1] if side_of_first_row in ("bottom", "right") else stored
    return stored[:, ::-1] if side_of_first_column in ("bottom", "right") else stored


def encode(values, mode: str, kind: str, options: dict, orientation=1, colours=None) -> bytes:
    """A file of the upright values, in one of Pillow's modes (which a .npy has not)."""
    file = io.BytesIO()
    stored = np.ascontiguousarray(turn(values, orientation))
    if kind == "NPY":
        np.save(file, stored)
        return file.getvalue()
    if kind == "TIFFFILE":
        tifffile.imwrite(file, stored, **options)
        return file.getvalue()
    shape = stored.shape[1::-1]
    image = Image.frombytes("L" if mode in "1P" else mode, shape, stored.tobytes())
    if mode == "1":
        image = image.convert("1", dither=Image.Dither.NONE)
    elif mode == "P":
        image.putpalette(colours)
    if orientation > 1 and kind == "TIFF":
        options = options | {"tiffinfo": {ORIENTATION: orientation}}
    elif orientation > 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = options | {"exif": exif.tobytes()}
    image.save(file, kind, **options)
    return file.getvalue()


def repeat(grey: np.ndarray) -> np.ndarray:
    return grey.astype(np.uint8)[..., None].repeat(3, 2)


def deep(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 1].astype(np.uint16) * 256 + rgb[..., 0]


def index(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 1] // 4


def bits(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 1] % 2 * np.uint8(255)


COLOURS = np.random.default_rng(0).choice(256**3, 64, replace=False)
COLOURS = np.stack([COLOURS >> 16, COLOURS >> 8 & 255, COLOURS & 255], 1).astype(np.uint8)

# what a file holds of random RGB pixels: Pillow's mode, values, and the RGB that is to be read
VIEWS: dict[str, tuple[str, Callable, Callable]] = {
    "rgb": ("RGB", lambda rgb: rgb, lambda rgb: rgb),
    "grey": ("L", lambda rgb: rgb[..., 1], lambda rgb: repeat(rgb[..., 1])),
    "grey16": ("I;16", deep, lambda rgb: repeat(rgb[..., 1])),
    "rgba": ("RGBA", lambda rgb: np.dstack([rgb, rgb[..., 0]]), lambda rgb: rgb),
    "greya": ("LA", lambda rgb: rgb[..., :2], lambda rgb: repeat(rgb[..., 0])),
    "palette": ("P", index, lambda rgb: COLOURS[index(rgb)]),
    "bits": ("1", bits, lambda rgb: repeat(bits(rgb))),
    # without black it is the complement
    "cmyk": ("CMYK", lambda rgb: np.dstack([255 - rgb, 0 * rgb[..., 0]]), lambda rgb: rgb),
    "first": ("", lambda rgb: rgb.transpose(2, 0, 1), lambda rgb: rgb),  # channels, for arrays
    "white": ("", lambda rgb: 255 - rgb[..., 1], lambda rgb: repeat(rgb[..., 1])),
}  # fmt: skip
BANDS = {"photometric": "rgb", "planarconfig": "separate"}
# suffix, format of Pillow or TIFFFILE, options, the views that it holds, whether pixels are exact
IMAGES: dict[str, tuple[str, str, dict, list[str], bool]] = {
    "png": (".png", "PNG", {}, ["rgb", "grey", "grey16", "rgba", "greya", "palette", "bits"], True),
    "jpeg": (".jpg", "JPEG", {"quality": 95, "subsampling": 0}, ["rgb", "grey"], False),
    "progressive": (".jpeg", "JPEG", {"quality": 95, "progressive": True}, ["rgb", "grey"], False),
    "webp": (".webp", "WEBP", {"lossless": True}, ["rgb"], True),
    "lossy webp": (".webp", "WEBP", {"quality": 95}, ["rgb"], False),
    "tiff": (".tif", "TIFF", {}, ["rgb", "grey", "grey16", "palette", "cmyk"], True),
    "lzw": (".tif", "TIFF", {"compression": "tiff_lzw"}, ["rgb", "grey", "grey16"], True),
    "deflate": (".tiff", "TIFF", {"compression": "tiff_adobe_deflate"}, ["rgb", "grey16"], True),
    "bands": (".tif", "TIFFFILE", BANDS | {"compression": "zlib"}, ["first"], True),
    "min is white": (".tif", "TIFFFILE", {"photometric": "miniswhite"}, ["white"], True),
    "bmp": (".bmp", "BMP", {}, ["rgb", "grey", "palette"], True),
    "ppm": (".ppm", "PPM", {}, ["rgb", "grey"], True),
    "npy": (".npy", "NPY", {}, ["rgb", "grey", "grey16", "first"], True),
}
TURNABLE = ("PNG", "JPEG", "WEBP", "TIFF")
CHECKED = b"\x89PNG"  # has checksums: no flipped bit may go unseen
# of masks: suffix, format, options, mode (of one channel, or of colours)
GREY_MASKS = {
    "png": (".png", "PNG", {}, "L"),
    "png palette": (".png", "PNG", {}, "P"),
    "png 16": (".png", "PNG", {}, "I;16"),
    "png alpha": (".png", "PNG", {}, "LA"),
    "tiff": (".tif", "TIFF", {"compression": "tiff_lzw"}, "L"),
    "bmp": (".bmp", "BMP", {}, "L"),
    "npy": (".npy", "NPY", {}, "L"),
    "npy 64": (".npy", "NPY", {}, "int64"),
    "tiff nodata": (".tif", "TIFFFILE", {}, "int16"),  # -9999 for 255
    "tiff white": (".tif", "TIFFFILE", {"photometric": "miniswhite"}, "L"),
    "tiff deflate": (".tiff", "TIFFFILE", {"compression": "zlib", "rowsperstrip": 2}, "float64"),
    "gif": (".gif", "GIF", {}, "L"),  # Pillow reduces its palette of grey levels
}
BINARY_MASKS = {
    "png": (".png", "PNG", {}, "L"),
    "png bits": (".png", "PNG", {}, "1"),
    "tiff bool": (".tif", "TIFFFILE", {}, "bool"),
    "gif": (".gif", "GIF", {"optimize": False}, "L"),
    "npy": (".npy", "NPY", {}, "L"),
}
INDEXED_MASKS = {
    "png": (".png", "PNG", {}, "P"),
    "tiff": (".tif", "TIFF", {}, "P"),
    "bmp": (".bmp", "BMP", {}, "P"),
    "gif": (".gif", "GIF", {"optimize": False}, "P"),
}
WIDE_MASKS = {
    "png": (".png", "PNG", {}, "I;16"),
    "tiff": (".tif", "TIFF", {}, "I;16"),
    "npy": (".npy", "NPY", {}, "int32"),
    "tiff nodata": (".tif", "TIFFFILE", {"compression": "zlib"}, "int32"),  # -9999 for 65535
}
COLOUR_MASKS = {
    "png": (".png", "PNG", {}, "RGB"),
    "png alpha": (".png", "PNG", {}, "RGBA"),
    "bmp": (".bmp", "BMP", {}, "RGB"),
    "webp": (".webp", "WEBP", {"lossless": True, "exact": True}, "RGB"),
    "npy": (".npy", "NPY", {}, "RGB"),
    "tiff": (".tif", "TIFF", {"compression": "tiff_lzw"}, "RGB"),
    "tiff bands": (".tif", "TIFFFILE", BANDS, "bands"),
}


class Meaning(NamedTuple):
    """Mask values, the class id of each, and what the config must say about them."""

    ids: dict[Any, int]
    config: dict = {}
    kinds: dict = GREY_MASKS
    unknown: Any = 180


CAMVID_COLOURS = {(128, 64, 128): 3, (128, 0, 192): 3, (64, 0, 128): 8, (192, 128, 192): 8,
                  (0, 0, 0): VOID, (192, 128, 64): 9}  # fmt: skip
ABC = {"classes": ["a", "b", "c"]}
FREE = [
    Meaning({0: 0, 1: 1, 2: 2}),  # ids found
    Meaning({0: 0, 1: 1, 2: 2, VOID: VOID}, ABC),
    Meaning({0: 0, 85: 1, 170: 2, 200: VOID}, ABC | {"label_map": {85: 1, 170: 2, 200: "ignore"}}),
    Meaning(
        {0: 0, 1000: 1, 40000: 2, 65535: VOID},
        ABC | {"label_map": {1000: 1, 40000: 2, 65535: "ignore"}},
        WIDE_MASKS,
        256,
    ),
    Meaning(
        {(0, 0, 0): 0, (250, 0, 0): 1, (0, 0, 251): 2, (9, 9, 9): VOID},
        ABC
        | {"palette": [[0, 0, 0], [250, 0, 0], [0, 0, 251], [9, 9, 9]]}
        | {"label_map": {3: "ignore"}},
        COLOUR_MASKS,
        (250, 1, 0),
    ),
]
PNG_ALONE = {"png": GREY_MASKS["png"]}
VOC = [Meaning({0: 0, 1: 1, 15: 15, 20: 20, VOID: VOID}, kinds=dict(list(GREY_MASKS.items())[:2]))]
CITY = [Meaning({0: VOID, 7: 0, 8: 1, 9: VOID, 26: 13, 33: 18}, kinds=PNG_ALONE)]
CITY_TRAIN = [Meaning({0: 0, 1: 1, 13: 13, 18: 18, VOID: VOID}, kinds=PNG_ALONE)]
ADE = [Meaning({0: VOID, 1: 0, 2: 1, 13: 12, 150: 149}, kinds=PNG_ALONE)]
CAMVID = [Meaning({0: 0, 3: 3, 8: 8, 10: 10, 11: VOID}, kinds=PNG_ALONE)]
CAMVID_RGB = [Meaning(CAMVID_COLOURS, kinds=COLOUR_MASKS, unknown=(128, 64, 129))]
COCO = [Meaning({0: 0, 3: 1, 7: 2, 40: 3}, kinds={}, unknown=99)]
CLASS_FILES = [Meaning({0: 0, 1: 1, 2: 2}, kinds={}, unknown=2)]
BINARY = [
    Meaning({0: 0, 1: 1}, config, BINARY_MASKS, unknown)
    for config, unknown in (({}, 180), ({"classes": ["a", "b"]}, 3))
]
INDEXED = [Meaning({0: 0, 1: 1, 2: 2}, config, INDEXED_MASKS) for config in ({}, ABC)]
# what a table of the user's names: by colour, or by the place of each class
TABLE_COLOURS = {"background": (0, 0, 0), "car": (250, 0, 0), "road": (0, 0, 251), "sky": (9, 9, 9)}
TABLES = [
    Meaning(dict(zip(TABLE_COLOURS.values(), range(4), strict=True)), {}, COLOUR_MASKS, (9, 8, 9)),
    Meaning({0: 0, 1: 1, 2: 2, 3: 3}, {}, {k: v for k, v in GREY_MASKS.items() if v[3] != "P"}),
]


# ---- data sets


@dataclass
class Pair:
    """A pair as it was written, and the damage that was done to it."""

    split: str
    name: str  # in the paths of both files, and of no other's
    image: Path
    mask: Path | None  # None in a COCO JSON
    pixels: np.ndarray  # (H,W,3) to be read
    exact: bool
    values: np.ndarray  # (H,W) mask values, or (H,W,3) colours
    ids: np.ndarray  # (H,W) class ids to be read
    damage: str = ""
    # of each side: right, shape or bad, see above
    rules: dict[str, str] = field(default_factory=lambda: {"image": "right", "mask": "right"})
    twin: Pair | None = None  # has the same image
    also: str = ""  # how errors call its mask in a COCO JSON

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.image, self.mask) if file]

    def is_named(self, text: str) -> bool:
        return any(plain(name) in plain(text) for name in (self.name, self.also) if name)


def plain(text: str) -> str:
    """A text in which names of images and masks agree that differ in case or Unicode form."""
    return unicodedata.normalize("NFC", text).casefold()


class Layout(NamedTuple):
    format: str
    place: Callable[[str, int], tuple[str, str]]  # an image's path and its mask's, less suffixes
    meanings: list[Meaning] = FREE
    finish: Callable[[Path, list[Pair], np.random.Generator], dict] = lambda *_: {}
    by_stem: bool = True  # files are paired by their stems
    splits: tuple[str, ...] = ("train", "val", "test")
    damages: tuple[str, ...] = ()  # those that other layouts have not, to masks alone
    stored: bool = False  # masks are as the photos are stored, and the config says so


LONG = {"train": "training", "val": "validation", "test": "testing"}
FRAMES = {"train": "0001TP_0066{:02}", "val": "0016E5_080{:02}", "test": "Seq05VD_f000{:02}"}


def write_lists(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    form = rng.choice(
        ["{} {}", "{}\t{}", "{}, {}", "{};{}", "{}|{}", '"{}" "{}"',
         "/SegNet/{0} /SegNet/{1}", "{r}/{} {r}/{}"]
    )  # fmt: skip
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    for split in {pair.split for pair in pairs}:
        rows = [p for p in pairs if p.split == split]
        both = [(p.image.relative_to(root), p.mask.relative_to(root)) for p in rows]
        form = str(form).replace("{r}/{} {r}/{}", f"{root}/{{}} {root}/{{}}")
        lines = "".join(form.format(*row) + "\n" for row in both)
        (root / f"{split}.txt").write_text(lines, encoding)
    return {}


def write_split_column(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """Write one table of all pairs, the split of each in a column."""
    separator, encoding = rng.choice([",", ";", "\t"]), str(rng.choice(["utf-8", "utf-16"]))
    rows = [(p.split, p.image.relative_to(root), p.mask.relative_to(root)) for p in pairs]
    lines = [("split", "picture", "truth"), *rows]
    text = "".join(separator.join(map(str, line)) + "\r\n" for line in lines)
    (root / "data.csv").write_text(text, encoding)
    return {}


def write_choice(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """Write lists of names as splits, of folders that the config names."""
    splits = {}
    for split in {pair.split for pair in pairs}:
        names = [pair.name for pair in pairs if pair.split == split]
        (root / f"{split}.lst").write_text("\n".join(names))
        splits[split] = {"images": "photos", "masks": "ids", "list": f"{split}.lst"}
    return {"splits": splits}


def write_voc(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    folder = root / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    for split in {pair.split for pair in pairs}:
        names = [pair.name for pair in pairs if pair.split == split]
        (folder / f"{split}.txt").write_text("\n".join(names))
    return {}


def write_label_ids(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """Write labelIds beside labelTrainIds, as Cityscapes has them."""
    of_train_id = {0: 7, 1: 8, 13: 26, 18: 33, VOID: 0}
    for pair in pairs:
        values = np.vectorize(of_train_id.get)(pair.ids).astype(np.uint8)
        file = Path(str(pair.mask).replace("labelTrainIds", "labelIds"))
        file.write_bytes(encode(values, "L", "PNG", {}))
    return {}


def write_coco(root: Path, pairs: list[Pair], rng: np.random.Generator, shape: Callable) -> dict:
    for split in {pair.split for pair in pairs}:
        rows = [pair for pair in pairs if pair.split == split]
        listed, regions = [], []
        for number, pair in enumerate(rows):
            file = str(pair.image.relative_to(root / "images"))
            height, width = pair.ids.shape
            pair.also = f"instances_{split}.json (image {number})"
            if pair.rules["mask"] == "bad" and pair.damage == "size":
                height += 1
            listed.append({"id": number, "file_name": file, "height": height, "width": width})
            for category in sorted(set(pair.values.ravel().tolist()) - {0}):
                drawn = shape(pair.values == category, rng)
                if pair.rules["mask"] == "bad" and pair.damage == "cut":
                    drawn = cut_region(drawn)
                if pair.rules["mask"] == "bad" and pair.damage == "box":
                    drawn = []
                region = {"image_id": number, "category_id": category, "segmentation": drawn}
                regions.append(region)
        categories = [{"id": key, "name": f"thing {key}"} for key in COCO[0].ids if key != 0]
        content = {"images": listed, "annotations": regions, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return {}


def polygons(region: np.ndarray, rng: np.random.Generator) -> list[list[float]]:
    """A rectangle for each run of pixels of a row."""
    found = []
    for y, row in enumerate(region):
        edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
        for left, right in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            found.append([left, y, right, y, right, y + 1, left, y + 1])
    return found


def runs(region: np.ndarray, rng: np.random.Generator) -> dict:
    """Run lengths down the columns, as numbers or as COCO's text."""
    if rng.random() < 0.5:
        packed = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": list(region.shape), "counts": packed["counts"].decode()}
    flat = region.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return {
        "size": list(region.shape),
        "counts": np.diff([0, *edges, flat.size]).tolist(),
    }


def cut_region(drawn: list | dict) -> list | dict:
    if isinstance(drawn, dict):
        return drawn | {"counts": drawn["counts"][:-1]}
    return [drawn[0][:-1], *drawn[1:]]  # half a point


def write_polygons(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    return write_coco(root, pairs, rng, polygons)


def write_runs(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    return write_coco(root, pairs, rng, runs)


def write_run_table(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """Write a table for each split: image, class, "start length start length ..." from 1."""
    rows = bool(rng.random() < 0.5)
    for split in {pair.split for pair in pairs}:
        lines = ["ImageId,EncodedPixels,ClassId"]
        for pair in [pair for pair in pairs if pair.split == split]:
            spoilt = pair.damage if pair.rules["mask"] == "bad" else ""
            for category in sorted(set(pair.values.ravel().tolist()) - {0}):
                region = pair.values == category
                flat = np.pad((region if rows else region.T).ravel().astype(int), 1)
                edges = np.flatnonzero(np.diff(flat)).reshape(-1, 2)
                numbers = [n for start, end in edges.tolist() for n in (start + 1, end - start)]
                numbers = numbers[:-1] if spoilt == "cut" else numbers
                numbers += [region.size + 1, 1] * (spoilt == "size")
                lines.append(f"{pair.image.name},{' '.join(map(str, numbers))},{category}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return {"rle_order": "rows" if rows else "columns"}


def write_class_files(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """Write a binary mask for each class: masks/car/x.png, or masks/x_car.png."""
    place = str(rng.choice(["{}/{}", "{1}_{0}"]))
    for pair in pairs:
        spoilt = pair.damage if pair.rules["mask"] == "bad" else ""
        for class_id, name in ((1, "car"), (2, "road"))[: 0 if spoilt == "box" else 2]:
            inside = (pair.values == class_id) * 255
            if class_id == 2 and spoilt == "size":
                inside = inside[:-1]
            elif class_id == 2 and spoilt == "value":
                inside[0, :3] = 0, 100, 255
            file = root / pair.split / "masks" / (place.format(name, pair.image.stem) + ".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            content = encode(inside.astype(np.uint8), "L", "PNG", {})
            file.write_bytes(content[:-20] if class_id == 2 and spoilt == "cut" else content)
    return {}


def write_labelmap(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """Write the classes as CVAT does."""
    rows = [f"{name}:{','.join(map(str, rgb))}::" for name, rgb in TABLE_COLOURS.items()]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *rows]))
    return {}


def write_class_dict(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    rows = [f"{name},{','.join(map(str, rgb))}" for name, rgb in TABLE_COLOURS.items()]
    (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]))
    return {}


NAMES = {key: f"thing {key}" for key in COCO[0].ids if key != 0}


def write_yolo(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """A text file for each image, of lines of a class and fractions of the upright image."""
    classes = {key: i for i, key in enumerate(NAMES)}
    (root / "data.yaml").write_text(json.dumps({"names": list(NAMES.values())}))
    for pair in pairs:
        if pair.damage == "size":
            pair.damage, pair.rules["mask"] = "", "right"
        height, width = pair.ids.shape
        lines = []
        for category in sorted(set(pair.values.ravel().tolist()) - {0}):
            for polygon in polygons(pair.values == category, rng):
                numbers = [n / (height if i % 2 else width) for i, n in enumerate(polygon)]
                if pair.damage in ("cut", "box") and pair.rules["mask"] == "bad":
                    numbers = numbers[: 7 if pair.damage == "cut" else 4]
                lines.append(" ".join(map(str, (classes.get(category, category), *numbers))))
        write_beside(pair, "images", "labels", ".txt", "\n".join(lines))
    return {}


def write_labelme(root: Path, pairs: list[Pair], rng: np.random.Generator) -> dict:
    """A JSON for each image, beside it, and the list of labels."""
    (root / "labels.txt").write_text("\n".join(["__ignore__", "_background_", *NAMES.values()]))
    for pair in pairs:
        spoilt = pair.damage if pair.rules["mask"] == "bad" else ""
        shapes = []
        for category in sorted(set(pair.values.ravel().tolist()) - {0}):
            for polygon in polygons(pair.values == category, rng):
                points = [polygon[i : i + 2] for i in range(0, len(polygon), 2)]
                points[-1] = points[-1][: 1 if spoilt == "cut" else 2]
                kind = "cuboid" if spoilt == "box" else "polygon"
                label = NAMES.get(category, "another")
                shapes.append({"label": label, "points": points, "shape_type": kind})
        height, width = pair.ids.shape
        content = {"shapes": shapes, "imageHeight": height + (spoilt == "size"),
                   "imageWidth": width, "imagePath": pair.image.name}  # fmt: skip
        write_beside(pair, "", "", ".json", json.dumps(content))
    return {}


def write_beside(pair: Pair, images: str, labels: str, suffix: str, text: str) -> None:
    file = Path(str(pair.image.with_suffix(suffix)).replace(f"/{images}/", f"/{labels}/", 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def city(kind: str) -> Callable[[str, int], tuple[str, str]]:
    def place(split: str, n: int) -> tuple[str, str]:
        name = f"{split}/aachen/aachen_{n:06}_000019"
        return f"leftImg8bit/{name}_leftImg8bit", f"gtFine/{name}_gtFine_{kind}"

    return place


def place_ade(split: str, n: int) -> tuple[str, str]:
    name = f"{LONG[split]}/ADE_{split}_{n:08}"
    return f"images/{name}", f"annotations/{name}"


TWO = ("train", "val")
LAYOUTS = {
    "pairs, images/train": Layout(
        "pairs",
        lambda s, n: (f"images/{s}/p{n:02}", f"masks/{s}/p{n:02}"),
        damages=("stored",),
    ),
    "pairs, training/imgs": Layout(
        "pairs", lambda s, n: (f"{LONG[s]}/imgs/p{n:02}", f"{LONG[s]}/labels/p{n:02}")
    ),
    "pairs, trainannot": Layout("pairs", lambda s, n: (f"{s}/p{n:02}", f"{s}annot/p{n:02}")),
    "pairs, no splits": Layout(
        "pairs", lambda s, n: (f"img/p{n:02}", f"mask/p{n:02}"), splits=("train",)
    ),
    "pairs, data.splits": Layout(
        "pairs", lambda s, n: (f"photos/p{n:02}", f"ids/p{n:02}"), finish=write_choice
    ),
    "pairs, img_dir": Layout(
        "pairs",
        lambda s, n: (
            f"img_dir/{s}/p{n:02}_leftImg8bit",
            f"ann_dir/{s}/p{n:02}_gtFine_labelTrainIds",
        ),
    ),
    "pairs, endings": Layout(
        "pairs", lambda s, n: (f"{s}_images/p{n:02}", f"{s}_masks/p{n:02}_mask")
    ),
    "pairs, beside": Layout("pairs", lambda s, n: (f"{s}/p{n:02}", f"{s}/p{n:02}_mask")),
    "pairs, cities": Layout(
        "pairs", lambda s, n: (f"rgb/{s}/city{n % 2}/p{n:02}", f"gt/{s}/city{n % 2}/p{n:02}")
    ),
    "pairs, capitals": Layout(
        "pairs", lambda s, n: (f"Images/{s.title()}/P{n:02}", f"MASKS/{s}/p{n:02}")
    ),
    "pairs, Unicode": Layout(
        "pairs", lambda s, n: (f"images/{s}/\u00e9{n:02}", f"masks/{s}/e\u0301{n:02}")
    ),
    "pairs, too high": Layout(
        "pairs", lambda s, n: (f"set/images/{s}/p{n:02}", f"set/masks/{s}/p{n:02}")
    ),
    "pairs, a mask a class": Layout(
        "pairs", lambda s, n: (f"{s}/images/p{n:02}", ""), CLASS_FILES, write_class_files
    ),
    "pairs, labelmap.txt": Layout(
        "pairs", lambda s, n: (f"images/{s}/p{n:02}", f"masks/{s}/p{n:02}"), TABLES, write_labelmap
    ),
    "pairs, class_dict.csv": Layout(
        "pairs", lambda s, n: (f"{s}/p{n:02}", f"{s}_labels/p{n:02}_L"), TABLES, write_class_dict
    ),
    "pairs, indexed": Layout(
        "pairs",
        lambda s, n: (f"images/{s}/p{n:02}", f"masks/{s}/p{n:02}"),
        INDEXED,
        damages=("palette",),
    ),
    "pairs, binary": Layout(
        "pairs",
        lambda s, n: (f"images/{s}/p{n:02}", f"masks/{s}/p{n:02}"),
        BINARY,
        damages=("convention",),
    ),
    "pairs, stored": Layout(
        "pairs",
        lambda s, n: (f"images/{s}/p{n:02}", f"masks/{s}/p{n:02}"),
        finish=lambda *_: {"exif": False},
        stored=True,
    ),
    "lists, split column": Layout(
        "lists", lambda s, n: (f"rgb/p{n:02}", f"ids/p{n:02}"), FREE, write_split_column, False
    ),
    "rle": Layout("rle", lambda s, n: (f"{s}/p{n:02}", ""), COCO, write_run_table, False, TWO),
    "lists": Layout(
        "lists", lambda s, n: (f"rgb/p{n:02}", f"ids/p{n:02}"), finish=write_lists, by_stem=False
    ),
    "voc": Layout(
        "voc",
        lambda s, n: (f"JPEGImages/2007_0000{n:02}", f"SegmentationClass/2007_0000{n:02}"),
        VOC,
        write_voc,
    ),
    "cityscapes, ids": Layout("cityscapes", city("labelIds"), CITY),
    "cityscapes, train ids": Layout(
        "cityscapes", city("labelTrainIds"), CITY_TRAIN, write_label_ids
    ),
    "ade20k": Layout("ade20k", place_ade, ADE, splits=TWO),
    "camvid": Layout(
        "camvid",
        lambda s, n: (f"{s}/{FRAMES[s].format(n)}", f"{s}annot/{FRAMES[s].format(n)}"),
        CAMVID,
    ),
    "camvid-rgb, folders": Layout(
        "camvid-rgb",
        lambda s, n: (f"{s}/{FRAMES[s].format(n)}", f"{s}_labels/{FRAMES[s].format(n)}_L"),
        CAMVID_RGB,
    ),
    "camvid-rgb, one folder": Layout(
        "camvid-rgb",
        lambda s, n: (
            f"701_StillsRaw_full/{FRAMES[s].format(n)}",
            f"LabeledApproved_full/{FRAMES[s].format(n)}_L",
        ),
        CAMVID_RGB,
    ),
    "coco, polygons": Layout(
        "coco", lambda s, n: (f"images/{s}2017/p{n:02}", ""), COCO, write_polygons, False
    ),
    "polygons, yolo": Layout(
        "polygons", lambda s, n: (f"images/{s}/p{n:02}", ""), COCO, write_yolo
    ),
    "polygons, labelme": Layout("polygons", lambda s, n: (f"{s}/p{n:02}", ""), COCO, write_labelme),
    "coco, runs": Layout("coco", lambda s, n: (f"images/p{n:02}", ""), COCO, write_runs, False),
}


def scene(height: int, width: int, exact: bool, rng: np.random.Generator) -> np.ndarray:
    """(H,W,3): noise, or what survives lossy compression and shows how it is turned."""
    if exact:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = rng.permutation([30, 90, 150, 210]).reshape(2, 2)
    down, right = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    top, bottom = (row[0] + (row[1] - row[0]) * right for row in corners)
    plane = top + (bottom - top) * down + rng.integers(-3, 4, (height, width))
    return np.stack([plane + 9, plane, plane - 9], 2).astype(np.uint8)


def image_file(
    kind: str, view: str, size: tuple[int, int], orientation: int, rng: np.random.Generator
) -> tuple[bytes, np.ndarray, bool]:
    """(content, pixels to be read, whether exactly)."""
    _, format, options, _, exact = IMAGES[kind]
    rgb = scene(*size, exact, rng)
    mode, holds, reads = VIEWS[view]
    orientation = orientation if format in TURNABLE else 1
    content = encode(holds(rgb), mode, format, options, orientation, COLOURS.tobytes())
    return content, reads(rgb), exact


DTYPES = {"I;16": np.uint16, "int64": np.int64, "int32": np.int32, "int16": np.int16,
          "float64": np.float64, "bool": np.bool_}  # fmt: skip


def mask_file(
    values: np.ndarray, format: str, options: dict, mode: str, orientation: int = 1
) -> bytes:
    dtype = DTYPES.get(mode, np.uint8)
    if format == "TIFFFILE" and dtype in (np.int16, np.int32):
        values = np.where(values == (VOID if dtype == np.int16 else 65535), -9999, values)
    stored = values.astype(dtype)
    if mode == "1":
        stored *= 255
    if mode == "bands":
        stored = stored.transpose(2, 0, 1)
    if mode in ("LA", "RGBA"):
        stored = np.dstack([stored, np.full(values.shape[:2], 77, np.uint8)])
    orientation = orientation if format in TURNABLE else 1
    return encode(stored, mode, format, options, orientation, COLOURS.tobytes())


def draw_values(
    meaning: Meaning, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(mask values or colours, class ids); every value occurs."""
    known = list(meaning.ids)
    picks = rng.integers(0, len(known), size)
    picks.ravel()[rng.permutation(picks.size)[: len(known)]] = range(len(known))
    return np.array(known)[picks], np.array(list(meaning.ids.values()))[picks]


class Case(NamedTuple):
    """One data set; all that is random comes of the seed."""

    layout: str
    counts: tuple[int, int, int]  # pairs of train, val, test
    damages: int
    seed: int


class Written(NamedTuple):
    data: DataConfig
    pairs: list[Pair]
    loose: list[str]  # damaged lists and JSON, after which all is forgiven but a traceback


def write(case: Case, root: Path) -> Written:
    layout = LAYOUTS[case.layout]
    rng = np.random.default_rng([case.seed, list(LAYOUTS).index(case.layout)])
    meaning = layout.meanings[rng.integers(len(layout.meanings))]
    counted = zip(("train", "val", "test"), case.counts, strict=True)
    splits = [split for split, count in counted for _ in range(count)]
    splits = [split for split in splits if split in layout.splits]
    pairs = [write_pair(layout, meaning, n, split, root, rng) for n, split in enumerate(splits)]
    names = [*DAMAGES, *layout.damages * 7]
    damages = [
        (pairs[n], str(rng.choice(names)), str(rng.choice(["image", "mask"])))
        for n in rng.permutation(len(pairs))[: case.damages]
    ]
    damages = [(p, name, "mask" if name in MASK_DAMAGES else side) for p, name, side in damages]
    loose = []
    for pair, damage, side in damages:
        if damage == "leak":
            leak(layout, meaning, pair, pairs, root, rng)
        elif pair.mask is None and side == "mask":
            spoil_region(layout, pair, damage)
    config = layout.finish(root, pairs, rng)
    for pair, damage, side in damages:
        if damage == "index":
            loose += spoil_index(root, rng)
        elif layout.finish in (write_yolo, write_run_table) and (damage, side) == ("size", "image"):
            pair.damage = ""  # fractions and runs fit images of other sizes
        elif damage != "leak" and (pair.mask or side == "image"):
            spoil(layout, meaning, pair, damage, side, rng)
    # of a published data set with a few of its classes, the format must be confirmed
    confirmed = layout.format in ("voc", "cityscapes", "ade20k", "camvid")
    named = {"format": layout.format} if rng.random() < 0.5 or confirmed else {}
    data = DataConfig(path=str(root), **config, **named, **meaning.config)
    return Written(data, pairs, loose)


def write_pair(
    layout: Layout,
    meaning: Meaning,
    n: int,
    split: str,
    root: Path,
    rng: np.random.Generator,
) -> Pair:
    kind = str(rng.choice(list(IMAGES)))
    suffix, format, _, views, _ = IMAGES[kind]
    orientation = int(rng.integers(1, 9))
    height, width = rng.integers(4, 13, 2).tolist()
    content, pixels, exact = image_file(kind, rng.choice(views), (height, width), orientation, rng)
    if layout.stored:
        pixels = turn(pixels, orientation if format in TURNABLE else 1)
        orientation = 1
    values, ids = draw_values(meaning, pixels.shape[:2], rng)
    image, mask = layout.place(split, n)
    paths = root / (image + suffix), None
    if mask:
        kinds = list(meaning.kinds.values())  # PNG, the first, is most of them
        mask_suffix, *how = kinds[max(0, rng.integers(-4, len(kinds)))]
        paths = paths[0], root / (mask + mask_suffix)
        paths[1].parent.mkdir(parents=True, exist_ok=True)
        turned = orientation if rng.random() < 0.5 else 1
        paths[1].write_bytes(mask_file(values, *how, turned))
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_bytes(content)
    name = Path(image).name.removesuffix("_leftImg8bit")
    return Pair(split, name, *paths, pixels, exact, values, ids)


# ---- damage


def spoil_region(layout: Layout, pair: Pair, damage: str) -> None:
    """Choose what a COCO JSON has instead of a damaged mask file."""
    pair.damage = {
        "value": "value", "size": "size", "delete": "box", "truncate": "cut", "flip": "cut",
    }.get(damage, "")  # fmt: skip
    if layout.finish is write_run_table and pair.damage in ("value", "box"):
        pair.damage = ""  # another class, no region
    if pair.damage == "value" and layout.finish is not write_class_files:
        pair.values[0, 0] = COCO[0].unknown
    if pair.damage and (pair.values > 0).any():
        pair.rules["mask"] = "bad"
    else:
        pair.damage = ""


def spoil_index(root: Path, rng: np.random.Generator) -> list[str]:
    """Cut or flip a list or a JSON; return its name, or nothing if there is none."""
    files = [f for end in ("txt", "lst", "json", "csv") for f in sorted(root.rglob(f"*.{end}"))]
    if not files:
        return []
    file = files[rng.integers(len(files))]
    content = file.read_bytes()
    file.write_bytes(cut(content, rng) if rng.random() < 0.5 else flip(content, rng))
    return [file.name]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(0, max(1, len(content)))]


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    spoilt = bytearray(content)
    for place in rng.integers(0, 8 * len(content), rng.integers(1, 4)).tolist():
        spoilt[place // 8] ^= 1 << place % 8
    return bytes(spoilt)


def leak(
    layout: Layout,
    meaning: Meaning,
    pair: Pair,
    pairs: list[Pair],
    root: Path,
    rng: np.random.Generator,
) -> None:
    """Put the same image into another split, too: the file, or its pixels as a PNG."""
    others = [split for split in layout.splits if split != pair.split] or ["train"]
    copy = write_pair(layout, meaning, len(pairs) + 50, rng.choice(others), root, rng)
    if copy.mask:
        suffix, *how = meaning.kinds["png"]
        copy.mask.unlink()
        copy.mask = copy.mask.with_suffix(suffix)
    copy.image.unlink()
    copy.pixels, copy.exact = pair.pixels, pair.exact
    copy.values, copy.ids = draw_values(meaning, pair.ids.shape, rng)
    if copy.mask:
        copy.mask.write_bytes(mask_file(copy.values, *how))
    if pair.exact and rng.random() < 0.5:
        copy.image = copy.image.with_suffix(".png")
        copy.image.write_bytes(encode(pair.pixels, "RGB", "PNG", {}))
    else:
        copy.image = copy.image.with_suffix(pair.image.suffix)
        copy.image.write_bytes(pair.image.read_bytes())
    pair.twin, copy.twin = copy, pair
    pair.damage = copy.damage = "leak"
    pairs.append(copy)


def spoil(
    layout: Layout, meaning: Meaning, pair: Pair, damage: str, side: str, rng: np.random.Generator
) -> None:
    """Damage one file of a pair, and set the rule of its side."""
    file = pair.image if side == "image" else pair.mask
    content = file.read_bytes()
    pair.damage, pair.rules[side] = damage, "bad"
    match damage:
        case "truncate":
            file.write_bytes(cut(content, rng))
            pair.rules[side] = "right"
        case "flip":
            file.write_bytes(flip(content, rng))
            pair.rules[side] = "right" if content.startswith(CHECKED) else "shape"
        case "text":
            file.write_text("<html>404 not found</html>")
        case "empty":
            file.write_bytes(b"")
        case "delete":
            file.unlink()
        case "folder":
            file.unlink()
            file.mkdir()
        case "double":
            again = file.with_suffix(".bmp" if file.suffix == ".png" else ".png")
            if file.suffix == ".png":
                again.write_bytes(content)
            elif side == "mask":
                rewrite_mask(meaning, again, pair.values)
            else:
                again.write_bytes(image_file("png", "rgb", pair.ids.shape, 1, rng)[0])
            pair.rules[side] = "bad" if layout.by_stem else "right"
        case "size":
            resize(meaning, pair, file, side, rng)
        case "mode":
            another_mode(layout, meaning, pair, file, side, rng)
        case "jpeg":
            file.unlink()
            pair.mask = file.with_suffix(".jpg")
            Image.fromarray(pair.values.astype(np.uint8)).save(pair.mask, quality=95)
        case "photo":
            grey = scene(*pair.ids.shape, False, rng)[..., 1]
            file.write_bytes(encode(grey, "L", "PNG", {}))
        case "palette":
            # the same picture, its indices and their colours in another order
            shift = int(rng.integers(1, 3))
            colours = np.roll(COLOURS[:3], shift, 0).tobytes()
            how = next(how for how in meaning.kinds.values() if how[0] == file.suffix)
            moved = ((pair.values + shift) % 3).astype(np.uint8)
            file.write_bytes(encode(moved, "P", how[1], how[2], 1, colours))
            pair.rules[side] = "clash"
        case "convention":
            how = next(how for how in BINARY_MASKS.values() if how[0] == file.suffix)
            file.write_bytes(mask_file(pair.values * 255, *how[1:3], "L"))
            pair.rules[side] = "clash"
        case "stored":
            stored_photo(meaning, pair, rng)
        case "value" if side == "mask":
            values = pair.values.copy()
            values.reshape(-1, *values.shape[2:])[rng.integers(pair.ids.size)] = meaning.unknown
            rewrite_mask(meaning, file, values)
        case "value":  # has no meaning for images
            pair.damage, pair.rules[side] = "", "right"


def stored_photo(meaning: Meaning, pair: Pair, rng: np.random.Generator) -> None:
    """Write a photo that EXIF turns by 90 degrees, and a mask as the photo is stored."""
    height, width = 9, int(rng.choice([5, 7, 12]))
    orientation = int(rng.integers(5, 9))
    content, pair.pixels, pair.exact = image_file("jpeg", "rgb", (height, width), orientation, rng)
    pair.image.write_bytes(content)
    values, pair.ids = draw_values(meaning, (width, height), rng)
    rewrite_mask(meaning, pair.mask, values)


def rewrite_mask(meaning: Meaning, file: Path, values: np.ndarray) -> None:
    """Write other values to a mask, in the first kind that has its suffix."""
    how = next(how for how in meaning.kinds.values() if how[0] == file.suffix)
    file.write_bytes(mask_file(values, *how[1:]))


def resize(meaning: Meaning, pair: Pair, file: Path, side: str, rng: np.random.Generator) -> None:
    height, width = pair.ids.shape
    size = (height + rng.integers(1, 4), width) if rng.random() < 0.5 else (width, height)
    size = (height, width - 1) if size == (height, width) else size
    if side == "mask":
        rewrite_mask(meaning, file, draw_values(meaning, size, rng)[0])
    else:
        kind = next(kind for kind, row in IMAGES.items() if row[0] == file.suffix)
        file.write_bytes(image_file(kind, IMAGES[kind][3][0], size, 1, rng)[0])


def another_mode(
    layout: Layout, meaning: Meaning, pair: Pair, file: Path, side: str, rng: np.random.Generator
) -> None:
    """Write what the suffix does not say: another format, or a mode that is no mask's."""
    pair.rules[side] = "right"
    if side == "image":
        kind = rng.choice(list(IMAGES))
        orientation = 1 if layout.stored else int(rng.integers(1, 9))
        content, pair.pixels, pair.exact = image_file(
            kind, rng.choice(IMAGES[kind][3]), pair.ids.shape, orientation, rng
        )
        file.write_bytes(content)
        return
    coloured = meaning.kinds is COLOUR_MASKS
    grey_only = ["another", "F", "RGB", "noise"]
    mode = rng.choice(["CMYK", "JPEG", "LAB", *([] if coloured else grey_only)])
    height, width = pair.ids.shape
    values = pair.values.astype(np.uint8)
    save = lambda image, kind: image.save(file, kind)  # noqa: E731
    if mode == "another":
        how = list(meaning.kinds.values())[rng.integers(len(meaning.kinds))]
        file.write_bytes(mask_file(pair.values, *how[1:]))
    elif mode == "F":
        save(Image.fromarray(pair.values.astype(np.float32)), "TIFF")
    elif mode == "RGB":
        save(Image.fromarray(repeat(values)), "PNG")
    else:
        noise = rng.integers(3, 250, (height, width, 3), dtype=np.uint8)
        pair.rules[side] = "bad"
        image = Image.fromarray(noise)
        if mode == "JPEG":
            save(image if coloured else Image.fromarray(values), "JPEG")
        elif mode == "CMYK":
            save(image.convert("CMYK"), "TIFF")
        elif mode == "LAB":
            save(image.convert("LAB"), "TIFF")
        else:
            save(image, "PNG")


# ---- what comes of it


def judge(case: Case, root: Path) -> str:
    """Write a case and survey it; return the outcome, or raise AssertionError."""
    data, pairs, loose = write(case, root)
    damaged = [pair for pair in pairs if pair.damage]
    layout = LAYOUTS[case.layout]

    def is_just(text: str) -> bool:
        regions = [
            file.format(pair.split)
            for pair in damaged
            for file in ("instances_{}.json", "{}.csv")
            if not pair.mask
        ]
        return (
            any(pair.is_named(text) for pair in damaged)
            or any(file in text for file in regions)
            or any(file in text for file in loose)
            or any(pair.damage in ("delete", "folder") for pair in damaged)
            and "train left out: no masks" in text
        )

    def is_choice(text: str) -> bool:
        """Where little is left, folders or endings may mean several things, all of them named."""
        return layout.format == "pairs" and bool(damaged) and "data.splits: {" in text

    try:
        found = inspect_data_set(data, full=True)
    except SegtrainError as error:
        assert is_just(str(error)) or is_choice(str(error)), f"names no damaged file: {error}"
        OUTCOMES.update(f"{pair.damage}: error" for pair in damaged)
        return "error"
    errors = [finding for finding in found.findings if finding.error]
    for finding in errors:
        line = says(finding)
        unclear = finding.kind == "classes" and any(p.rules["mask"] != "right" for p in damaged)
        assert loose or unclear or is_just(line), f"false alarm: {line}"
    if loose:
        OUTCOMES["index: taken"] += 1
        return "finding" if errors else "right"
    clashing = [pair for pair in pairs if "clash" in pair.rules.values()]
    if clashing and any(not pair.damage for pair in pairs):
        assert errors, f"{[pair.name for pair in clashing]} contradict the others in silence"
    if clashing:
        OUTCOMES.update(f"{pair.damage}: {'finding' if errors else 'right'}" for pair in clashing)
        return "finding" if errors else "right"
    for pair in pairs:
        outcome = follow(case, found, pair, errors)
        if pair.damage:
            OUTCOMES[f"{pair.damage}: {outcome}"] += 1
    return "finding" if errors else "right"


def says(finding: Any) -> str:
    return "; ".join([finding.text, *finding.places, finding.remedy, str(finding.fix)])


def attempt(read: Callable, source: Any) -> np.ndarray | None:
    try:
        return read(source)
    except SegtrainError as error:
        files = getattr(source, "files", (getattr(source, "file", source),))
        assert any(Path(file).name in str(error) for file in files), error
        return None


def taken(found: Inspection) -> dict[str, list]:
    """The pairs that could be read, of the splits that were read."""
    return {split: [fact.sample for fact in facts] for split, facts in found.facts.items()}


TOGETHER = ("exif", "palette", "convention", "instances", "smooth", "lossy")


def follow(case: Case, found: Inspection, pair: Pair, errors: list) -> str:
    """Return the outcome of a pair; raise AssertionError if its rules are broken silently."""
    # what may be meant by all masks names several of them, as two that contradict each other
    own = [finding for finding in errors if pair.damage or finding.kind not in TOGETHER]
    named = any(pair.is_named(says(finding)) for finding in own)
    root = found.source.root
    label = f"{pair.name} ({pair.damage or 'good'}; {pair.rules})"
    splits = {s: [sample.image for sample in samples] for s, samples in taken(found).items()}
    split = next((s for s, paths in splits.items() if pair.image in paths), None)
    if split is None:
        assert pair.damage, f"{label} is not taken: {errors}"
        lone = [f.text for f in found.findings if f.kind == "alone"]
        assert (
            named
            or f"{pair.split} left out: no" in found.source.layout
            or any(str(file.parent.relative_to(root)) in " ".join(lone) for file in pair.files)
        ), label
        return "finding"
    sample = taken(found)[split][splits[split].index(pair.image)]
    read = attempt(found.source.images, sample.image)
    known = isinstance(found, Survey)
    labels = attempt(found.data_set.masks, sample.mask) if known else None
    if pair.damage and named:
        return "finding"
    assert not named, f"{label} is named: {errors}"
    if not known:
        assert errors, label
        return "finding"
    rules = pair.rules | ({} if sample.mask == pair.mask or not pair.mask else {"mask": "right"})
    assert "bad" not in rules.values(), f"{label} is not reported: {errors}"
    assert read is not None and labels is not None, f"{label} can't be read, and no error says so"
    drawn = LAYOUTS[case.layout].finish in (write_yolo, write_run_table)
    if drawn and rules["image"] == "shape":
        return "shape"  # regions are drawn to any size
    assert read.dtype == np.uint8 and read.shape == pair.pixels.shape, label
    assert labels.shape == pair.ids.shape, label
    if rules["image"] == "right" and pair.exact:
        assert (read == pair.pixels).all(), f"{label}: wrong pixels"
    elif rules["image"] == "right":
        difference = np.abs(read.astype(int) - pair.pixels).mean()
        assert difference < LOSSY_ERROR, f"{label}: wrong pixels, by {difference}"
    if rules["mask"] == "right":
        assert (labels == pair.ids).all(), f"{label}: wrong labels"
        place = splits[split].index(pair.image)
        counts = np.bincount(pair.ids[pair.ids != VOID], minlength=len(found.data_set.classes))
        assert (found.by_image[split][place] == counts).all(), f"{label}: wrong counts"
    if not case.layout.endswith("no splits") and not pair.damage:
        held_out = "held out" in found.source.layout
        assert split == pair.split or held_out and pair.split == "train", label
    if pair.twin:
        twin = next(s for s, paths in splits.items() if pair.twin.image in paths)
        assert twin == split, f"{label} is in {split} and {twin}"
    same = all(rule == "right" for rule in rules.values())
    return "right" if same else "shape"


def through_the_command(case: Case, root: Path) -> None:
    """Assert that check, by its command line, and what fit runs first agree with the survey."""
    data, pairs, loose = write(case, root)
    file, fixed = root.with_suffix(".yaml"), root.with_suffix(".fixed.yaml")
    content = data.model_dump(mode="json", exclude_defaults=True, exclude={"label_map"})
    content |= {"label_map": data.label_map}
    file.write_text(yaml.safe_dump({"data": content}))
    try:
        errors = [
            finding for finding in inspect_data_set(data, full=True).findings if finding.error
        ]
    except SegtrainError as error:
        answer = run_cli("check", "--config", file)
        assert answer.code == error.exit_code and str(error).splitlines()[0][:80] in answer.error
        return
    answer = run_cli("check", "--config", file, "--json")
    assert (answer.code, answer.stderr) == (bool(errors), "")
    assert json.loads(answer.stdout)["errors"] == len(errors)
    answer = run_cli("check", "--config", file, "--write-config", fixed)  # of what is kept
    assert answer.code == bool(errors) and "error" in answer.stdout
    good = Counter(pair.split for pair in pairs if not pair.damage)
    enough = not loose and good["train"] > 1 and all(good[pair.split] for pair in pairs)
    if enough and all(finding.fix for finding in errors):  # it works as it is
        answer = run_cli("check", "--config", fixed)
        assert answer.code == 0, (answer.stdout, answer.stderr, fixed.read_text())
    try:
        survey_data_set(data)
    except SegtrainError:
        assert errors
    else:
        kinds = {finding.kind for finding in errors if not case.counts[2]}  # it reads no test split
        assert kinds <= {"unreadable", "leak"}, errors  # of pixels, which it leaves to the loader


DAMAGES = (
    "truncate", "truncate", "flip", "flip", "size", "mode", "mode", "delete", "double", "leak",
    "value", "text", "empty", "folder", "index", "jpeg", "photo",
)  # fmt: skip
MASK_DAMAGES = ("jpeg", "photo", "palette", "convention", "stored")


def cases(layout: str) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        layout=st.just(layout),
        counts=st.tuples(st.integers(2, 4), st.integers(0, 2), st.integers(0, 1)),
        damages=st.integers(0, 3),
        seed=st.integers(0, 2**24 - 1),
    )


def tried(run: Callable[[Case, Path], Any], case: Case) -> Any:
    """Run a case in a folder of its own, which has the cache of facts, too."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGTRAIN_CACHE", f"{folder}/cache")
        root = Path(folder).resolve() / "set"
        root.mkdir()
        return run(case, root)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_right_pixels_or_a_named_file(layout: str):
    @settings(
        max_examples=CASES // len(LAYOUTS) + 1 if CASES else 7,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(cases(layout))
    def ends_well(case: Case) -> None:
        outcome = tried(judge, case)
        OUTCOMES[f"{layout}: {outcome}"] += 1
        if case.seed % 4 == 0:
            tried(through_the_command, case)

    started = time.perf_counter()
    ends_well()
    OUTCOMES[f"{layout}: seconds"] += round(time.perf_counter() - started)


def lenient(self: masks.MaskReader, values: np.ndarray, nodata: float | None = None) -> np.ndarray:
    """Class ids, an unknown value taken for the next known one."""
    return self.labels[np.searchsorted(self.known, values).clip(max=len(self.known) - 1)]


def flip_under_checksum(content: bytes, rng: np.random.Generator) -> bytes:
    """A PNG whose last pixel has changed and whose checksum has not."""
    if not content.startswith(CHECKED):
        return content
    start = content.index(b"IDAT") + 4
    end = start + int.from_bytes(content[start - 8 : start - 4])
    rows = bytearray(zlib.decompress(content[start:end]))
    rows[-1] ^= 1
    packed = zlib.compress(rows)
    return content[: start - 8] + len(packed).to_bytes(4) + b"IDAT" + packed + content[end:]


# what is done to the files, what is wrong with the product
BROKEN = {
    "checksums are not compared": ("flip", decoding, "refuse_damaged_png", lambda content: None),
    "unknown values become a class": ("value", masks.MaskReader, "ids", lenient),
    "no image is found twice": ("leak", Checks, "duplicates", lambda self, facts: []),
    "what can't be read goes unsaid": ("text", Checks, "unreadable", lambda self, facts: []),
    "photos stay as they lie": (
        "size",
        decoding,
        "ImageOps",
        SimpleNamespace(exif_transpose=lambda image, in_place: None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_deliberate_fault_in_the_product_is_detected(fault: str, monkeypatch: pytest.MonkeyPatch):
    damage, *broken = BROKEN[fault]
    monkeypatch.setattr(sys.modules[__name__], "DAMAGES", (damage,))
    monkeypatch.setattr(sys.modules[__name__], "flip", flip_under_checksum)
    monkeypatch.setattr(*broken)
    for seed in range(50):
        try:
            tried(judge, Case("camvid", (3, 1, 0), 4, seed))
        except AssertionError:
            return
    pytest.fail(f"{fault}: not seen in 50 cases")


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    if CASES:
        print(json.dumps(dict(sorted(OUTCOMES.items())), indent=1))
