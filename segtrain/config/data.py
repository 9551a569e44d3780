"""The data section: the data set and how its files are read."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from segtrain.config.addresses import take_credentials
from segtrain.config.types import Colour, Pattern, Section
from segtrain.errors import did_you_mean


class SplitConfig(Section):
    """The files of one split's pairs; paths are relative to data.path."""

    images: str | None = Field(
        None,
        description="folder of images and its subfolders; * stands for any one name: '*/images'",
    )
    masks: str | None = Field(
        None, description="folder of masks, matched to images by stem, below equal subfolders"
    )
    image_start: str = Field("", description="what the names of images start with, as in image_7")
    image_end: str = Field(
        "", description="what they end with, as in 7_leftImg8bit; with extension: .jpg, _img.png"
    )
    mask_start: str = Field("", description="what the names of masks start with, as in mask_7")
    mask_end: str = Field(
        "", description="what they end with, as in 7_mask; files that don't are no masks"
    )
    list: str | None = Field(
        None,
        description="text file with one pair on each line: a name, to choose among the folders' "
        "pairs, or the paths of an image and a mask, separated by tab, comma or space",
    )
    coco: str | None = Field(
        None, description="COCO JSON instead of masks, for the images in `images`"
    )


class DataConfig(Section):
    """The data set, how its files are read, sampled and cached."""

    path: str | None = Field(
        None,
        description="folder of the data set, a list, an address (https://, s3://, gs://, hf://, "
        "zip://), or demo; default: data/ if it holds one, else demo; credentials are not stored",
    )
    format: Literal[
        "auto",
        "pairs",
        "lists",
        "voc",
        "cityscapes",
        "ade20k",
        "camvid",
        "camvid-rgb",
        "coco",
        "rle",
        "polygons",
    ] = Field("auto", description="layout of the folder; auto detects and reports it")
    splits: dict[str, SplitConfig] = Field(
        {}, description="splits by name (train, val, ...); default: those of the layout"
    )
    rle_order: Literal["auto", "columns", "rows"] = Field(
        "auto",
        description="pixels that run lengths of format rle count: down the columns or along the "
        "rows; auto: as the distances of runs show, else down the columns as Kaggle's",
    )
    val_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the training pairs held out for validation if there is no val",
    )
    split_seed: int = Field(0, description="random seed of the pairs held out")
    group_by: Pattern | None = Field(
        None,
        description="regular expression such as '^(.+)_[0-9]+' for frames of videos: images in "
        "whose names it (or its group) matches the same text are on one side of the hold-out, and "
        "are resampled together for confidence intervals; default: each image by itself",
    )
    exclude: list[str] = Field(
        [],
        description="files to leave out, with their partners: paths below data.path, or patterns "
        "such as '*/night_*'",
    )
    allow_outside: bool = Field(
        False, description="allow lists and JSON to name files outside the data set's folder"
    )
    classes: list[str] | None = Field(
        None,
        min_length=2,
        description="class names in id order; default: the layout's, else the ids in the masks",
    )
    palette: list[Colour] | None = Field(
        None, description="RGB of each mask value, to read RGB masks and to paint classes"
    )
    palette_by: Literal["index", "colour"] | None = Field(
        None,
        description="the part of indexed masks that counts: indices, or the colours of each file's "
        "own palette, looked up in `palette`; default: indices, refused where files disagree",
    )
    label_map: dict[int, int | Literal["ignore"]] = Field(
        {},
        description="mask value: class id or ignore; other values keep the layout's meaning, else "
        "they are class ids",
    )
    nodata: list[int] | None = Field(
        None,
        description="mask values that are ignored as nodata; default: negative ones, the largest "
        "of an integer type of 16 bits or more, NaN, and the value that a GeoTIFF's own tag names",
    )
    other_values: Annotated[int, Field(ge=0)] | Literal["ignore"] | None = Field(
        None,
        description="class id of, or ignore: mask values and colours that nothing else names; "
        "default: they are refused",
    )
    # masks are int16 at most, and -32768 marks unknown values in them
    lb_ignore: int = Field(
        255, gt=-32768, le=32767, description="class id of pixels ignored by loss and scores"
    )
    allow_lossy_masks: bool = Field(
        False,
        description="read JPEG masks and masks with smooth edges: unknown values become the "
        "nearest known one; needs classes",
    )
    value_range: tuple[float, float] | None = Field(
        None,
        description="image values that become 0 and 255, such as [0, 4095]; default: the whole "
        "range of an integer type, 0 to 1 for floats",
    )
    # the limit at which Pillow itself raises
    max_pixels: int = Field(
        178_956_970,
        ge=1,
        description="larger images are refused unread (decompression bombs), but for TIFFs that "
        "are read by windows: those of more than data.windowed, and in predict larger ones",
    )
    windowed: int = Field(
        16_777_216,  # 4096 x 4096
        ge=1024,
        description="TIFFs of more pixels, however many, are never decoded whole to train and "
        "evaluate: samples are areas of them, of which crops and windows are read",
    )
    exif: Literal["auto"] | bool = Field(
        "auto",
        description="turn images and masks as their EXIF orientation says; false: read both as "
        "stored; auto: turn them, unless the masks prove to be drawn on the stored pixels",
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop",
        description="for a damaged file: stop the run, or skip it (the run still stops where more "
        "than 1 % of a split's files are damaged)",
    )
    sampler: Literal["uniform", "class-balanced", "rare-crop"] = Field(
        "uniform",
        description="against class imbalance; uniform: each image once per pass; class-balanced: "
        "images drawn so that each class is equally frequent; rare-crop: a share of the crops is "
        "centred on a rare class",
    )
    rare_share: float = Field(
        0.33, gt=0, le=1, description="share of the crops that rare-crop centres on a rare class"
    )
    rare_classes: list[str] | None = Field(
        None,
        min_length=1,
        description="classes that rare-crop centres on and augment.copy_paste pastes, equally "
        "often; default: those with less than a quarter of an even share of the training pixels",
    )
    cache: Literal["none", "ram", "disk"] = Field(
        "none",
        description="keep decoded pairs in memory, or on disk below $SEGTRAIN_CACHE "
        "(~/.cache/segtrain); changed files are read again",
    )
    cache_gb: float = Field(
        16,
        gt=0,
        description="size limit of the cache in GB, other pairs are decoded each time; and that of "
        "the copies of remote data sets",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="loader processes per device; 0 loads in the training process, auto is 1 on "
        "CPU and up to 8 on a GPU",
    )

    @field_validator("path")
    @classmethod
    def _hide_credentials(cls, path: str | None) -> str | None:
        return path and take_credentials(path)

    @field_validator("value_range")
    @classmethod
    def _check_range(cls, values: tuple[float, float] | None) -> tuple[float, float] | None:
        if values and not values[0] < values[1]:
            raise ValueError
        return values

    @field_validator("label_map", mode="wrap")
    @classmethod
    def _check_values(cls, labels: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        checked = handler(labels)
        if len(checked) < len(labels):  # 1 and "1"
            raise ValueError(f"expected each mask value once, got {list(labels)!r:.60}")
        return checked

    @model_validator(mode="after")
    def _check_classes(self) -> DataConfig:
        if self.classes is None:
            return self
        count = len(self.classes)
        name, times = Counter(self.classes).most_common(1)[0]
        if times > 1:
            raise ValueError(f"classes names {name} twice")
        if "" in self.classes:
            raise ValueError(f"classes has an empty name, of class {self.classes.index('')}")
        if 0 <= self.lb_ignore < count:
            raise ValueError(
                f"lb_ignore {self.lb_ignore} is the id of class "
                f"{self.classes[self.lb_ignore]} in classes; use an id outside 0..{count - 1}"
            )
        if self.palette is not None and len(self.palette) < count:
            raise ValueError(f"palette has {len(self.palette)} colours for {count} classes")
        if self.other_values not in (None, "ignore", *range(count)):
            raise ValueError(f"other_values is {self.other_values}, classes are 0..{count - 1}")
        outside = [c for c in self.label_map.values() if c != "ignore" and not 0 <= c < count]
        if outside:
            raise ValueError(f"label_map names class {outside[0]}, but classes are 0..{count - 1}")
        if rare := [name for name in self.rare_classes or [] if name not in self.classes]:
            raise ValueError(
                f"rare_classes names {rare[0]!r}{did_you_mean(rare[0], self.classes)}; "
                f"classes are {', '.join(self.classes)}"
            )
        return self
