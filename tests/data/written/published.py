"""Folders as published data sets come, filled with the six scenes, and their meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from written.scenes import (
    COLOURS,
    COUNT,
    HEIGHT,
    NAMES,
    TRAIN,
    WIDTH,
    Written,
    binary,
    bordered,
    coloured,
    indexed,
    path_at,
    photo,
    regions,
    save,
    save_masks,
    save_photos,
    truth,
    write_text,
)

ClassIds = Callable[[int], np.ndarray]


def black_and_white(index: int) -> np.ndarray:
    return binary(index) * 255


@dataclass(frozen=True)
class Pairs:
    """A published set that is two patterns of names, {i} the image and {s} the split."""

    images: str
    masks: str
    stored: ClassIds = truth
    meaning: Written = Written("")

    def __call__(self, root: Path) -> Written:
        save_photos(root, self.images)
        save_masks(root, self.masks, self.stored)
        return self.meaning


BINARY = Written("", binary, answer="255: 1")
SPLIT = Written("", splits=True)
SPLIT_BINARY = Written("", binary, splits=True, answer="255: 1")
UNNAMED_COLOURS = Written("", any_order=True)
SPLIT_IGNORED = Written("", bordered, splits=True)
PAIRS = {
    "massachusetts": Pairs(
        "tiff/{s}/x{i}_15.tiff", "tiff/{s}_labels/x{i}_15.tif", black_and_white, SPLIT_BINARY
    ),
    "isic": Pairs(
        "ISIC2018_Task1-2_Training_Input/ISIC_x{i}.jpg",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_x{i}_segmentation.png",
        black_and_white,
        BINARY,
    ),
    "cvc_clinic": Pairs("Original/x{i}.tif", "Ground Truth/x{i}.tif", black_and_white, BINARY),
    "inria": Pairs(
        "AerialImageDataset/train/images/x{i}.tif",
        "AerialImageDataset/train/gt/x{i}.tif",
        black_and_white,
        BINARY,
    ),
    "brain_mri": Pairs(
        "kaggle_3m/TCGA_{i}/TCGA_x{i}_1.tif",
        "kaggle_3m/TCGA_{i}/TCGA_x{i}_1_mask.tif",
        black_and_white,
        BINARY,
    ),
    "clothing": Pairs("png_images/IMAGES/img_x{i}.png", "png_masks/MASKS/seg_x{i}.png"),
    "flood_net": Pairs("{s}/{s}-org-img/x{i}.jpg", "{s}/{s}-label-img/x{i}_lab.png", meaning=SPLIT),
    "coco_stuff": Pairs(
        "images/{s}2017/x{i}.jpg", "stuffthingmaps/{s}2017/x{i}.png", bordered, SPLIT_IGNORED
    ),
    "potsdam": Pairs(
        "2_Ortho_RGB/top_potsdam_x{i}_RGB.tif",
        "5_Labels_all/top_potsdam_x{i}_label.tif",
        coloured,
        UNNAMED_COLOURS,
    ),
    "suim": Pairs(
        "train_val/images/x{i}.jpg", "train_val/masks/x{i}.bmp", coloured, UNNAMED_COLOURS
    ),
    "uavid": Pairs(
        "train/seq{i}/Images/x{i}.png",
        "train/seq{i}/Labels/x{i}.png",
        coloured,
        UNNAMED_COLOURS,
    ),
    "cracks": Pairs("train_img/x{i}.jpg", "train_lab/x{i}.png", black_and_white, BINARY),
    "land_cover_tiles": Pairs("output/x{i}_0.jpg", "output/x{i}_0_m.png"),
}


def carvana(root: Path) -> Written:
    """GIF masks, and tables that are not pairs beside the folders."""
    save_photos(root, "train/x{i}_01.jpg")
    save_masks(root, "train_masks/x{i}_01_mask.gif", black_and_white)
    rows = (f"x{i}_01.jpg,{run_lengths(binary(i).ravel())}" for i in range(COUNT))
    write_text(root, "train_masks.csv", ["img,rle_mask", *rows])
    write_text(root, "metadata.csv", ["id,year,make", *(f"x{i},2013,Acura" for i in range(COUNT))])
    return BINARY


def run_lengths(pixels: np.ndarray) -> str:
    """Kaggle's run lengths: start, counted from 1, and length of each run."""
    changes = np.flatnonzero(np.diff(np.concatenate(([0], pixels, [0]))))
    starts, ends = changes[::2], changes[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


def airbus(root: Path) -> Written:
    """A row for each ship, down the columns; an image without one has an empty row."""
    save_photos(root, "train_v2/x{i}.jpg")
    rows = []
    for i in range(COUNT):
        for label in (1, 2, 3) if i != 2 else ():
            pixels = (truth(i) == label).ravel(order="F")
            rows += [f"x{i}.jpg,{run_lengths(pixels)}"] if pixels.any() else []
        rows += ["x2.jpg,"] if i == 2 else []
    write_text(root, "train_ship_segmentations_v2.csv", ["ImageId,EncodedPixels", *rows])
    return Written("", lambda i: binary(i) * np.uint8(i != 2))


def severstal(root: Path) -> Written:
    """A row for each image and class; images without a defect have no row."""
    save_photos(root, "train_images/x{i}.jpg")
    rows = [
        f"x{i}.jpg,{label},{run_lengths((truth(i) == label).ravel(order='F'))}"
        for i in range(COUNT)
        for label in (1, 2, 3)
        if (truth(i) == label).any()
    ]
    write_text(root, "train.csv", ["ImageId,ClassId,EncodedPixels", *rows])
    return Written("")


def pets(root: Path) -> Written:
    """Trimaps 1..3, lists of numbers, and the hidden files of a Mac's archive."""
    save_photos(root, "images/x{i}.jpg")
    save_masks(root, "annotations/trimaps/x{i}.png", lambda i: np.maximum(truth(i), 1))
    for i in range(COUNT):
        path_at(root, f"annotations/trimaps/._x{i}.png").write_bytes(b"\0\5\x16\7")
        path_at(root, f"annotations/xmls/x{i}.xml").write_text("<annotation/>")
    rows = [f"x{i} 1 1 1" for i in range(COUNT)]
    write_text(root, "annotations/trainval.txt", rows)
    write_text(root, "annotations/list.txt", ["#Image CLASS-ID SPECIES BREED ID", *rows])
    return Written("", lambda i: np.maximum(truth(i), 1) - 1, answer="1: 0")


def kvasir(root: Path) -> Written:
    """Masks of 0 and 255 saved as JPEG."""
    save_photos(root, "Kvasir-SEG/images/x{i}.jpg")
    save_masks(root, "Kvasir-SEG/masks/x{i}.jpg", black_and_white, quality=95)
    path_at(root, "Kvasir-SEG/kavsir_bboxes.json").write_text("{}")
    return BINARY


def drive(root: Path) -> Written:
    """Vessels in 1st_manual; mask is the camera's field of view, and no truth."""
    save_photos(root, "DRIVE/training/images/x{i}_training.tif")
    save_masks(root, "DRIVE/training/1st_manual/x{i}_manual1.gif", black_and_white)
    save_masks(root, "DRIVE/training/mask/x{i}_training_mask.gif", field_of_view)
    save_photos(root, "DRIVE/test/images/y{i}_test.tif")
    for i in range(COUNT):
        save(field_of_view(i), root, f"DRIVE/test/mask/y{i}_test_mask.gif")
    return Written("", binary, answer="1st_manual")


def field_of_view(index: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:-1, 2 : -2 - index % 2] = 255
    return mask


def celeb_a_mask(root: Path) -> Written:
    """A file for each part of a face, numbers with leading zeros, three faces a folder."""
    save_photos(root, "CelebA-HQ-img/x{i}.jpg")
    for i in range(COUNT):
        for label, name in enumerate(NAMES[1:], 1):
            if (part := truth(i) == label).any():
                mask = indexed(part, np.array([(0, 0, 0), (255, 255, 255)], np.uint8))
                save(mask, root, f"CelebAMask-HQ-mask-anno/{i // 3}/x{i:05}_{name}.png")
    return Written(NAMES)


def one_side_padded(root: Path) -> Written:
    """Numbers with leading zeros in one folder only."""
    save_photos(root, "photos/x{i}.jpg")
    save_masks(root, "masks/mask-{i:02}.png")
    return Written("")


def chase(root: Path) -> Written:
    """Two people's drawings of each photo, all in one folder."""
    save_photos(root, "Image_x{i}L.jpg")
    save_masks(root, "Image_x{i}L_1stHO.png", black_and_white)
    save_masks(root, "Image_x{i}L_2ndHO.png", lambda i: np.roll(black_and_white(i), 1, 1))
    return Written("", binary, answer="1stHO")


def nuclei(root: Path) -> Written:
    """Data Science Bowl 2018: a folder for each image, a binary mask for each nucleus."""
    save_photos(root, "stage1_train/x{i}/images/x{i}.png")
    for i in range(COUNT):
        for region in regions(i):
            nucleus = ((truth(i) == region.label) * 255).astype(np.uint8)
            save(nucleus, root, f"stage1_train/x{i}/masks/{i}{region.label}f3a.png")
    return Written("", binary, refused="masks of one image")


def deep_globe(root: Path) -> Written:
    """Photo and coloured mask side by side; a table of classes, one of files."""
    save_photos(root, "train/x{i}_sat.jpg")
    save_masks(root, "train/x{i}_mask.png", coloured)
    save_photos(root, "valid/y{i}_sat.jpg")
    write_class_table(root, "class_dict.csv", "name,r,g,b", ",")
    rows = [f"x{i},train,train/x{i}_sat.jpg,train/x{i}_mask.png" for i in range(COUNT)]
    rows += [f"y{i},valid,valid/y{i}_sat.jpg," for i in range(COUNT)]
    write_text(root, "metadata.csv", ["image_id,split,sat_image_path,mask_path", *rows])
    return Written(NAMES)


def love_da(root: Path) -> Written:
    """Two scenes below each split; 0 is no data, but no file says so."""
    for i in range(COUNT):
        split, scene = "Train" if i in TRAIN else "Val", ("Urban", "Rural")[i % 2]
        save(photo(i), root, f"{split}/{scene}/images_png/x{i}.png")
        save(truth(i), root, f"{split}/{scene}/masks_png/x{i}.png")
    return SPLIT


def mapillary(root: Path) -> Written:
    """Version folders between split and labels; instances and panoptic beside the labels."""
    for i in range(COUNT):
        split = "training" if i in TRAIN else "validation"
        save(photo(i), root, f"{split}/images/x{i}.jpg", quality=97)
        save(indexed(truth(i)), root, f"{split}/v2.0/labels/x{i}.png")
        save(truth(i).astype(np.uint16) * 256, root, f"{split}/v2.0/instances/x{i}.png")
        save(coloured(i), root, f"{split}/v2.0/panoptic/x{i}.png")
    save_photos(root, "testing/images/y{i}.jpg")
    return Written("", splits=True, answer="labels")


def bdd100k(root: Path) -> Written:
    """The same masks as ids and as pictures."""
    save_photos(root, "images/10k/{s}/x{i}.jpg")
    save_masks(root, "labels/sem_seg/masks/{s}/x{i}.png", bordered)
    save_masks(root, "labels/sem_seg/colormaps/{s}/x{i}.png", coloured)
    return Written("", bordered, splits=True, answer="sem_seg/masks")


def land_cover(root: Path) -> Written:
    """Lists that name tiles which a script is yet to cut."""
    save_photos(root, "images/x{i}.tif")
    save_masks(root, "masks/x{i}.tif")
    for split, numbers in (("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8))):
        write_text(root, f"{split}.txt", (f"x{i}_{n}" for i in range(COUNT) for n in numbers))
    return Written("", refused=r"train\.txt")


def write_class_table(root: Path, name: str, header: str, separator: str) -> None:
    rows: Iterable[Any] = zip(NAMES, COLOURS, strict=True)
    lines = (separator.join(map(str, (label, *colour))) for label, colour in rows)
    write_text(root, name, [header, *lines])


def semantic_drone(root: Path) -> Written:
    """Ids and colours of the same masks, a table with spaces after its commas."""
    save_photos(root, "original_images/x{i}.jpg")
    save_masks(root, "label_images_semantic/x{i}.png")
    save_masks(root, "RGB_color_image_masks/x{i}.png", coloured)
    write_class_table(root, "class_dict_seg.csv", "name, r, g, b", ", ")
    return Written(NAMES, answer="label_images_semantic")


def dubai(root: Path) -> Written:
    """One name in each tile's folder."""
    tile = "Semantic segmentation dataset/Tile x{i}"
    save_photos(root, f"{tile}/images/image_part_001.jpg")
    save_masks(root, f"{tile}/masks/image_part_001.png", coloured)
    return UNNAMED_COLOURS


def membrane_stack(root: Path) -> Written:
    """All sections in one file of many pages."""
    for name, layer in (("train-volume", photo), ("train-labels", black_and_white)):
        pages = [Image.fromarray(layer(i)).convert("L") for i in range(COUNT)]
        pages[0].save(path_at(root, f"{name}.tif"), save_all=True, append_images=pages[1:])
    return Written("", refused=r"pages|2 \.tif")


SETS = {
    **PAIRS,
    **{
        writer.__name__: writer
        for writer in (
            carvana,
            airbus,
            severstal,
            pets,
            kvasir,
            drive,
            celeb_a_mask,
            one_side_padded,
            chase,
            nuclei,
            deep_globe,
            love_da,
            mapillary,
            bdd100k,
            land_cover,
            semantic_drone,
            dubai,
            membrane_stack,
        )
    },
}
