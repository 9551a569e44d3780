"""The config: one section for each thing that a batch meets, in that order.

This file is the manual: every field carries its meaning, unit and default, and the tables in
docs/config.md are generated from it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from segtrain.atomic import write_text
from segtrain.errors import UsageError, did_you_mean


def _height_width(value: Any) -> Any:
    """'256x192' or 256 as (height, width); anything else goes on to pydantic."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if isinstance(value, str):
        return tuple(value.lower().split("x")) if "x" in value.lower() else (value, value)
    return value


Pixels = Annotated[int, Field(ge=1)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_height_width)]
Colour = tuple[
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
    Annotated[int, Field(ge=0, le=255)],
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Split(Section):
    """Where one split's pairs lie; paths are relative to data.path."""

    images: str | None = Field(None, description="folder of images")
    masks: str | None = Field(None, description="folder of masks, matched to images by stem")
    list: str | None = Field(
        None,
        description="text file: an image's name a line (a choice among the folders' pairs), "
        "or an image's and a mask's path",
    )


class Data(Section):
    path: str | None = Field(
        None,
        description="folder of the data set, or demo; default: data/ where it holds one, else demo",
    )
    splits: dict[str, Split] = Field(
        {}, description="splits by name (train, val, ...); default: found by the layout"
    )
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the training pairs held out where there is no val"
    )
    split_seed: int = Field(0, description="seed of that choice")
    classes: list[str] | None = Field(
        None, min_length=2, description="class names in id order; default: found in the masks"
    )
    palette: list[Colour] | None = Field(
        None, description="RGB of each mask value, to read RGB masks and to paint classes"
    )
    label_map: dict[int, int | Literal["ignore"]] = Field(
        {}, description="mask value: class id or ignore; values not named stay as they are"
    )
    lb_ignore: int = Field(
        255, gt=-32768, le=32767, description="class id of pixels that count nowhere"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="loader processes for each device; 0 loads in the training process, "
        "auto is 1 on CPU and up to 8 on a GPU",
    )

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
        return self


class Augment(Section):
    crop: Size | None = Field(
        None,
        description="height x width in pixels that training sees; default: the training images' "
        "median size, at most 512, rounded up to 32",
    )
    scale: tuple[float, float] = Field(
        (0.5, 2.0), description="an image is resized by a factor drawn from this range"
    )
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    vflip: float = Field(0.0, ge=0, le=1, description="probability of an upside-down flip")
    jitter: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="brightness, contrast and saturation change by up to this share",
    )

    @field_validator("scale")
    @classmethod
    def _low_to_high(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1]:
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
    options: dict[str, Any] = Field(
        {}, description="further arguments of the architecture, such as decoder_channels"
    )


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
        True, description="the loss is that of all devices' pixels; false: each device's own"
    )


class Optim(Section):
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay; never of norms and biases")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps that warm up linearly")
    power: float = Field(0.9, gt=0, description="power of the polynomial decay to 0")
    clip_norm: float = Field(1.0, ge=0, description="largest gradient norm; 0 clips nothing")


class Train(Section):
    epochs: int = Field(50, ge=1, description="passes over the training images")
    batch_size: int = Field(
        8, ge=1, description="images an optimiser step, over all devices together"
    )
    steps_per_epoch: int | None = Field(
        None, ge=1, description="steps that count as an epoch; default: one pass over the images"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto, cpu or cuda; auto is cuda where there is one"
    )
    devices: int = Field(1, ge=1, description="processes on each host, one a device")
    nodes: int = Field(1, ge=1, description="hosts")
    precision: Literal["auto", "32", "bf16", "fp16"] = Field(
        "auto",
        description="auto, 32, bf16 or fp16; auto is bf16 on a GPU that has it, fp16 on one that "
        "has not, 32 on CPU",
    )
    channels_last: bool = Field(True, description="memory format of images and weights")
    seed: int = Field(0, ge=0, description="seed of weights, order and augmentation")
    log_every: int = Field(10, ge=1, description="steps between readings of the loss")


class Eval(Section):
    every: int = Field(1, ge=1, description="epochs between validations; the last is always one")
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


def make_config(values: dict[str, Any], origin: str = "config") -> Config:
    """A Config from nested dicts. Raises UsageError that names every wrong key at once."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = list(dict.fromkeys(_explain(e) for e in error.errors()))
        raise UsageError(f"{origin}: {'; '.join(problems)}") from error


def load_config(
    file: Path | None = None, sets: list[str] = [], flags: dict[str, Any] = {}, base: Any = None
) -> Config:
    """The config of a command: flag over --set over file over `base` over default.

    `sets` are "key.path=value" with YAML values; `flags` maps dotted keys to values, where None
    is an option not given; `base` is a Config to start from (a checkpoint's).
    """
    values = base.model_dump(mode="json") if base else {}
    if file:
        _merge(values, _read_yaml(file))
    for entry in sets:
        key, equals, text = entry.partition("=")
        if not equals:
            raise UsageError(f"--set {entry}: write key.path=value, for example train.epochs=20")
        try:
            _put(values, key.strip(), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {entry}: the value is not YAML") from error
    for key, value in flags.items():
        if value is not None:
            _put(values, key, value)
    return make_config(values, origin=str(file) if file else "config")


def save_config(config: Config, path: Path) -> None:
    write_text(path, to_yaml(config))


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted key: (old value, new value), for all that differs."""
    flat_old, flat_new = _flat(old), _flat(new)
    return {
        key: (flat_old[key], flat_new[key]) for key in flat_old if flat_old[key] != flat_new[key]
    }


def _flat(config: Config) -> dict[str, Any]:
    sections = config.model_dump(mode="json")
    return {f"{s}.{key}": value for s, fields in sections.items() for key, value in fields.items()}


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config {file}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values or {}, dict):
        raise UsageError(
            f"--config {file}: expected sections such as 'data:', found {values!r:.40}"
        )
    return {section: fields or {} for section, fields in (values or {}).items()}


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for name in sections:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UsageError(f"{dotted}: {name} is not a section but {values!r:.40}")
    values[last] = value


def known_keys() -> list[str]:
    return [
        f"{name}.{key}"
        for name, section in Config.model_fields.items()
        for key in section.annotation.model_fields
    ]


def _explain(error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = did_you_mean(key, known_keys() + list(Config.model_fields))
        return f"unknown key {key}{near}"
    # pydantic adds the union member or tuple place that it tried: name the field itself
    field = ".".join(location[:2]) if len(location) > 2 and location[1] != "splits" else key
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}"
    return f"{field}: {error['msg'].lower()}, got {_short(error['input'])}"


def _short(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return f"{value!r:.60}"
