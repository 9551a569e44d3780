"""The config: one section per stage of training, in the order in which a batch passes them.

This file is the manual: every field has its meaning, unit and default, and docs/config.md is
generated from it.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from segtrain.config.data import DataConfig
from segtrain.config.train import TrainConfig
from segtrain.config.types import (
    LARGEST_OVERLAP,
    Pattern,
    Section,
    ShareOrSteps,
    Size,
    Window,
    take_choice,
)
from segtrain.losses.pixel_arguments import OhemArguments
from segtrain.losses.spec import WORD, WORDS


class AugmentConfig(Section):
    """Data augmentation of training pairs."""

    crop: Size | None = Field(
        None,
        description="height x width of the random training crops, in pixels; default: the training "
        "images' median size, at most 512, rounded up to 32",
    )
    preset: Literal["none", "light", "standard", "strong"] = Field(
        "standard", description="strength of the augmentation; the fields below override it"
    )
    scale: tuple[float, float] | None = Field(
        None,
        description="range of the random scale factor; default: the preset's, [0.5, 2.0] for "
        "standard",
    )
    hflip: float | None = Field(
        None, ge=0, le=1, description="probability of a horizontal flip; default: the preset's, 0.5"
    )
    vflip: float | None = Field(
        None, ge=0, le=1, description="probability of a vertical flip; default: the preset's, 0"
    )
    jitter: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="colour jitter: brightness, contrast and saturation change by up to this "
        "share; default: the preset's, 0.3 for standard",
    )
    transforms: list[str | dict[str, dict[str, Any]]] | None = Field(
        None,
        description="albumentations transforms instead of the preset's flips and jitter; scale and "
        "crop stay; such as [HorizontalFlip, RandomGamma: {p: 0.3}]; default: the preset's",
    )
    copy_paste: float = Field(
        0,
        ge=0,
        le=1,
        description="copy-paste against class imbalance: share of the crops into which an object "
        "of a rare class (data.rare_classes) of another training image is pasted; 0 is off",
    )

    @field_validator("scale")
    @classmethod
    def _check_order(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale and not 0 < scale[0] <= scale[1]:
            raise ValueError
        return scale


class ModelConfig(Section):
    """The network, its pretrained weights and its input."""

    arch: str = Field(
        "unet",
        description="architecture of segmentation-models-pytorch, such as unet, fpn, deeplabv3plus",
    )
    encoder: str = Field(
        "resnet18",
        description="encoder (backbone) of segmentation-models-pytorch, or tu-NAME of timm",
    )
    weights: str = Field(
        "auto",
        description="pretrained weights for fine-tuning: imagenet, none, or a file or hub folder "
        "(of segtrain, timm, torchvision or segmentation-models-pytorch); auto is imagenet if it "
        "is cached, the hub answers within 3 seconds, or segtrain-cli[weights] has it, else none",
    )
    in_channels: int = Field(
        3,
        ge=1,
        description="channels of an image: 3 reads RGB, 1 grey, any other number as in the file",
    )
    mean: list[float] | None = Field(
        None,
        description="normalisation: mean of each channel of 0..255 values; default: that of the "
        "pretrained weights, also those of a file, of ImageNet for RGB, else 127.5",
    )
    std: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="normalisation: standard deviation; default: as for mean, else 63.75"
    )
    freeze_bn: bool = Field(
        False,
        description="frozen batch norm, for small batches: its running statistics stay as they "
        "are; its weights and biases are trained",
    )
    options: dict[str, Any] = Field(
        {}, description="other arguments of the architecture, such as decoder_channels"
    )
    encoder_options: dict[str, Any] = Field(
        {},
        description="arguments of an encoder of timm (tu-NAME), such as drop_path_rate; "
        "dynamic_img_size is true where the encoder has it",
    )

    @field_validator("weights")
    @classmethod
    def _take_word(cls, weights: str, info: ValidationInfo) -> str:
        words = ["auto", "imagenet", "none"]
        return weights if os.path.exists(weights) else take_choice(weights, words, info)

    @model_validator(mode="after")
    def _check_channels(self) -> ModelConfig:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise ValueError(
                    f"{name} has {len(values)} values for {self.in_channels} channels (in_channels)"
                )
        return self


class LossConfig(Section):
    """The loss."""

    expression: str = Field(
        "ohem",
        description="a loss that 'segtrain losses' lists, such as ce or ohem(focal), or a weighted "
        "sum such as ohem+0.5*dice",
    )
    thresh: float = Field(
        OhemArguments.thresh,
        gt=0,
        le=1,
        description="hard example mining: ohem keeps pixels whose true class has a lower "
        "probability than this, in (0, 1]",
    )
    n_min_factor: int = Field(
        OhemArguments.n_min_factor,
        ge=1,
        description="ohem keeps at least one in this many valid pixels",
    )
    sync: bool = Field(
        True,
        description="compute the loss over the pixels of all devices; false: each device over its "
        "own, and metrics.csv has the first one's",
    )

    @field_validator("expression")
    @classmethod
    def _take_names(cls, expression: str, info: ValidationInfo) -> str:
        return WORD.sub(lambda word: take_choice(word[0], WORDS, info), expression)


class OptimConfig(Section):
    """Optimizer and learning rate schedule."""

    name: Literal["adamw", "sgd"] = Field("adamw", description="optimizer: adamw or sgd")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    encoder_lr: float = Field(
        1.0,
        ge=0,
        description="factor on the encoder's learning rate, for fine-tuning; 0 freezes the "
        "encoder with its batch norm",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise decay of the encoder's learning rate, such as 0.75: each layer "
        "(block) has this factor on the rate of the next one, the last one on the decoder's; 1 is "
        "off",
    )
    freeze_epochs: int = Field(
        0,
        ge=0,
        description="epochs at the start with the encoder frozen, with its batch norm",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(0.01, ge=0, description="weight decay, except of norms and biases")
    schedule: Literal["poly", "cosine", "onecycle", "constant"] = Field(
        "poly",
        description="learning rate schedule: after the warm-up, poly and cosine decay to 0, "
        "constant stays; onecycle rises over 30 % of the steps instead of a warm-up",
    )
    warmup: ShareOrSteps = Field(
        0.05, description="linear warm-up: a share of all steps below 1, or a number of steps"
    )
    power: float = Field(0.9, gt=0, description="exponent of the poly schedule")
    clip_norm: float = Field(1.0, ge=0, description="gradient clipping: largest norm; 0 is off")


class EvalConfig(Section):
    """Validation, evaluation and inference on large images."""

    every: int = Field(
        1, ge=1, description="epochs between validations; the last epoch always has one"
    )
    batch_size: int = Field(
        1,
        ge=1,
        description="images of equal size per forward pass; above 1, the last digits of scores "
        "depend on it and on the number of devices",
    )
    max_pixels: int = Field(
        4_194_304,  # 2048 x 2048
        ge=1,
        description="sliding-window inference for images with more pixels, in eval and predict",
    )
    window: Window = Field(
        (1024, 1024),
        description="sliding-window inference: height x width of a window, in pixels, at least 32",
    )
    overlap: float = Field(
        0.25,
        ge=0,
        le=LARGEST_OVERLAP,
        description="sliding-window inference: least overlap of neighbouring windows",
    )
    tta: list[Literal["hflip", "vflip"] | Annotated[float, Field(gt=0, le=4)]] = Field(
        [],
        description="test-time augmentation in eval and predict, not in fit's validation: average "
        "the probabilities over flips and scales, such as [hflip, 0.75, 1.25]",
    )
    group_by: Pattern | None = Field(
        None, description="older name of data.group_by; for an earlier run, its intervals alone"
    )
    mask_values: Literal["ids", "own"] = Field(
        "ids",
        description="values in the masks of eval --predictions: class ids, or the values and "
        "colours of the data set's own masks",
    )
    worst: int = Field(8, ge=0, description="number of worst images in the report, with overlays")
    best: int = Field(4, ge=0, description="number of best images in the report")


class PredictConfig(Section):
    """Prediction and its files."""

    tuned: bool = Field(
        True,
        description="apply the biases and the temperature that tune has stored in the checkpoint, "
        "in predict, eval and export",
    )
    save_probs: bool = Field(
        False, description="also write STEM_probs.npy: float16 (classes, height, width)"
    )
    save_confidence: bool = Field(
        False,
        description="also write STEM_confidence.png: the probability of each pixel's class, 0..255",
    )
    vectors: Literal["none", "geojson", "coco"] = Field(
        "none",
        description="also write polygons of the regions: STEM.geojson, or predictions.coco.json of "
        "all images",
    )
    simplify: float = Field(0, ge=0, description="pixels that outlines of polygons may move by")
    overlay: bool = Field(
        True, description="also write STEM_overlay.png: the class colours over the image"
    )
    opacity: float = Field(
        0.5, ge=0, le=1, description="opacity of the class colours over the image"
    )
    overviews: bool = Field(
        False, description="write overviews, at half the size down to one tile, into GeoTIFFs"
    )


class Config(Section):
    """Everything that determines the result of a run."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    predict: PredictConfig = PredictConfig()


def list_keys() -> list[str]:
    """Return the dotted keys of all fields."""
    return [
        f"{name}.{key}"
        for name, section in Config.model_fields.items()
        if section.annotation  # every field has one; pydantic's type allows None
        for key in section.annotation.model_fields
    ]
