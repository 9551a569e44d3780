"""Polygons and run lengths as annotation tools export them; each writer returns their meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle
from written.scenes import (
    COUNT,
    HEIGHT,
    LABELME_NAMES,
    NAMES,
    ROBOFLOW_NAME,
    TRAIN,
    VAL,
    WIDTH,
    Region,
    Written,
    regions,
    save_photos,
    save_roboflow_photos,
    write_json,
    write_text,
)


def coco_json(
    shape: Callable[[Region], Any],
    images: Iterable[int] = range(COUNT),
    file_name: str = "x{i}.jpg",
    first_id: int = 1,
    categories: list[dict] | None = None,
    **fields: Any,
) -> dict:
    """The content of a COCO JSON; `shape` returns the segmentation of a region."""
    entries: list[dict] = []
    for i in images:
        for region in regions(i):
            entry = {"image_id": i + 1, "category_id": region.label - 1 + first_id}
            entry |= {"id": len(entries) + 1, "bbox": region.box, "iscrowd": 0} | fields
            area = region.width * region.height
            entries.append(entry | {"segmentation": shape(region), "area": area})
    known = [{"id": first_id + n, "name": name} for n, name in enumerate(NAMES[1:])]
    sizes = {"width": WIDTH, "height": HEIGHT}
    return {
        "images": [{"id": i + 1, "file_name": file_name.format(i=i), **sizes} for i in images],
        "annotations": entries,
        "categories": categories or known,
    }


def region_pixels(region: Region) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[region.top : region.bottom, region.left : region.right] = 1
    return mask


def uncompressed_runs(region: Region) -> dict:
    """Run lengths down the columns as a list."""
    flat = np.concatenate(([0], region_pixels(region).ravel(order="F"), [2]))
    changes = np.flatnonzero(np.diff(flat))
    return {"counts": np.diff(changes, prepend=0).tolist(), "size": [HEIGHT, WIDTH]}


def compressed_runs(region: Region) -> dict:
    """Run lengths as pycocotools writes them, the counts as text for JSON."""
    runs = rle.encode(np.asfortranarray(region_pixels(region)))
    return {"size": [int(n) for n in runs["size"]], "counts": runs["counts"].decode("ascii")}


def cvat_coco(root: Path) -> Written:
    """Polygons in the subset `default`."""
    save_photos(root, "images/default/x{i}.jpg")
    write_json(root, "annotations/instances_default.json", coco_json(lambda r: [r.outline]))
    return Written(NAMES)


def cvat_coco_brush(root: Path) -> Written:
    """Brush strokes become crowds: run lengths, iscrowd 1."""
    save_photos(root, "images/default/x{i}.jpg")
    content = coco_json(uncompressed_runs, iscrowd=1)
    write_json(root, "annotations/instances_default.json", content)
    return Written(NAMES)


def pycocotools_runs(root: Path) -> Written:
    save_photos(root, "images/x{i}.jpg")
    for split, images in (("train", TRAIN), ("val", VAL)):
        content = coco_json(compressed_runs, images)
        write_json(root, f"annotations/instances_{split}.json", content)
    return Written(NAMES, splits=True)


def roboflow_coco(root: Path) -> Written:
    """An empty category 0, named as the project, above all others."""
    categories = [{"id": 0, "name": "street", "supercategory": "none"}]
    categories += [
        {"id": n, "name": name, "supercategory": "street"} for n, name in enumerate(NAMES[1:], 1)
    ]
    for split, images in (("train", TRAIN), ("valid", VAL)):
        content = coco_json(lambda r: [r.outline], images, ROBOFLOW_NAME, categories=categories)
        write_json(root, f"{split}/_annotations.coco.json", content)
    save_roboflow_photos(root, "")
    return Written(NAMES, splits=True)


def yolo_line(label: int, corners: Iterable[tuple[float, float]], digits: int = 6) -> str:
    numbers = (f"{n:.{digits}f}" for x, y in corners for n in (x / WIDTH, y / HEIGHT))
    return f"{label} " + " ".join(numbers)


def roboflow_yolo(root: Path) -> Written:
    save_roboflow_photos(root, "images/")
    for i in range(COUNT):
        split = "train" if i in TRAIN else "valid"
        name = ROBOFLOW_NAME.format(i=i).removesuffix(".jpg")
        lines = (yolo_line(r.label - 1, r.corners) for r in regions(i))
        write_text(root, f"{split}/labels/{name}.txt", lines)
    lines = ["train: ../train/images", "val: ../valid/images", "test: ../test/images", ""]
    write_text(root, "data.yaml", [*lines, "nc: 3", "names: ['road', 'car', 'tree']"])
    return Written(NAMES, splits=True)


def inner_corners(region: Region) -> list[tuple[int, int]]:
    """Corners as OpenCV finds contours: through the outermost pixels."""
    right, bottom = region.right - 1, region.bottom - 1
    return [
        (region.left, region.top),
        (region.left, bottom),
        (right, bottom),
        (right, region.top),
    ]


def supervision_yolo(root: Path) -> Written:
    """as_yolo: contours with five digits, names as a block list."""
    save_photos(root, "images/x{i}.jpg")
    for i in range(COUNT):
        lines = (yolo_line(r.label - 1, inner_corners(r), 5) for r in regions(i))
        write_text(root, f"labels/x{i}.txt", lines)
    write_text(root, "data.yaml", ["names:", "- road", "- car", "- tree", "nc: 3"])
    return Written(NAMES, loose=True)


def supervision_coco(root: Path) -> Written:
    """as_coco: one flat list a region, category ids from 0, the JSON beside the folder."""
    save_photos(root, "images/x{i}.jpg")
    flat = coco_json(lambda r: [n for corner in inner_corners(r) for n in corner], first_id=0)
    write_json(root, "annotations.json", {"info": {}, "licenses": []} | flat)
    return Written(NAMES, loose=True)


def label_studio_coco(root: Path) -> Written:
    save_photos(root, "images/0a1b-x{i}.jpg")
    content = coco_json(lambda r: [r.outline], file_name="images/0a1b-x{i}.jpg", first_id=0)
    write_json(root, "result.json", content)
    return Written(NAMES)


def label_studio_yolo(root: Path) -> Written:
    save_photos(root, "images/0a1b-x{i}.jpg")
    for i in range(COUNT):
        lines = (yolo_line(r.label - 1, r.corners, 16) for r in regions(i))
        write_text(root, f"labels/0a1b-x{i}.txt", lines)
    write_text(root, "classes.txt", NAMES[1:])
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES[1:])]
    write_json(root, "notes.json", {"categories": categories, "info": {"version": "1.0"}})
    return Written(NAMES)


def makesense_coco(root: Path) -> Written:
    save_photos(root, "x{i}.jpg")
    content = coco_json(lambda r: [r.outline])
    write_json(root, "labels_my-project-name_2024-03-01-10-20-30.json", content)
    return Written(NAMES)


def labelme_json(root: Path) -> Written:
    """Photos and labelme's own JSON side by side; a rectangle has two points."""
    save_photos(root, "x{i}.jpg")
    for i in range(COUNT):
        shapes = []
        for region in regions(i):
            kind = "rectangle" if region.label == 2 else "polygon"
            points = region.corners[:: 2 if kind == "rectangle" else 1]
            shape = {"label": NAMES[region.label], "points": [list(map(float, p)) for p in points]}
            shapes.append(shape | {"group_id": None, "shape_type": kind, "flags": {}})
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"x{i}.jpg"}
        size = {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        write_json(root, f"x{i}.json", content | size)
    return Written(NAMES)


def labelme_coco(root: Path) -> Written:
    """labelme2coco.py: `_background_` is category 0, of no region; paths begin with the folder."""
    save_photos(root, "JPEGImages/x{i}.jpg")
    categories = [
        {"id": n, "name": name, "supercategory": None} for n, name in enumerate(LABELME_NAMES)
    ]
    content = coco_json(lambda r: [r.outline], file_name="JPEGImages/x{i}.jpg")
    write_json(root, "annotations.json", content | {"categories": categories})
    return Written(NAMES)


POLYGON_TOOLS = (
    cvat_coco,
    cvat_coco_brush,
    pycocotools_runs,
    roboflow_coco,
    roboflow_yolo,
    supervision_yolo,
    supervision_coco,
    label_studio_coco,
    label_studio_yolo,
    makesense_coco,
    labelme_json,
    labelme_coco,
)
