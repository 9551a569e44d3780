"""The plan of a training: all that is resolved before its first step, or refused."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from segtrain.config import Config, LossConfig, OptimConfig
from segtrain.console import Note, note_choice
from segtrain.data.data_set import DataSet
from segtrain.data.inspection.survey import Survey
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.sampling import (
    ClassDraws,
    batch_at,
    class_draws,
    shares_seen,
    steps_per_pass,
)
from segtrain.errors import UsageError, did_you_mean, match_choice
from segtrain.losses.spec import LossSpec
from segtrain.models.encoders import explain_port, refuse_other_outputs
from segtrain.models.imagenet import locate_imagenet
from segtrain.models.inference import advise_on_size, list_input_sizes
from segtrain.models.segmentation import SegmentationModel, build_model, shape_model

CROPS_COUNTED = 256  # to estimate how often a sampler draws each class
MASKS_OF = "masks of "  # begins what the fingerprint has of the masks of a split
BYTES_PER_PIXEL = 32  # eight values for each pixel: any network's first layers hold more
TRACED_STEPS = 8  # train.profile traces steps 5 to 8


@dataclass(frozen=True)
class TrainingPlan:
    """All that is resolved before training; rank 0 makes it and sends it to the others."""

    config: Config  # as given, with classes, crop, weights and loss resolved
    data: DataSet
    loss: LossSpec  # with class weights as numbers
    crop: tuple[int, int]  # height, width
    image_sizes: dict[str, list[tuple[int, int]]]  # (height, width) in train and val
    mask_digests: dict[str, str]  # of all masks of train and of val
    epochs: int
    steps_per_epoch: int
    by_class: ClassDraws  # of data.sampler and augment.copy_paste
    notes: tuple[Note, ...]
    timed: bool = False  # epochs and steps_per_epoch are those that fit into train.max_time

    @property
    def total_steps(self) -> int:
        """The number of steps of the training."""
        return self.epochs * self.steps_per_epoch

    @property
    def summary(self) -> str:
        """Network, crop, batch and number of steps, in one line."""
        train, model, (height, width) = self.config.train, self.config.model, self.crop
        world = train.devices * train.nodes
        shared = f" on {world} devices" if world > 1 else ""
        parts = f" in {train.accumulate} micro-batches" if train.accumulate > 1 else ""
        most = "at most " if train.max_time and not self.timed else ""
        return (
            f"{model.arch} on {model.encoder}, crops of {height}x{width}, batches of "
            f"{train.batch_size}{shared}{parts}: {most}{self.epochs} epochs of "
            f"{self.steps_per_epoch} steps, {self.total_steps} in all"
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Identity of the data that a resumed run must find, the same on any machine.

        Images by name and size, in order, and masks by their values.
        """
        identity: dict[str, Any] = {"steps an epoch": self.steps_per_epoch}
        for split, sizes in self.image_sizes.items():
            names = [sample.image.name for sample in self.data.splits[split]]
            digest = hashlib.sha256(json.dumps([names, sizes]).encode()).hexdigest()
            identity[split] = f"{len(names)} images ({digest[:12]})"
            identity[MASKS_OF + split] = self.mask_digests[split][:12]
        return identity

    def memory_advice(self, precision: str) -> str:
        """Return options that need less memory than this run's; `precision` is Fabric's name."""
        train, (height, width) = self.config.train, self.crop
        batch_size = train.images_per_step
        options = [f"--batch-size {batch_size // 2}"] if batch_size > 1 else []
        options += [
            f"--set train.accumulate={2 * train.accumulate} (the same batch in micro-batches)",
            f"--crop {'x'.join(str(max(32, side // 64 * 32)) for side in self.crop)}",
        ]
        options += ["--precision bf16"] if precision == "32-true" else []
        return (
            f"a batch of {batch_size} crops of {height}x{width} is too much; try "
            + ", or ".join(options)
        )

    def batch_files(self, step: int) -> list[str]:
        """Return the names of the images in the batch of a step, then of those pasted from."""
        samples, train = self.data.splits["train"], self.config.train
        draws = batch_at(step, len(samples), train.images_per_step, train.seed, self.by_class)
        indices = [draw.index for draw in draws]
        indices += [draw.patch.image for draw in draws if draw.patch]
        return [samples[index].image.name for index in indices]


def make_plan(config: Config, loss: LossSpec, survey: Survey) -> TrainingPlan:
    """Resolve what config and loss leave open, and refuse what can't work.

    `loss` is the config's, parsed; `survey` is of its data set.
    """
    data, notes = survey.data_set, check_loss(config, loss)
    loss = loss.with_class_weights(*survey.class_pixels)
    loss.check_classes(len(data.classes))
    crop = resolve_crop(config, survey.median_size)
    weights, weight_notes = resolve_weights(config)
    notes += weight_notes
    monitor = take_monitor(config.train.monitor, data.classes)
    if monitor != config.train.monitor:
        notes.append(note_choice(config.train.monitor, monitor))
    config = config.model_copy(
        update={
            "data": data.config,
            "loss": config.loss.model_copy(update={"expression": str(loss)}),
            "augment": config.augment.model_copy(update={"crop": crop}),
            "model": config.model.model_copy(update={"weights": weights}),
            "train": config.train.model_copy(update={"monitor": monitor}),
        }
    )
    images, batch_size = len(data.splits["train"]), config.train.images_per_step
    refuse_batch_size(config, images)
    val = [sample.area.whole if sample.area else None for sample in data.splits["val"]]
    val_sizes = [whole or size for whole, size in zip(val, survey.sizes["val"], strict=True)]
    refuse_sizes(config, crop, val_sizes, len(data.classes))
    steps = config.train.steps_per_epoch or steps_per_pass(images, batch_size)
    refuse_warmup(config.optim, config.train.epochs * steps)
    notes += check_model(config)
    notes += check_steps(config, steps, images)
    by_class = class_draws(data, survey.by_image["train"], config.augment.copy_paste)
    augmentation = make_augmentation(config, crop)  # refuses wrong transforms
    if by_class.images or by_class.patches.images:
        notes += describe_sampler(config, data, by_class, augmentation)
    return TrainingPlan(
        config=config,
        data=data,
        loss=loss,
        crop=crop,
        image_sizes=survey.sizes,
        mask_digests=survey.mask_digests,
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        by_class=by_class,
        notes=tuple(notes),
    )


def describe_sampler(
    config: Config, data: DataSet, by_class: ClassDraws, augmentation: Augmentation
) -> list[Note]:
    """Name what is pasted, and count the pixels of each class in the crops of the first steps."""
    samples, train = data.splits["train"], config.train
    draws = [
        draw
        for step in range(math.ceil(CROPS_COUNTED / train.images_per_step))
        for draw in batch_at(step, len(samples), train.images_per_step, train.seed, by_class)
    ]
    shares = shares_seen(
        lambda index: data.masks(samples[index].mask_source),
        draws,
        augmentation.crop_mask,
        len(data.classes),
    )
    listed = ", ".join(
        f"{name} {share:.2%}" for name, share in zip(data.classes, shares, strict=True)
    )
    pasted = ", ".join(
        f"{data.classes[c]} (in {len(images)})" for c, images in by_class.patches.images.items()
    )
    text = f"copy-paste from {len(samples)} training images: {pasted}"
    under = f"{config.data.sampler} and copy-paste" if pasted else config.data.sampler
    return [Note(text)] * bool(pasted) + [
        Note(f"pixels under {under} ({len(draws)} crops counted): {listed}")
    ]


def make_augmentation(config: Config, crop: tuple[int, int]) -> Augmentation:
    """Build the augmentation of the training pairs. Raise UsageError for wrong transforms."""
    channels, seed = config.model.in_channels, config.train.seed
    return Augmentation(config.augment, crop, config.data.lb_ignore, seed, channels)


def resolve_crop(config: Config, median_size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of the crop as given, else from the median size of the images.

    Raise UsageError for a batch of crops that no network of this machine's memory can take.
    """
    if config.augment.crop is None:
        height, width = (math.ceil(min(512, side) / 32) * 32 for side in median_size)
        return height, width
    height, width = config.augment.crop
    train = config.train
    count = max(1, train.images_per_step // (train.devices * train.nodes * train.accumulate))
    needed = count * height * width * BYTES_PER_PIXEL / 1e9
    memory = psutil.virtual_memory().total / 1e9
    if needed > memory:
        raise UsageError(
            f"augment.crop: {count} crops of {height}x{width} take over {needed:,.0f} GB, and this "
            f"machine has {memory:,.0f}; use a smaller --crop, or a smaller --batch-size"
        )
    return height, width


def check_loss(config: Config, loss: LossSpec) -> list[Note]:
    """Return a note on each loss setting without effect, and on gradient accumulation."""
    texts = [
        f"loss.{key} is ignored by {loss}"
        for key in ("thresh", "n_min_factor")
        if getattr(config.loss, key) != getattr(LossConfig(), key) and not loss.takes(key)
    ]
    parts = config.train.accumulate
    affected = [name for name in loss.names if name != "ce"]
    if parts > 1 and affected:
        texts.append(
            f"train.accumulate splits a batch into {parts} micro-batches: {', '.join(affected)} "
            "uses the pixels of one micro-batch at a time, not of the whole batch"
        )
    return [Note(text, "note") for text in texts]


def resolve_weights(config: Config) -> tuple[str, list[Note]]:
    """Return model.weights with `auto` resolved and a file's path made absolute, and notes."""
    weights, encoder = config.model.weights, config.model.encoder
    if weights != "auto":
        is_file = weights not in ("imagenet", "none")
        # absolute: a run may be resumed from another folder
        return str(Path(weights).resolve()) if is_file else weights, []
    if locate_imagenet(encoder):
        return "imagenet", []
    warning = (
        f"no ImageNet weights for {encoder}: neither cached nor offered by the hub within 3 "
        "seconds; training starts from random weights and needs far more epochs; use --weights "
        "none to accept that"
    )
    return "none", [Note(warning, "warning")]


def check_model(config: Config) -> list[Note]:
    """Return a note on model settings that are likely to be a mistake."""
    optim, texts = config.optim, []
    if optim.encoder_lr == 0 and (optim.freeze_epochs or optim.layer_decay < 1):
        texts.append("optim.encoder_lr is 0: freeze_epochs and layer_decay have no effect")
    if optim.encoder_lr == 0 and config.model.weights == "none":
        texts.append("optim.encoder_lr is 0, so the encoder keeps its random weights")
    elif optim.freeze_epochs >= config.train.epochs:
        texts.append("optim.freeze_epochs is not below train.epochs, so the encoder stays as it is")
    elif optim.freeze_epochs and config.model.weights == "none":
        texts.append("optim.freeze_epochs keeps the encoder's random weights so long")
    if config.model.weights != "none" and (text := explain_port(config.model.encoder)):
        texts.append(text)
    if config.model.in_channels != 3 and config.model.mean is None:
        texts.append(
            f"the mean of the {config.model.in_channels} channels is unknown; 'segtrain check' "
            "prints model.mean and model.std of this data"
        )
    return [Note(text, "note") for text in texts]


def check_steps(config: Config, steps_per_epoch: int, images: int) -> list[Note]:
    """Return notes on images that a pass leaves out, and on a trace that stays empty."""
    batch_size, notes = config.train.images_per_step, []
    if left_out := images % batch_size:
        text = (
            f"a pass over {images} training images leaves out {left_out}, drawn again each time: "
            f"the batch size is {batch_size}"
        )
        notes.append(Note(text))
    if config.train.profile and config.train.epochs * steps_per_epoch < TRACED_STEPS:
        text = "train.profile traces steps 5 to 8, and there are fewer: nothing is written"
        notes.append(Note(text, "note"))
    return notes


def refuse_warmup(optim: OptimConfig, total_steps: int) -> None:
    """Raise UsageError for a warm-up of as many steps as the training has, or more."""
    if optim.schedule != "onecycle" and optim.warmup >= total_steps:
        raise UsageError(
            f"optim.warmup: {optim.warmup} steps, and the training has {total_steps}; give fewer, "
            "or a share of all steps such as 0.05"
        )


def refuse_batch_size(config: Config, images: int) -> None:
    """Raise UsageError for a batch size that the images or devices don't allow."""
    batch_size, world = config.train.images_per_step, config.train.devices * config.train.nodes
    parts = world * config.train.accumulate
    if batch_size > images:
        raise UsageError(
            f"train.batch_size: {batch_size} is more than the {images} training images"
        )
    if batch_size % parts:
        fits = batch_size + -batch_size % parts
        divisors = [f"{world} devices"] if world > 1 else []
        if config.train.accumulate > 1:
            divisors.append(f"{config.train.accumulate} micro-batches (train.accumulate)")
        raise UsageError(
            f"train.batch_size: {batch_size} can't be divided by {' x '.join(divisors)}; "
            f"the next that can is {fits}"
        )


def take_monitor(monitor: str, classes: list[str]) -> str:
    """Return the score that train.monitor spells. Raise UsageError where there is none."""
    scores = ["miou", *(f"iou:{name}" for name in classes)]
    choice = match_choice(monitor, scores)
    if choice is None:
        raise UsageError(
            f"train.monitor: there is no {monitor!r}{did_you_mean(monitor, scores)}; "
            f"scores are {', '.join(scores)}"
        )
    return choice


def refuse_sizes(
    config: Config, crop: tuple[int, int], val_sizes: list[tuple[int, int]], num_classes: int
) -> None:
    """Raise UsageError for images, or one image a device, that the network can't take.

    They are the crops, and what validation makes of images of `val_sizes`, (height, width) each.
    """
    # the network itself is tried: each architecture has its own limits
    refuse_other_outputs(config.model)
    try:
        model = shape_model(config.model, num_classes)
    except UsageError:  # raised again, unless the encoder can only be built with values
        model = build_model(config.model, num_classes)
    network = f"{config.model.arch} on {config.model.encoder}"
    if refused := model.find_size_error([crop]):
        (height, width), reason = refused
        raise UsageError(
            f"augment.crop: {network} can't train on {height}x{width} ({reason}); "
            f"use --crop {model.padding.least}"
        )
    if refused := model.find_size_error(list_input_sizes(val_sizes, config.eval)):
        (height, width), reason = refused
        raise UsageError(
            f"eval: {network} can't take the {height}x{width} of validation ({reason}); "
            f"{advise_on_size(model.padding.least)}"
        )
    parts = config.train.devices * config.train.nodes * config.train.accumulate
    if config.train.images_per_step != parts:
        return
    if not make_model(config, num_classes).can_train_on_one(crop):
        raise UsageError(
            f"train.batch_size: {config.model.arch} can't train on one image at a time (its batch "
            f"norm needs two values a channel); use --batch-size {2 * parts} or more, or "
            "model.freeze_bn"
        )


def make_model(config: Config, num_classes: int) -> SegmentationModel:
    """Build the model to train; layers that no output reaches are frozen in it.

    So is its encoder where optim.encoder_lr is 0.
    """
    refuse_other_outputs(config.model)
    model = build_model(config.model, num_classes)
    model.freeze_unreached()
    if config.optim.encoder_lr == 0:
        model.freeze_encoder()
    return model
