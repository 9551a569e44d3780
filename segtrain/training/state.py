"""The state of a training: all that a step changes, saved and restored together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from segtrain.losses.build import Loss
from segtrain.metrics.confusion import Scores
from segtrain.models.segmentation import SegmentationModel
from segtrain.training.module import BufferSnapshot
from segtrain.training.plan import TrainingPlan

STEP_PHASES = ("data", "forward", "backward", "other")  # parts of the time of a step


@dataclass
class TrainState:
    """Progress of a run, besides its weights. The finished epochs are those with a row."""

    step: int = 0  # optimizer steps taken, skipped ones included
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv
    best: float | None = None  # score of train.monitor
    stale: int = 0  # validations since the best one
    bad_steps: list[dict[str, Any]] = field(default_factory=list)  # of bad_steps.csv
    bad_in_a_row: int = 0
    # of the current epoch
    loss_sum: float = 0.0  # over its steps that were not skipped
    skipped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.rows)

    def count_step(self, bad: bool) -> None:
        """Count a step whose outcome is known; a bad one was skipped."""
        self.skipped += bad
        self.bad_in_a_row = self.bad_in_a_row + 1 if bad else 0

    def end_epoch(
        self,
        plan: TrainingPlan,
        lr: float,
        scores: Scores | None,
        terms: dict[str, float | None],
        validation_seconds: float,
    ) -> dict[str, Any]:
        """Add the epoch's row and return it. All but the times repeats on another machine."""
        steps = plan.steps_per_epoch
        counted = steps - self.skipped
        row = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": lr,
            "train_loss": self.loss_sum / counted if counted else None,
            "skipped_steps": self.skipped,
            "val_miou": scores and scores.miou,
            "val_pixel_accuracy": scores and scores.pixel_accuracy,
            "val_mean_accuracy": scores and scores.mean_accuracy,
            "val_fw_iou": scores and scores.fw_iou,
        }
        for class_id, name in enumerate(plan.data.classes):
            row[f"val_iou/{name}"] = scores and scores.classes[class_id].iou
        row |= {f"loss/{key}": value for key, value in terms.items()}
        train_seconds = sum(self.seconds.values())
        row["images_per_second"] = steps * plan.config.train.images_per_step / train_seconds
        row |= {f"{phase}_seconds": self.seconds[phase] for phase in STEP_PHASES}
        row |= {"train_seconds": train_seconds, "seconds": train_seconds + validation_seconds}
        self.rows.append(row)
        self.loss_sum, self.skipped, self.seconds = 0.0, 0, {}
        return row

    def improve(self, score: float | None) -> bool:
        """Record a validation's score; return whether it is the new best."""
        better = score is not None and (self.best is None or score > self.best)
        self.best, self.stale = (score, 0) if better else (self.best, self.stale + 1)
        return better


@dataclass
class Training:
    """All objects that training changes."""

    module: Any  # a TrainingModule in Fabric's wrapper, whose type is private
    model: SegmentationModel
    loss: Loss
    optimizer: Any  # torch's, in Fabric's wrapper
    average: SegmentationModel | None  # moving average of the weights (train.ema)
    buffers: BufferSnapshot
    state: TrainState

    @property
    def scored(self) -> SegmentationModel:
        """The model that is validated and saved: the average where there is one."""
        return self.average or self.model


def select_score(scores: Scores, monitor: str) -> float | None:
    """Return the score that train.monitor names: miou, or iou:CLASS."""
    if monitor == "miou":
        return scores.miou
    name = monitor.removeprefix("iou:")
    return next(c.iou for c in scores.classes if c.name == name)
