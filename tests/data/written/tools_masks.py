"""Folders of masks as annotation tools export them; each writer returns their meaning."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from written.scenes import (
    COLOURS,
    COUNT,
    HEIGHT,
    IGNORED,
    LABELME_NAMES,
    NAMES,
    ROBOFLOW_NAME,
    TRAIN,
    VAL,
    WIDTH,
    Written,
    bordered,
    coloured,
    named,
    path_at,
    photo,
    regions,
    save,
    save_masks,
    save_photos,
    save_roboflow_photos,
    truth,
    write_json,
    write_text,
)


def cvat_segmentation_mask(root: Path) -> Written:
    """Labels in alphabetical order, so that background isn't the first; subset `default`."""
    save_photos(root, "JPEGImages/x{i}.jpg")
    save_masks(root, "SegmentationClass/x{i}.png", coloured)
    save_masks(root, "SegmentationObject/x{i}.png", instance_colours)
    write_text(root, "ImageSets/Segmentation/default.txt", (f"x{i}" for i in range(COUNT)))
    names = ("background", "asphalt", "car", "tree")
    lines = sorted(
        "{}:{},{},{}::".format(name, *colour) for name, colour in zip(names, COLOURS, strict=True)
    )
    write_text(root, "labelmap.txt", ["# label:color_rgb:parts:actions", *lines])
    return Written(names)


def instance_colours(index: int) -> np.ndarray:
    """(H,W,3): another colour for each region, as in SegmentationObject."""
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, region in enumerate(regions(index), 1):
        mask[region.top : region.bottom, region.left : region.right] = 40 * number, 0, 90
    return mask


def cvat_camvid(root: Path) -> Written:
    save_photos(root, "default/x{i}.png")
    save_masks(root, "defaultannot/x{i}.png", coloured)
    write_text(
        root, "default.txt", (f"/default/x{i}.png /defaultannot/x{i}.png" for i in range(COUNT))
    )
    write_label_colours(root)
    return Written(NAMES)


def write_label_colours(root: Path) -> None:
    rows = zip(NAMES, COLOURS, strict=True)
    write_text(root, "label_colors.txt", ("{} {} {} {}".format(*c, name) for name, c in rows))


def datumaro_kitti(root: Path) -> Written:
    for folder, mask in (
        ("semantic", truth),
        ("semantic_rgb", coloured),
        ("instance", lambda i: truth(i).astype(np.uint16) * 256),
    ):
        save_masks(root, f"{{s}}/{folder}/x{{i}}.png", mask)
    save_photos(root, "{s}/image_2/x{i}.png")
    write_label_colours(root)
    return Written(NAMES, splits=True, answer="/semantic}")


def datumaro_cityscapes(root: Path) -> Written:
    """Own labels: neither 19 nor 34 classes; photos are below imgsFine."""
    save_photos(root, "imgsFine/leftImg8bit/{s}/x{i}_leftImg8bit.png")
    for ending, mask in (
        ("color", coloured),
        ("labelIds", truth),
        ("instanceIds", lambda i: truth(i).astype(np.uint16) * 1000),
    ):
        save_masks(root, f"gtFine/{{s}}/x{{i}}_gtFine_{ending}.png", mask)
    write_label_colours(root)
    return Written(NAMES, splits=True)


def roboflow_masks(root: Path) -> Written:
    save_roboflow_photos(root, "")
    for i in range(COUNT):
        split = "train" if i in TRAIN else "valid"
        name = ROBOFLOW_NAME.format(i=i).removesuffix(".jpg")
        save(truth(i), root, f"{split}/{name}_mask.png")
    for split in ("train", "valid"):
        rows = (f"{value}, {name}" for value, name in enumerate(NAMES))
        write_text(root, f"{split}/_classes.csv", ["Pixel Value, Class", *rows])
    return Written(NAMES, splits=True)


def labelme_voc(root: Path) -> Written:
    """labelme2voc.py: no lists, folders of pictures and arrays; `__ignore__` is 255 and -1."""
    save_photos(root, "JPEGImages/x{i}.jpg")
    save_masks(root, "SegmentationClassVisualization/x{i}.jpg", coloured)
    imgviz = pytest.importorskip("imgviz")  # labelme writes its masks with it
    for i in range(COUNT):
        imgviz.io.lblsave(path_at(root, f"SegmentationClass/x{i}.png"), bordered(i))
        save_labelme_array(path_at(root, f"SegmentationClassNpy/x{i}.npy"), i)
    path_at(root, "class_names.txt").write_text("\n".join(LABELME_NAMES))
    return Written(LABELME_NAMES, bordered)


def save_labelme_array(path: Path, index: int) -> None:
    values = bordered(index).astype(np.int32)
    np.save(path, np.where(values == IGNORED, -1, values))


def labelme_voc_2018(root: Path) -> Written:
    """The older script: arrays in SegmentationClass, PNG beside them."""
    save_photos(root, "JPEGImages/x{i}.jpg")
    imgviz = pytest.importorskip("imgviz")  # labelme writes its masks with it
    for i in range(COUNT):
        imgviz.io.lblsave(path_at(root, f"SegmentationClassPNG/x{i}.png"), bordered(i))
        save_labelme_array(path_at(root, f"SegmentationClass/x{i}.npy"), i)
    path_at(root, "class_names.txt").write_text("\n".join(LABELME_NAMES))
    return Written(LABELME_NAMES, bordered)


def nnunet(root: Path) -> Written:
    """A label named ignore is nnU-Net's own word for it."""
    return _write_nnunet(root, {name: n for n, name in enumerate(NAMES)} | {"ignore": 4})


def nnunet_v1(root: Path) -> Written:
    """The first version: names by id."""
    return _write_nnunet(root, {str(n): name for n, name in enumerate(NAMES)})


def _write_nnunet(root: Path, labels: dict) -> Written:
    folder = "Dataset120_Street/"
    save_photos(root, folder + "imagesTr/x{i}_0000.png")
    save_photos(root, folder + "imagesTs/y{i}_0000.png")
    ignoring = "ignore" in labels
    stored = (lambda i: np.minimum(bordered(i), 4)) if ignoring else truth
    save_masks(root, folder + "labelsTr/x{i}.png", stored)
    channels = {"0": "R", "1": "G", "2": "B"}
    content = {"channel_names": channels, "labels": labels, "numTraining": COUNT}
    write_json(root, folder + "dataset.json", content | {"file_ending": ".png"})
    return Written(NAMES, bordered if ignoring else truth)


def rasterio_bands(root: Path) -> Written:
    """The default profile: bands one after another, deflate, a nodata tag in the masks."""
    for i in range(COUNT):
        bands = photo(i).transpose(2, 0, 1)
        options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
        image = path_at(root, f"images/x{i}.tif")
        tifffile.imwrite(image, bands, planarconfig="separate", **options)
        values = bordered(i).astype(np.int16)
        mask = np.where(values == IGNORED, -9999, values).astype(np.int16)
        nodata = (42113, "s", 6, "-9999", True)  # GDAL_NODATA
        tifffile.imwrite(path_at(root, f"masks/x{i}.tif"), mask, extratags=[nodata], **options)
    return Written("0123", bordered)


def supervisely_masks(root: Path) -> Written:
    """Export as masks: machine masks are grey RGB, human masks coloured."""
    for i in range(COUNT):
        save(photo(i), root, f"street/ds0/img/x{i}.jpg", quality=97)
        write_json(root, f"street/ds0/ann/x{i}.jpg.json", supervisely_annotation(i))
        machine = np.repeat(truth(i)[..., None], 3, 2)
        save(machine, root, f"street/ds0/masks_machine/x{i}.png")
        save(coloured(i), root, f"street/ds0/masks_human/x{i}.png")
    machine_colours = {name: [n] * 3 for n, name in enumerate(NAMES[1:], 1)}
    write_json(root, "street/obj_class_to_machine_color.json", machine_colours)
    write_json(root, "street/meta.json", supervisely_meta())
    return Written(NAMES, answer="masks_machine")


def supervisely_meta() -> dict:
    rows = list(zip(NAMES, COLOURS, strict=True))[1:]
    kinds = [
        {"title": n, "shape": "bitmap", "color": "#{:02X}{:02X}{:02X}".format(*c)} for n, c in rows
    ]
    return {"classes": kinds, "tags": [], "projectType": "images"}


def supervisely_annotation(index: int) -> dict:
    """One image's JSON: bitmaps are PNG, compressed and in base64."""
    objects = []
    for region in regions(index):
        file = io.BytesIO()
        Image.new("1", (region.width, region.height), 1).save(file, "PNG")
        data = base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
        bitmap = {"data": data, "origin": [region.left, region.top]}
        kind = {"classTitle": NAMES[region.label], "geometryType": "bitmap"}
        objects.append(kind | {"bitmap": bitmap, "tags": []})
    return {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects, "tags": []}


def supervisely_json(root: Path) -> Written:
    for i in range(COUNT):
        save(photo(i), root, f"street/ds0/img/x{i}.jpg", quality=97)
        write_json(root, f"street/ds0/ann/x{i}.jpg.json", supervisely_annotation(i))
    write_json(root, "street/meta.json", supervisely_meta())
    return Written(NAMES, refused=r"json")


def fiftyone_masks(root: Path) -> Written:
    """ImageSegmentationDirectory: data and labels."""
    save_photos(root, "data/x{i}.jpg")
    save_masks(root, "labels/x{i}.png")
    return Written("0123")


def hugging_face(root: Path) -> Written:
    """An image folder with metadata.csv in each split."""
    for split, indices in (("train", TRAIN), ("validation", VAL)):
        for i in indices:
            save(photo(i), root, f"{split}/x{i}.jpg", quality=97)
            save(truth(i), root, f"{split}/x{i}_label.png")
        rows = (f"x{i}.jpg,x{i}_label.png" for i in indices)
        write_text(root, f"{split}/metadata.csv", ["file_name,label_file_name", *rows])
    return Written("0123", splits=True)


def paddle(root: Path) -> Written:
    """PaddleSeg's lists, and PaddleX's labels.txt of class names."""
    save_photos(root, "JPEGImages/x{i}.jpg")
    save_masks(root, "Annotations/x{i}.png")
    for split, indices in (("train", TRAIN), ("val", VAL)):
        rows = (f"JPEGImages/x{i}.jpg Annotations/x{i}.png" for i in indices)
        write_text(root, f"{split}_list.txt", rows)
    write_text(root, "labels.txt", NAMES)
    return Written(NAMES, splits=True)


def fastai_camvid(root: Path) -> Written:
    """Masks x_P.png, names in codes.txt, the validation set in valid.txt."""
    save_photos(root, "images/x{i}.png")
    save_masks(root, "labels/x{i}_P.png")
    write_text(root, "codes.txt", NAMES)
    write_text(root, "valid.txt", (f"x{i}.png" for i in VAL))
    return Written(NAMES, splits=True)


def mmsegmentation(root: Path) -> Written:
    for index, name in named("img_dir/{s}/x{i}.jpg"):
        save(photo(index), root, name, quality=97)
    save_masks(root, "ann_dir/{s}/x{i}.png", bordered)
    return Written("0123", bordered, splits=True)


MASK_TOOLS = (
    cvat_segmentation_mask,
    cvat_camvid,
    datumaro_kitti,
    datumaro_cityscapes,
    roboflow_masks,
    labelme_voc,
    labelme_voc_2018,
    nnunet,
    nnunet_v1,
    rasterio_bands,
    supervisely_masks,
    supervisely_json,
    fiftyone_masks,
    hugging_face,
    paddle,
    fastai_camvid,
    mmsegmentation,
)
