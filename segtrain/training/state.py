"""The state of a training: kept in one place, saved whole, restored by --resume."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from segtrain.config import Config
from segtrain.errors import SegtrainError
from segtrain.files import write_bytes
from segtrain.losses.build import Loss
from segtrain.metrics.confusion import Scores
from segtrain.models.checkpoint import Meta, read_meta, save_model, save_state
from segtrain.models.segmentation import SegmentationModel
from segtrain.runs.environment import device_name, package_versions
from segtrain.runs.folder import BEST, LAST, STATE
from segtrain.training.plan import Plan
from segtrain.version import __version__

STEP_PHASES = ("data", "forward", "backward", "other")  # where the time of a step goes


@dataclass
class TrainState:
    """Where a run stands, besides its weights. The epochs done are those with a row."""

    step: int = 0  # optimiser steps done, skipped ones too
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv
    best: float | None = None  # of train.monitor
    stale: int = 0  # validations since it was found
    bad_steps: list[dict[str, Any]] = field(default_factory=list)  # of bad_steps.csv
    bad_in_a_row: int = 0
    # of the epoch in the making
    loss_sum: float = 0.0  # over its steps that were not skipped
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return len(self.rows)

    def note(self, bad: bool) -> bool:
        """Counts a step that was skipped; hands on whether it was."""
        self.skipped += bad
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0
        return bad

    def end_epoch(
        self,
        steps: int,
        config: Config,
        lr: float,
        scores: Scores | None,
        terms: dict[str, float | None],
        validation_seconds: float,
    ) -> dict[str, Any]:
        """Adds the epoch's row and returns it: time is of this machine, all else repeats."""
        taken = steps - self.skipped
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": lr,
            "train_loss": self.loss_sum / taken if taken else None,
            "skipped_steps": self.skipped,
            "val_miou": scores and scores.miou,
            "val_pixel_accuracy": scores and scores.pixel_accuracy,
            "val_mean_accuracy": scores and scores.mean_accuracy,
            "val_fw_iou": scores and scores.fw_iou,
        }
        assert config.data.classes is not None
        for place, name in enumerate(config.data.classes):
            row[f"val_iou/{name}"] = scores and scores.classes[place].iou
        row |= {f"loss/{key}": value for key, value in terms.items()}
        train_seconds = sum(self.seconds.values())
        row["images_per_second"] = steps * config.train.batch_size / train_seconds
        row |= {f"{name}_seconds": self.seconds[name] for name in STEP_PHASES}
        row |= {"train_seconds": train_seconds, "seconds": train_seconds + validation_seconds}
        self.rows.append(row)
        self.loss_sum, self.skipped, self.seconds = 0.0, 0, {}
        return row

    def improve(self, score: float | None) -> bool:
        """Whether a validation's score beats the best so far, which it then becomes."""
        better = score is not None and (self.best is None or score > self.best)
        self.best, self.stale = (score, 0) if better else (self.best, self.stale + 1)
        return better


@dataclass
class Training:
    """All that training changes."""

    module: Any  # a TrainingModule, as Fabric wrapped it, which keeps that type private
    model: SegmentationModel
    loss: Loss
    optimizer: Any  # torch's, likewise
    average: SegmentationModel | None  # of the weights (train.ema)
    state: TrainState

    @property
    def scored(self) -> SegmentationModel:
        """The model that is validated and saved."""
        return self.average or self.model


def score_of(scores: Scores, monitor: str) -> float | None:
    """The number that train.monitor names: miou, or iou:CLASS."""
    if monitor == "miou":
        return scores.miou
    name = monitor.removeprefix("iou:")
    return next(c.iou for c in scores.classes if c.name == name)


def average_of(model: SegmentationModel) -> SegmentationModel:
    """Where the moving average of its weights starts: a copy."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def save(
    fabric: Fabric, plan: Plan, training: Training, miou: float | None = None, best: bool = False
) -> None:
    """last.safetensors, best.safetensors where it is, and last.state.pt; rank 0 calls it alone."""
    model, state, checkpoints = training.scored, training.state, plan.folder / LAST.parent
    meta = Meta.of(
        model, plan.config, palette=plan.data.palette, epoch=state.epoch, step=state.step, miou=miou
    )
    if plan.config.train.keep and (plan.folder / LAST).exists():
        keep_last(checkpoints, plan.config.train.keep, state.step)
    save_model(plan.folder / LAST, model, meta)
    if best:
        save_model(plan.folder / BEST, model, meta)
    # weights too: one file, so one rename, is a state that fits together
    save_state(
        plan.folder / STATE,
        {
            "model": training.model.state_dict(),
            "average": training.average and training.average.state_dict(),
            "loss": dict(training.loss.named_buffers()),
            "observed": training.loss.observed,
            "optimizer": training.optimizer.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "state": asdict(state),
            "config": plan.config.model_dump(mode="json"),
            "setting": setting(fabric),
            "data": plan.fingerprint,
        },
    )


def keep_last(checkpoints: Path, most: int, step: int) -> None:
    """Gives last.safetensors a second name, by its step, and removes all but the newest ones.

    Unless it is damaged, or of the step that is to be saved: then it is replaced.
    """
    last = checkpoints / LAST.name
    try:
        of_step = read_meta(last).step
    except SegtrainError:
        of_step = None
    if of_step is not None and of_step != step:
        kept = checkpoints / f"step-{of_step:09d}.safetensors"
        try:
            os.link(last, kept)
        except FileExistsError:
            pass  # a resumed run comes by a second time, with the same weights
        except OSError:  # a file system without links
            write_bytes(kept, last.read_bytes())
    for old in sorted(checkpoints.glob("step-*.safetensors"))[:-most]:
        with suppress(OSError):
            old.unlink()


def setting(fabric: Fabric) -> dict[str, Any]:
    """What the last bits of a run depend on besides its config."""
    return {
        "segtrain": __version__,
        "device": device_name(fabric.device),
        "precision": fabric.strategy.precision.precision,
        "threads": torch.get_num_threads(),
        **package_versions(),
    }


def restore(fabric: Fabric, training: Training, saved: dict[str, Any]) -> None:
    """Puts everything back as `save` found it."""
    training.model.load_state_dict(saved["model"])
    if training.average:
        training.average.load_state_dict(saved["average"])
    # what it learns; vgg's weights are fixed
    training.loss.load_state_dict(saved["loss"], strict=False)
    training.loss.observed = [
        {name: value.to(fabric.device) for name, value in record.items()}
        for record in saved["observed"]
    ]
    training.optimizer.load_state_dict(saved["optimizer"])
    if saved["precision"]:  # a scaler's; a run that had none begins with a new one
        fabric.strategy.precision.load_state_dict(saved["precision"])
    training.state = TrainState(**saved["state"])
