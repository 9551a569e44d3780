"""COCO JSON: categories, images, and the regions or panoptic segments of their masks."""

from __future__ import annotations

import ast
import json
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtrain.data.drawn import DrawnMask
from segtrain.data.panoptic import PanopticMask
from segtrain.data.regions import LARGEST_VALUE, Region, RegionMask, Shape, pack_polygons
from segtrain.errors import SegtrainError, first_line, translate_errors
from segtrain.files.whole import refuse_special

# what other JSON files are, by a key of their objects
OTHERS = {
    "caption": "its annotations are captions",
    "keypoints": "its annotations are keypoints",
    "shapes": "it is labelme's, of one image: give the folder of all, data.format: polygons",
    "imagePath": "it is labelme's, of one image: give the folder of all, data.format: polygons",
    "_via_img_metadata": "it is a project of VIA: export it as COCO",
    "regions": "it is VIA's: export the annotations as COCO",
    "score": "it is a list of detections, as models write them: give the JSON of the truth",
    "bbox": "it is a list of detections, as models write them: give the JSON of the truth",
    "items": "it is Datumaro's: export as COCO",
    "features": "it is GeoJSON",
    "data": "it is Label Studio's own: export as COCO",
}


@dataclass
class Coco:
    """The content of one JSON: categories by mask value, (file name, mask) of each image."""

    file: Path
    categories: dict[int, str] = field(default_factory=dict)
    parents: dict[int, str] = field(default_factory=dict)  # supercategories
    used: set[int] = field(default_factory=set)  # mask values with an annotation
    renumbered: bool = False  # category ids that can be no mask value
    images: list[tuple[str, DrawnMask | None]] = field(default_factory=list)
    boxes: set[str] = field(default_factory=set)  # images with an annotation without segmentation
    slivers: int = 0  # annotations whose polygons have fewer than three points: they draw nothing
    strays: int = 0  # annotations of images that are not in images

    is_labelled: bool = False  # some image has a region, a box or a fault
    is_panoptic: bool = False  # masks are PNG files; pixels without a segment are void


def read_coco(file: Path) -> Coco:
    """Read a COCO JSON. Raises SegtrainError for another JSON or one that contradicts itself.

    A wrong region or size is a fault of its image's mask, which can't be drawn then.
    """
    content = _read_lists(file)
    coco = Coco(file)
    values = _read_categories(coco, content["categories"])
    images = {_check_image(file, entry): entry for entry in content["images"]}
    if len(images) < len(content["images"]):
        raise SegtrainError(f"{file}: two images have one id")
    by_image: dict[int | str, list[dict]] = {key: [] for key in images}
    for annotation in content.pop("annotations"):
        coco.is_panoptic |= "segments_info" in annotation
        key = read_id(annotation.get("image_id"))
        if key is None or key not in images:
            coco.strays += 1
            continue
        by_image[key].append(annotation)
    for key, entry in images.items():
        mask: DrawnMask | None
        if coco.is_panoptic:
            mask = _read_panoptic(coco, by_image.pop(key), values)
        else:
            # each annotation is forgotten once it is packed: they take several times the memory
            mask = _read_regions(coco, key, entry, by_image.pop(key), values)
        coco.images.append((_file_name(entry), mask))
    masks = [mask for _, mask in coco.images if isinstance(mask, RegionMask)]
    polygons = [shape for mask in masks for _, shape in mask.regions]
    if polygons and all(isinstance(s, tuple) and max(map(max, s)) <= 1 for s in polygons):
        raise SegtrainError(
            f"{file}: all coordinates are fractions of the image; COCO has pixels: multiply x by "
            "the width and y by the height"
        )
    return coco


def _read_regions(
    coco: Coco, key: int | str, image: dict, annotations: list[dict], values: Mapping
) -> RegionMask:
    """Return the mask of an image's annotations; note in `coco` what they have."""
    size = _read_size(image)
    regions: list[Region] = []
    faults = []
    for annotation in annotations:
        category, segmentation = annotation.get("category_id"), annotation.get("segmentation")
        value = values.get(read_id(category))
        if value is None:
            faults.append(f"an annotation of category {category!r}, which has no entry")
            continue
        coco.used.add(value)
        if not segmentation:
            coco.boxes.add(_file_name(image))
            continue
        try:
            with translate_errors(lambda error: f"a wrong segmentation ({first_line(error)})"):
                shape, own = _pack_shape(segmentation, size if isinstance(size, tuple) else None)
        except SegtrainError as error:
            faults.append(str(error))
            continue
        size = size or own
        coco.slivers += not shape
        if shape:
            regions.append((value, shape))
    coco.is_labelled |= bool(regions or faults) or _file_name(image) in coco.boxes
    known = size if isinstance(size, tuple) else None
    faults += [size] if isinstance(size, str) else []
    return RegionMask(coco.file, key, known, 0, tuple(regions), faults[0] if faults else "")


def _read_panoptic(coco: Coco, annotations: list[dict], values: Mapping) -> PanopticMask | None:
    """Return the mask of an image's segments; its PNG is a name still. None without a PNG."""
    if not annotations or not isinstance(annotations[0].get("file_name"), str):
        return None
    coco.is_labelled = True
    segments: list[tuple[int, int]] = []
    fault = ""
    for entry in annotations[0].get("segments_info") or ():
        key, value = whole_number(entry.get("id")), values.get(read_id(entry.get("category_id")))
        if key is None or value is None:
            fault = f"a segment of id {entry.get('id')!r}, category {entry.get('category_id')!r}"
            continue
        coco.used.add(value)
        segments.append((key, value))
    name = Path(annotations[0]["file_name"])
    return PanopticMask(coco.file, name, segments=tuple(segments), fault=fault)


def background_value(categories: Mapping[int, str]) -> int:
    """Return the mask value of pixels without a region: 0, unless a category has that id."""
    return max(categories) + 1 if 0 in categories else 0


def whole_number(value: Any) -> int | None:
    """Return the whole number that a JSON has as 48, 48.0 (pandas) or "48"; None for others."""
    if isinstance(value, float) and value.is_integer() or isinstance(value, int):
        return None if isinstance(value, bool) else int(value)
    plain = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19
    return int(value) if plain and str(int(value)) == value else None


def read_id(value: Any) -> int | str | None:
    """Return an id: a whole number, else text; None for anything else."""
    number = whole_number(value)
    return number if number is not None else value if isinstance(value, str) else None


def _read_lists(file: Path) -> dict[str, list[dict]]:
    """Return the lists images, annotations and categories; only the first must be there."""
    with translate_errors(lambda error: f"{file}: not a JSON that can be read ({error})"):
        refuse_special(file)
        content = json.loads(file.read_bytes())
    if not isinstance(content, dict) or "images" not in content:
        raise SegtrainError(f"{file}: not a COCO JSON: {_name_content(content)}")
    lists = {name: content.get(name, []) for name in ("images", "annotations", "categories")}
    for name, part in lists.items():
        if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
            raise SegtrainError(f"{file}: not a COCO JSON: {name} is not a list of objects")
    if lists["annotations"] and not lists["categories"]:
        what = "has no" if "categories" not in content else "has an empty list of"
        kind = _name_content(lists["annotations"], "")
        raise SegtrainError(f"{file}: it {what} categories" + (f": {kind}" if kind else ""))
    return lists


def _name_content(content: Any, other: str = "it has no images") -> str:
    """Return what a JSON that isn't COCO's is, in a few words."""
    if isinstance(content, list):
        content = next((entry for entry in content if isinstance(entry, dict)), {})
    if not isinstance(content, dict):
        return other
    within = next((entry for entry in content.values() if isinstance(entry, dict)), {})
    known = (text for key, text in OTHERS.items() if key in content or key in within)
    return next(known, other)


def _read_categories(coco: Coco, entries: list[dict]) -> dict[int | str, int]:
    """Fill in the categories; return their mask values by id."""
    by_id: dict[int | str, dict] = {}
    for entry in entries:
        key, name = read_id(entry.get("id")), entry.get("name")
        if key is None or not isinstance(name, str):
            raise SegtrainError(
                f"{coco.file}: expected categories with an id and a name, got id "
                f"{entry.get('id')!r}, name {name!r}"
            )
        if key in by_id:
            raise SegtrainError(f"{coco.file}: two categories have the id {key}")
        by_id[key] = entry
    own = {key: key for key in by_id if isinstance(key, int) and 0 <= key <= LARGEST_VALUE}
    coco.renumbered = len(own) < len(by_id)
    numbers: Iterable[int] = range(1, len(by_id) + 1) if coco.renumbered else own.values()
    values = dict(zip(by_id, numbers, strict=True))
    for key, value in sorted(values.items(), key=lambda item: item[1]):
        coco.categories[value] = by_id[key]["name"]
        coco.parents[value] = str(by_id[key].get("supercategory"))
    return values


def _file_name(image: Mapping[str, Any]) -> Any:
    # LVIS has nothing but the address
    return image.get("file_name") or image.get("coco_url")


def _check_image(file: Path, image: Mapping[str, Any]) -> int | str:
    """Return the id of an entry of images."""
    key, name = read_id(image.get("id")), _file_name(image)
    if key is None or not isinstance(name, str):
        raise SegtrainError(f"{file}: an image has id {image.get('id')!r} and file_name {name!r}")
    return key


def _read_size(image: Mapping[str, Any]) -> tuple[int, int] | str | None:
    """Return (height, width), a fault, or None where the JSON has neither, as some tools write."""
    sides = image.get("height"), image.get("width")
    if all(side in (None, 0) for side in sides):
        return None
    height, width = map(whole_number, sides)
    if height is None or width is None or min(height, width) < 1:
        return f"expected its height and width, got {sides[0]!r} and {sides[1]!r}"
    return height, width


def _pack_shape(
    segmentation: Any, size: tuple[int, int] | None
) -> tuple[Shape, tuple[int, int] | None]:
    """Return a segmentation in a compact form, and the size that its run lengths have.

    The form is empty where no polygon has three points.
    """
    if not isinstance(segmentation, dict):
        return pack_polygons(segmentation), size
    counts = segmentation["counts"]
    height, width = map(whole_number, segmentation["size"])
    if height is None or width is None or size and size != (height, width):
        raise ValueError(
            f"run lengths of size {segmentation['size']}, the height first"
            + (f", of an image of {list(size)}" if size else "")
        )
    if not counts:
        raise ValueError("no counts")
    if isinstance(counts, str):
        if counts[:2] in ("b'", 'b"'):  # str() of bytes; run lengths have no quotation marks
            counts = ast.literal_eval(counts).decode("ascii")
        return counts.encode("ascii"), (height, width)
    return array("q", [n if type(n) is int else _whole_run(n) for n in counts]), (height, width)


def _whole_run(value: Any) -> int:
    if (run := whole_number(value)) is None:
        raise ValueError(f"a run of length {value!r}")
    return run
