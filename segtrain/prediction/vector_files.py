"""Files of polygons: GeoJSON of an image, and one COCO JSON of all images in a folder."""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segtrain.data.layouts.coco_layout import BACKGROUND
from segtrain.data.regions import draw_regions, pack_runs
from segtrain.errors import UsageError, first_line, translate_errors
from segtrain.files.locks import lock_path
from segtrain.files.whole import save_json, whole_file
from segtrain.prediction.record import SAVING_SHARE
from segtrain.prediction.vectors import Polygon

COCO_FILE = "predictions.coco.json"
WRITER = "segtrain predict"  # by which the file is known as ours
CocoImage = tuple[dict[str, Any], list[dict[str, Any]]]  # an image, and its annotations


def is_background(classes: Sequence[str], class_id: int) -> bool:
    """Return whether a class is what no polygon covers: the first, if it bears such a name."""
    return class_id == 0 and classes[0].lower() in BACKGROUND


def save_geojson(
    path: Path,
    polygons: Iterable[Polygon],
    classes: Sequence[str],
    affine: np.ndarray | None = None,
    epsg: int | None = None,
) -> None:
    """Write a FeatureCollection, polygon by polygon: an image may have very many.

    Coordinates are pixels from the top left corner, y downwards, or what `affine` (2,3) makes of
    (x, y, 1). epsg: the system of these, named as before RFC 7946 and as GDAL reads it.
    """
    system = f"urn:ogc:def:crs:EPSG::{epsg}"
    crs = {"crs": {"type": "name", "properties": {"name": system}}} if epsg else {}
    head = json.dumps({"type": "FeatureCollection", **crs, "features": []})[:-2]
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(head)
        for number, polygon in enumerate(polygons):
            rings = [polygon.outline, *polygon.holes]
            if affine is not None:
                rings = [ring @ affine[:, :2].T + affine[:, 2] for ring in rings]
            feature = {
                "type": "Feature",
                "properties": {
                    "class": classes[polygon.class_id],
                    "class_id": polygon.class_id,
                    "confidence": round(polygon.confidence, 4),
                    "pixels": polygon.pixels,
                },
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in rings],
                },
            }
            file.write(("," if number else "") + "\n" + json.dumps(feature, ensure_ascii=False))
        file.write("\n]}\n")


def annotate(polygon: Polygon, size: tuple[int, int], category: int) -> dict[str, Any]:
    """Return a polygon as an annotation of COCO's without its ids; with holes as run lengths.

    size: (height, width) of the image.
    """
    left, top = polygon.outline.min(0).tolist()
    wide, high = (polygon.outline.max(0) - (left, top)).tolist()
    shape: Any = [polygon.outline.ravel().tolist()]
    if polygon.holes:
        rings = [ring - (left, top) for ring in [polygon.outline, *polygon.holes]]
        shown = _draw(rings[:1], (high, wide)) & ~_draw(rings[1:], (high, wide))
        counts = pack_runs(_measure_runs(shown, left, top, size), size)
        shape = {"size": list(size), "counts": counts}
    return {
        "category_id": category,
        "segmentation": shape,
        "bbox": [left, top, wide, high],
        "area": polygon.pixels,
        "iscrowd": 0,
        "score": round(polygon.confidence, 4),
    }


def _draw(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    flat = tuple(array("d", ring.ravel()) for ring in rings)
    return draw_regions([(1, flat)], size, 0).astype(bool)


def _measure_runs(shown: np.ndarray, left: int, top: int, size: tuple[int, int]) -> list[int]:
    """Return the run lengths, down the columns, of a part of an image of (height, width)."""
    height, width = size
    columns = np.zeros((shown.shape[1], height), bool)
    columns[:, top : top + len(shown)] = shown.T
    ends = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * height
    runs: list[int] = np.diff([0, *ends, height * width]).tolist()
    return runs


class CocoFile:
    """predictions.coco.json: the polygons of all images in a folder, of several calls as well."""

    def __init__(self, out: Path, classes: Sequence[str]):
        """Raise UsageError where the file is another program's, or of other classes."""
        self.path = out / COCO_FILE
        first = 0 if is_background(classes, 0) else 1  # 0 is no category for most programs
        ids = range(1 - first, len(classes))
        self.categories = [{"id": i + first, "name": classes[i]} for i in ids]
        self.first = first
        self.known = self._read()  # by the name of the output: its image, its annotations
        self.own: dict[str, CocoImage] = {}
        self.next_save = 0.0

    def __contains__(self, name: str) -> bool:
        return name in self.known or name in self.own

    def add(self, name: str, file: str, size: tuple[int, int], polygons: Iterable[Polygon]) -> None:
        """Add an image's polygons; file: its path in the folder of images."""
        image = {"file_name": file, "height": size[0], "width": size[1], "output": name}
        found = [annotate(p, size, p.class_id + self.first) for p in polygons]
        self.own[name] = image, found
        if time.monotonic() > self.next_save:  # else a kill would lose all of them
            self.save()

    def save(self) -> None:
        """Write the file with what other processes wrote meanwhile. Raise SegtrainError."""
        if not self.own:
            return
        began = time.monotonic()
        with lock_path(self.path.parent, wait=True):
            entries = sorted((self._read() | self.own).items())
            numbered = enumerate((image, a) for _, (image, found) in entries for a in found)
            ids = {name: number for number, (name, _) in enumerate(entries, 1)}
            content = {
                "info": {"description": WRITER},
                "images": [{"id": ids[name], **image} for name, (image, _) in entries],
                "categories": self.categories,
                "annotations": [
                    {"id": number + 1, "image_id": ids[image["output"]], **annotation}
                    for number, (image, annotation) in numbered
                ],
            }
            save_json(self.path, content)
        now = time.monotonic()
        self.next_save = now + (now - began) / SAVING_SHARE

    def _read(self) -> dict[str, CocoImage]:
        if not os.path.isfile(self.path):
            return {}
        with translate_errors(lambda error: f"{self.path}: can't be read ({first_line(error)})"):
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["info"]["description"] != WRITER:
                raise UsageError(f"{self.path}: not written by {WRITER}; take another --out")
            if content["categories"] != self.categories:
                raise UsageError(f"{self.path}: polygons of other classes; take another --out")
            entries: dict[int, CocoImage] = {
                image.pop("id"): (image, []) for image in content["images"]
            }
            for annotation in content["annotations"]:
                del annotation["id"]
                entries[annotation.pop("image_id")][1].append(annotation)
        return {image["output"]: (image, found) for image, found in entries.values()}
