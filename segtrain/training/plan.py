"""The plan of a training: all that is found out and refused before its first step."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtrain.config import Config, LossConfig
from segtrain.data.data_set import DataSet
from segtrain.data.inspection.survey import prepare
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.sampling import (
    ClassDraws,
    batch_at,
    class_draws,
    shares_seen,
    steps_per_pass,
)
from segtrain.errors import UsageError, did_you_mean
from segtrain.losses.build import load_networks
from segtrain.losses.spec import LossSpec, parse_loss
from segtrain.models.pretrained import can_load_imagenet
from segtrain.models.segmentation import SegmentationModel, build_model

CROPS_COUNTED = 256  # to tell what a sampler shows of each class


@dataclass(frozen=True)
class Plan:
    """All that was found out before training; rank 0 makes it, every rank gets it."""

    config: Config  # nothing left to find out: classes, crop and weights are filled in
    data: DataSet
    loss: LossSpec  # class weights in it are numbers
    steps_per_epoch: int
    sizes: dict[str, list[tuple[int, int]]]  # (height, width) of the images of train and val
    by_class: ClassDraws | None = None  # what data.sampler draws by class
    run: Path | None = None

    @property
    def folder(self) -> Path:
        """The run's, which there is once training starts."""
        assert self.run is not None
        return self.run

    @property
    def crop(self) -> tuple[int, int]:
        assert self.config.augment.crop is not None
        return self.config.augment.crop

    @property
    def size(self) -> str:
        """How much there is to do, in a line."""
        train, model, crop = self.config.train, self.config.model, self.crop
        world = train.devices * train.nodes
        shared = f" on {world} devices" if world > 1 else ""
        parts = f" in {train.accumulate} parts" if train.accumulate > 1 else ""
        return (
            f"{model.arch} on {model.encoder}, crops of {crop[0]}x{crop[1]}, batches of "
            f"{train.batch_size}{shared}{parts}: {train.epochs} epochs of {self.steps_per_epoch} "
            f"steps, {train.epochs * self.steps_per_epoch} in all"
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must find again: each split's images by name and size, in order."""
        found: dict[str, Any] = {"steps an epoch": self.steps_per_epoch}
        for split, sizes in self.sizes.items():
            names = [sample.image.name for sample in self.data.splits[split]]
            digest = hashlib.sha256(json.dumps([names, sizes]).encode()).hexdigest()
            found[split] = f"{len(names)} images ({digest[:12]})"
        return found

    def memory_advice(self, precision: str) -> str:
        """What needs less memory than this run's options; precision is Fabric's name for it."""
        train, crop = self.config.train, self.crop
        less = [f"--batch-size {train.batch_size // 2}"] if train.batch_size > 1 else []
        less += [f"--set train.accumulate={2 * train.accumulate} (the same batch, in parts)"]
        less += [f"--crop {'x'.join(str(max(32, s // 64 * 32)) for s in crop)}"]
        less += ["--precision bf16"] if precision == "32-true" else []
        return (
            f"a batch of {train.batch_size} crops of {crop[0]}x{crop[1]} is too much; try "
            + ", or ".join(less)
            + "; the last checkpoint is intact"
        )

    def files_at(self, step: int) -> list[str]:
        """Names of the images in the batch of a step, counted from 0."""
        samples, train = self.data.splits["train"], self.config.train
        draws = batch_at(step, len(samples), train.batch_size, train.seed, self.by_class)
        return [samples[draw.index].image.name for draw in draws]


def make_plan(config: Config, loss: LossSpec, say: Callable[[str], None]) -> Plan:
    """Reads the data set, fills in what the config leaves open, and refuses what can't work."""
    prepared = prepare(config.data, config.model.in_channels)
    for note in (*prepared.data_set.notes, *prepared.notes):
        say(str(note))
    for line in ignored_settings(config.loss, loss) + split_losses(config, loss):
        say(line)
    data = prepared.data_set
    loss = loss.with_class_weights(*prepared.class_pixels)
    loss.check_classes(len(data.classes))
    config = config.model_copy(
        update={
            "data": data.config,
            "loss": config.loss.model_copy(update={"expression": str(loss)}),
            "augment": config.augment.model_copy(
                update={"crop": crop_of(config, prepared.median_size)}
            ),
            "model": config.model.model_copy(update={"weights": find_weights(config, say)}),
        }
    )
    if config.optim.encoder_lr == 0 and config.model.weights == "none":
        say("note: optim.encoder_lr is 0, so the encoder stays at its random weights")
    if config.model.in_channels != 3 and config.model.mean is None:
        say(
            f"note: nothing says the mean of the {config.model.in_channels} channels; 'segtrain "
            "check' prints model.mean and model.std of this data"
        )
    images, batch_size = len(data.splits["train"]), config.train.batch_size
    refuse_batch_size(config, images)
    refuse_crop(config)
    refuse_monitor(config)
    if images % batch_size:
        say(
            f"a pass over {images} training images leaves out {images % batch_size}, drawn anew "
            f"each time: the batch size is {batch_size}"
        )
    steps = config.train.steps_per_epoch or steps_per_pass(images, batch_size)
    if config.train.profile and config.train.epochs * steps < 8:
        say("note: train.profile traces steps 5 to 8, and there are fewer: nothing is written")
    by_class = class_draws(data, prepared.by_image["train"])
    plan = Plan(config, data, loss, steps, prepared.sizes, by_class)
    augmentation = Augmentation(  # refuses transforms before a run has its folder
        config.augment, config.data.lb_ignore, config.train.seed, config.model.in_channels
    )
    if by_class:
        say(describe_sampler(plan, augmentation))
    return plan


def describe_sampler(plan: Plan, augmentation: Augmentation) -> str:
    """The share of pixels that each class gets under data.sampler, over the first steps' crops."""
    config = plan.config
    draws = [
        draw
        for step in range(math.ceil(CROPS_COUNTED / config.train.batch_size))
        for draw in batch_at(
            step,
            len(plan.data.splits["train"]),
            config.train.batch_size,
            config.train.seed,
            plan.by_class,
        )
    ]
    shares = shares_seen(
        lambda index: plan.data.masks(plan.data.splits["train"][index].mask),
        draws,
        augmentation.crop_mask,
        len(plan.data.classes),
    )
    shown = zip(plan.data.classes, shares, strict=True)
    listed = ", ".join(f"{name} {share:.2%}" for name, share in shown)
    return f"pixels under {config.data.sampler} ({len(draws)} crops counted): {listed}"


def crop_of(config: Config, median_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the crop as named, else by the training images' median size."""
    height, width = (math.ceil(min(512, side) / 32) * 32 for side in median_size)
    return config.augment.crop or (height, width)


def read_loss(config: Config) -> LossSpec:
    """Parse the loss of a config and load its networks, before the data set is read.

    Raises UsageError for a wrong expression, and for one that the devices can't compute.
    """
    devices = config.train.devices * config.train.nodes
    loss = parse_loss(config.loss.expression, config.loss.thresh, config.loss.n_min_factor)
    if config.data.classes:
        loss.check_classes(len(config.data.classes))
    if loss.one_device and devices > 1 and config.loss.sync:
        raise UsageError(f"loss: {loss.one_device}: one device computes it, not {devices}")
    load_networks(loss)
    return loss


def ignored_settings(config: LossConfig, loss: LossSpec) -> list[str]:
    """Return a line for each loss setting that was changed but that no term of the loss takes."""
    return [
        f"note: loss.{key} is ignored by {loss}"
        for key in ("thresh", "n_min_factor")
        if getattr(config, key) != getattr(LossConfig(), key) and not loss.takes(key)
    ]


def split_losses(config: Config, loss: LossSpec) -> list[str]:
    """Return a line where train.accumulate changes more than rounding."""
    parts = config.train.accumulate
    whole = [name for name in loss.names if name != "ce"]
    if parts == 1 or not whole:
        return []
    return [
        f"note: train.accumulate takes a batch in {parts} parts: {', '.join(whole)} looks at the "
        "pixels of one part at a time, not of the whole batch"
    ]


def find_weights(config: Config, say: Callable[[str], None]) -> str:
    """What `auto` becomes; anything else as it is."""
    weights, encoder = config.model.weights, config.model.encoder
    if weights != "auto":
        return weights if weights in ("imagenet", "none") else str(Path(weights).resolve())
    if can_load_imagenet(encoder):
        return "imagenet"
    say("=" * 80)
    say(
        f"WARNING: no ImageNet weights for {encoder}: neither cached nor offered by the hub within "
        "3 seconds.\nTraining starts from random weights and needs far more epochs; "
        "--weights none says that you want this."
    )
    say("=" * 80)
    return "none"


def refuse_batch_size(config: Config, images: int) -> None:
    """Raises UsageError for a batch size that the images or devices don't allow."""
    batch_size, world = config.train.batch_size, config.train.devices * config.train.nodes
    parts = world * config.train.accumulate
    if batch_size > images:
        raise UsageError(
            f"train.batch_size: {batch_size} is more than the {images} training images"
        )
    if batch_size % parts:
        fits = batch_size + -batch_size % parts
        among = f"{world} devices" if world > 1 else ""
        among += " x " if world > 1 and parts > world else ""
        among += f"{config.train.accumulate} parts (train.accumulate)" if parts > world else ""
        raise UsageError(
            f"train.batch_size: {batch_size} can't be shared by {among}; "
            f"the next that can is {fits}"
        )


def refuse_monitor(config: Config) -> None:
    """Raises UsageError for a score that there is none of."""
    scores = ["miou", *(f"iou:{name}" for name in config.data.classes or ())]
    monitor = config.train.monitor
    if monitor not in scores:
        raise UsageError(
            f"train.monitor: there is no {monitor!r}{did_you_mean(monitor, scores)}; "
            f"scores are {', '.join(scores)}"
        )


def refuse_crop(config: Config) -> None:
    """Raises UsageError for a crop, or one image a device, that the architecture can't train on."""
    model, arch, crop = new_model(config), config.model.arch, config.augment.crop
    assert crop is not None
    if reason := model.refusal_of_size(crop):
        raise UsageError(
            f"augment.crop: {arch} cannot take {crop[0]}x{crop[1]} ({reason}); use a larger --crop"
        )
    parts = config.train.devices * config.train.nodes * config.train.accumulate
    if config.train.batch_size == parts and not model.trains_on_one(crop):
        raise UsageError(
            f"train.batch_size: {arch} cannot train on one image at a time (its batch norm needs "
            f"two values a channel); use --batch-size {2 * parts} or more, or model.freeze_bn"
        )


def new_model(config: Config) -> SegmentationModel:
    assert config.data.classes is not None
    model = build_model(config.model, len(config.data.classes))
    if config.optim.encoder_lr == 0:
        model.freeze_encoder()
    return model
