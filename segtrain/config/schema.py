"""The config: one section for each thing that a batch meets, in that order.

This file is the manual: every field carries its meaning, unit and default, and the tables in
docs/config.md are generated from it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from segtrain.config.data import DataConfig
from segtrain.config.types import Duration, OnOffAuto, Section, Size, StepsOrDuration


class AugmentConfig(Section):
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


class ModelConfig(Section):
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
    def _channels_agree(self) -> ModelConfig:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise ValueError(f"{name} has {len(values)} values for {self.in_channels} channels")
        return self


class LossConfig(Section):
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


class OptimConfig(Section):
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


class TrainConfig(Section):
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


class EvalConfig(Section):
    every: int = Field(1, ge=1, description="epochs between validations; the last is always one")
    batch_size: int = Field(
        1,
        ge=1,
        description="images of one size that are forwarded together; from 2 on, scores depend on "
        "it and on the number of devices in the last digits",
    )
    max_pixels: int = Field(
        4_194_304,
        ge=1,
        description="larger images are read in overlapping windows, by eval and predict alike",
    )
    window: Size = Field((1024, 1024), description="height x width of such a window, in pixels")
    overlap: float = Field(
        0.25, ge=0, lt=1, description="least share of a window's side that the next one covers, too"
    )
    tta: list[Literal["hflip", "vflip"] | Annotated[float, Field(gt=0)]] = Field(
        [],
        description="test-time augmentation: flips and scales, such as [hflip, 0.75, 1.25], whose "
        "probabilities are averaged with the image's own, in eval and predict; fit's validation "
        "does without",
    )
    group_by: str | None = Field(
        None,
        description="regular expression; images in whose names it finds the same text (that of "
        "its group, where it has one) are drawn together for the confidence intervals, such as "
        "'^(.+)_[0-9]+' for frames of videos; default: each image by itself",
    )
    mask_values: Literal["ids", "own"] = Field(
        "ids",
        description="what masks of eval --predictions hold: class ids, or the values and colours "
        "that the data set's own masks have",
    )
    worst: int = Field(8, ge=0, description="how many of the worst images eval paints")
    best: int = Field(4, ge=0, description="how many of the best images are in the report, too")

    @field_validator("group_by")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression: {error}")
        return pattern


class PredictConfig(Section):
    save_probs: bool = Field(
        False, description="write STEM_probs.npy, float16 (classes, height, width), too"
    )
    opacity: float = Field(0.5, ge=0, le=1, description="opacity of the colours over the image")


class Config(Section):
    """Everything that decides what a run computes."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    predict: PredictConfig = PredictConfig()
