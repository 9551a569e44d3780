"""The train section: length, devices, precision, checkpoints and tracking of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segtrain.config.types import BatchSize, Duration, OnOffAuto, Section, StepsOrDuration


class TrainConfig(Section):
    """The training run: length, devices, precision, checkpoints."""

    epochs: int = Field(50, ge=1, description="passes over the training images")
    max_time: Duration | None = Field(
        None,
        description="longest time of the training, such as 25min, with its validations and "
        "checkpoints: as many steps as fit by the speed of 50 measured ones, in at most "
        "train.epochs; default: no limit",
    )
    batch_size: BatchSize = Field(
        8,
        description="images per optimizer step, over all devices; auto is the largest number that "
        "the memory of a GPU can take",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="gradient accumulation: micro-batches per optimizer step, to save memory",
    )
    steps_per_epoch: int | None = Field(
        None, ge=1, description="optimizer steps per epoch; default: one pass over the images"
    )
    monitor: str = Field(
        "miou", description="score that selects the best checkpoint: miou, or iou:CLASS"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="early stopping: validations without improvement after which training ends; "
        "default: off",
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of an exponential moving average of the weights, such as 0.999; the "
        "average is validated and saved instead of the weights; 0 is off",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto",
        description="auto, cpu, cuda or mps (the GPU of a Mac); auto is a GPU if there is one",
    )
    devices: int = Field(1, ge=1, description="devices (GPUs) per host, one process each")
    nodes: int = Field(1, ge=1, description="hosts of a distributed training")
    timeout: Duration = Field(
        "10min", description="longest wait of the processes for one that doesn't answer"
    )
    sync_bn: bool = Field(
        True, description="synchronised batch norm over all GPUs; false: each GPU by itself"
    )
    precision: Literal["auto", "32", "bf16", "fp16"] = Field(
        "auto",
        description="mixed precision: auto, 32 (off), bf16 or fp16; auto is bf16 on a GPU or CPU "
        "that computes it in hardware, fp16 on any other GPU, 32 on mps and any other CPU; a "
        "resumed run keeps its own",
    )
    channels_last: bool = Field(
        True, description="channels-last memory format of images and weights, except on mps"
    )
    compile: OnOffAuto = Field(
        "auto",
        description="torch.compile of the network; auto is on for cuda and at least 2,000 steps",
    )
    deterministic: bool = Field(
        False, description="make runs on a GPU repeatable to the last bit, at a lower speed"
    )
    seed: int = Field(0, ge=0, description="seed of weights, order of images and augmentation")
    log_every: int = Field(10, ge=1, description="steps between updates of the displayed loss")
    checkpoint_every: StepsOrDuration = Field(
        "10min",
        description="steps or time (such as 10min, checked every log_every steps) between "
        "checkpoints to resume from; the end of an epoch always has one",
    )
    keep: int = Field(
        0, ge=0, description="newest checkpoints to keep besides the best and the last"
    )
    max_bad_steps: int = Field(
        20,
        ge=1,
        description="steps with a loss or gradient that is NaN or infinite are skipped; the run "
        "stops after this many in a row",
    )
    profile: bool = Field(
        False,
        description="write profile.json, a trace of steps 5 to 8 for a trace viewer",
    )
    track: Literal["none", "wandb", "mlflow"] = Field(
        "none",
        description="experiment tracking in Weights & Biases (wandb) or MLflow (mlflow), beside "
        "metrics.csv: config, losses, scores and pictures as they come; its own environment "
        "variables say where to; segtrain-cli[wandb] or segtrain-cli[mlflow] installs it",
    )
    track_images: int = Field(
        4, ge=0, description="worst images of each validation that are tracked, with their errors"
    )
    track_checkpoint: bool = Field(
        False, description="also upload the best checkpoint, when the training ends or is stopped"
    )

    @property
    def images_per_step(self) -> int:
        """The batch size as a number; where it is `auto`, a command resolves it first."""
        assert self.batch_size != "auto"
        return self.batch_size
