"""The config: one section for each thing that a batch meets, in that order.

This file is the manual: every field carries its meaning, unit and default, and the tables in
docs/config.md are generated from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from segtrain.errors import did_you_mean
from segtrain.fieldtypes import Colour, Duration, OnOffAuto, Section, Size, StepsOrDuration


class Split(Section):
    """Where one split's pairs lie; paths are relative to data.path."""

    images: str | None = Field(None, description="folder of images")
    masks: str | None = Field(None, description="folder of masks, matched to images by stem")
    list: str | None = Field(
        None,
        description="text file: an image's name a line (a choice among the folders' pairs), "
        "or an image's and a mask's path, by tab, comma or space",
    )
    coco: str | None = Field(
        None, description="COCO JSON, in place of masks, of the images in `images`"
    )


class Data(Section):
    path: str | None = Field(
        None,
        description="folder of the data set, or demo; default: data/ where it holds one, else demo",
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
    ] = Field("auto", description="layout of the folder; auto finds it and says which it is")
    splits: dict[str, Split] = Field(
        {}, description="splits by name (train, val, ...); default: found by the layout"
    )
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the training pairs held out where there is no val"
    )
    split_seed: int = Field(0, description="seed of that choice")
    exclude: list[str] = Field(
        [],
        description="files to leave out with their partners: paths below data.path, or patterns "
        "such as '*/night_*'",
    )
    allow_outside: bool = Field(
        False, description="lists and JSON may name files outside the data set's folder"
    )
    classes: list[str] | None = Field(
        None,
        min_length=2,
        description="class names in id order; default: the layout's, or ids found in the masks",
    )
    palette: list[Colour] | None = Field(
        None, description="RGB of each mask value, to read RGB masks and to paint classes"
    )
    label_map: dict[int, int | Literal["ignore"]] = Field(
        {},
        description="mask value: class id or ignore; values not named mean what the layout says, "
        "else stay as they are",
    )
    lb_ignore: int = Field(
        255, gt=-32768, le=32767, description="class id of pixels that count nowhere"
    )
    allow_lossy_masks: bool = Field(
        False,
        description="read JPEG masks and such with smooth edges: values that mean nothing become "
        "the nearest that does; needs classes",
    )
    value_range: tuple[float, float] | None = Field(
        None,
        description="image values that become 0 and 255, such as [0, 4095]; default: all of an "
        "integer type's range, 0 to 1 for floats",
    )
    max_pixels: int = Field(
        178_956_970, ge=1, description="larger images are refused unread (decompression bombs)"
    )
    on_error: Literal["stop", "skip"] = Field(
        "stop",
        description="what a damaged file does: stop the run, or be skipped and counted (more than "
        "1 % of a split's files that a process meets stops it all the same)",
    )
    sampler: Literal["uniform", "class-balanced", "rare-crop"] = Field(
        "uniform",
        description="uniform: each image once a pass; class-balanced: images drawn so that each "
        "class comes equally often; rare-crop: a share of the crops is centred on a rare class",
    )
    rare_share: float = Field(
        0.33, gt=0, le=1, description="share of the crops that rare-crop centres"
    )
    rare_classes: list[str] | None = Field(
        None,
        min_length=1,
        description="classes that rare-crop centres on, each as often; default: those with less "
        "than a quarter of an even share of the training pixels",
    )
    cache: Literal["none", "ram", "disk"] = Field(
        "none",
        description="keep decoded pairs, in memory or below $SEGTRAIN_CACHE (~/.cache/segtrain); "
        "changed files are read anew",
    )
    cache_gb: float = Field(
        16, gt=0, description="most that the cache may take, in GB; the rest is decoded each time"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="loader processes for each device; 0 loads in the training process, "
        "auto is 1 on CPU and up to 8 on a GPU",
    )

    @field_validator("value_range")
    @classmethod
    def _range_rises(cls, values: tuple[float, float] | None) -> tuple[float, float] | None:
        if values and not values[0] < values[1]:
            raise ValueError("expected two values, the lower one first")
        return values

    @model_validator(mode="after")
    def _classes_agree(self) -> Data:
        if self.classes is None:
            return self
        count = len(self.classes)
        if twice := [name for name in self.classes if self.classes.count(name) > 1]:
            raise ValueError(f"classes names {twice[0]} twice")
        if 0 <= self.lb_ignore < count:
            raise ValueError(
                f"lb_ignore {self.lb_ignore} is the id of class "
                f"{self.classes[self.lb_ignore]}; take one outside 0..{count - 1}"
            )
        if self.palette is not None and len(self.palette) < count:
            raise ValueError(f"palette has {len(self.palette)} colours for {count} classes")
        outside = [c for c in self.label_map.values() if c != "ignore" and not 0 <= c < count]
        if outside:
            raise ValueError(f"label_map names class {outside[0]}, but classes are 0..{count - 1}")
        if rare := [name for name in self.rare_classes or [] if name not in self.classes]:
            raise ValueError(
                f"rare_classes names {rare[0]!r}{did_you_mean(rare[0], self.classes)}; "
                f"classes are {', '.join(self.classes)}"
            )
        return self


class Augment(Section):
    crop: Size | None = Field(
        None,
        description="height x width in pixels that training sees; default: the training images' "
        "median size, at most 512, rounded up to 32",
    )
    preset: Literal["none", "light", "standard", "strong"] = Field(
        "standard", description="how much training pairs are changed, where a field says no other"
    )
    scale: tuple[float, float] | None = Field(
        None,
        description="an image is resized by a factor drawn from this range; default: the preset's, "
        "[0.5, 2.0] for standard",
    )
    hflip: float | None = Field(
        None, ge=0, le=1, description="probability of a left-right flip; default: the preset's, 0.5"
    )
    vflip: float | None = Field(
        None, ge=0, le=1, description="probability of an upside-down flip; default: the preset's, 0"
    )
    jitter: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="brightness, contrast and saturation change by up to this share; default: the "
        "preset's, 0.3 for standard",
    )
    transforms: list[str | dict[str, dict[str, Any]]] | None = Field(
        None,
        description="albumentations that take the place of all but scale and crop, such as "
        "[HorizontalFlip, RandomGamma: {p: 0.3}]; default: the preset's",
    )

    @field_validator("scale")
    @classmethod
    def _low_to_high(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale and not 0 < scale[0] <= scale[1]:
            raise ValueError("expected two positive factors, the lower one first")
        return scale


class Model(Section):
    arch: str = Field("unet", description="any architecture of segmentation-models-pytorch")
    encoder: str = Field("resnet18", description="any encoder of segmentation-models-pytorch")
    weights: str = Field(
        "auto",
        description="auto, imagenet, none, or a file: a segtrain checkpoint or an encoder's state "
        "dict; auto is imagenet where it can be had within 3 seconds, else none",
    )
    in_channels: int = Field(
        3,
        ge=1,
        description="channels of an image: 3 reads RGB, 1 grey, others as the file has them",
    )
    mean: list[float] | None = Field(
        None,
        description="mean of each channel, of 0..255 values; default: that of the pretrained "
        "weights, of ImageNet for RGB, else 127.5",
    )
    std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="standard deviation likewise; default as for mean, else 63.75"
    )
    freeze_bn: bool = Field(
        False,
        description="batch norm keeps the statistics that it starts with, which small batches "
        "want; its weights and biases are trained",
    )
    options: dict[str, Any] = Field(
        {}, description="further arguments of the architecture, such as decoder_channels"
    )

    @model_validator(mode="after")
    def _channels_agree(self) -> Model:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise ValueError(f"{name} has {len(values)} values for {self.in_channels} channels")
        return self


class Loss(Section):
    expression: str = Field(
        "ohem",
        description="a loss of 'segtrain losses' such as ce, ohem(focal), or a sum such as "
        "ohem+0.5*dice",
    )
    thresh: float = Field(
        0.7,
        gt=0,
        le=1,
        description="ohem keeps pixels whose true class has a lower probability, in (0, 1]",
    )
    n_min_factor: int = Field(
        16, ge=1, description="ohem keeps at least one in so many of the valid pixels"
    )
    sync: bool = Field(
        True,
        description="the loss is that of all devices' pixels; false: each device's own, of which "
        "metrics.csv has the first's",
    )


class Optim(Section):
    name: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    encoder_lr: float = Field(
        1.0,
        ge=0,
        description="factor on the encoder's learning rate; 0 freezes it, its batch norm too",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(0.01, ge=0, description="weight decay; never of norms and biases")
    schedule: Literal["poly", "cosine", "onecycle", "constant"] = Field(
        "poly",
        description="how the learning rate falls after the warm-up: to 0, or not at all "
        "(constant); onecycle rises over 30 % of the steps in the warm-up's place",
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps that warm up linearly")
    power: float = Field(0.9, gt=0, description="power of poly's decay to 0")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 clips nothing")


class Train(Section):
    epochs: int = Field(50, ge=1, description="passes over the training images")
    batch_size: int = Field(
        8, ge=1, description="images an optimiser step, over all devices together"
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="parts that each device takes its share of a batch in, one after the other, "
        "to need less memory",
    )
    steps_per_epoch: int | None = Field(
        None, ge=1, description="steps that count as an epoch; default: one pass over the images"
    )
    monitor: str = Field(
        "miou", description="score that tells which epoch is best: miou, or iou:CLASS"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="validations without a better score after which training ends; default: never",
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of a moving average of the weights, such as 0.999, which is what is "
        "scored and saved; 0: none",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto, cpu or cuda; auto is cuda where there is one"
    )
    devices: int = Field(1, ge=1, description="processes on each host, one a device")
    nodes: int = Field(1, ge=1, description="hosts")
    timeout: Duration = Field(
        "10min", description="longest that the processes wait for one that doesn't answer"
    )
    sync_bn: bool = Field(
        True, description="batch norm is over the images of all GPUs; false: of each its own"
    )
    precision: Literal["auto", "32", "bf16", "fp16"] = Field(
        "auto",
        description="auto, 32, bf16 or fp16; auto is bf16 on a GPU that has it, fp16 on one that "
        "has not, 32 on CPU",
    )
    channels_last: bool = Field(True, description="memory format of images and weights")
    compile: OnOffAuto = Field(
        "auto",
        description="torch.compile of the network; auto is on for a GPU and a run of 2,000 steps "
        "or more",
    )
    deterministic: bool = Field(
        False, description="a repeated run on a GPU is the same to the last bit, too, and slower"
    )
    seed: int = Field(0, ge=0, description="seed of weights, order and augmentation")
    log_every: int = Field(10, ge=1, description="steps between readings of the loss")
    checkpoint_every: StepsOrDuration = Field(
        "10min",
        description="steps, or time such as 10min (looked at every log_every steps), after which a "
        "run can be resumed from there; the end of an epoch always is such a place",
    )
    keep: int = Field(
        0, ge=0, description="checkpoints kept besides the best and the last, the newest ones"
    )
    max_bad_steps: int = Field(
        20,
        ge=1,
        description="steps in a row with a loss or gradient that is not finite, which are "
        "skipped, after which the run stops",
    )
    profile: bool = Field(
        False,
        description="write profile.json, a trace of the process's steps 5 to 8, for a trace viewer",
    )


class Eval(Section):
    every: int = Field(1, ge=1, description="epochs between validations; the last is always one")
    batch_size: int = Field(
        1,
        ge=1,
        description="images of one size that are forwarded together; from 2 on, scores depend on "
        "it and on the number of devices in the last digits",
    )
    worst: int = Field(8, ge=0, description="how many of the worst images eval paints")


class Predict(Section):
    save_probs: bool = Field(
        False, description="write STEM_probs.npy, float16 (classes, height, width), too"
    )
    opacity: float = Field(0.5, ge=0, le=1, description="opacity of the colours over the image")


class Config(Section):
    """Everything that decides what a run computes."""

    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    loss: Loss = Loss()
    optim: Optim = Optim()
    train: Train = Train()
    eval: Eval = Eval()
    predict: Predict = Predict()
