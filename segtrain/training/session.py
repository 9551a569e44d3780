"""The session of a run, which the functions of the training loop share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from segtrain.distributed.launch import RankMonitor
from segtrain.distributed.signals import StopRequest
from segtrain.runs.trackers import Tracker
from segtrain.training.plan import TrainingPlan
from segtrain.training.progress import Reporter
from segtrain.training.state import Training
from segtrain.training.watch import FileWatch


@dataclass(frozen=True)
class RunStart:
    """The start of a run, which rank 0 resolves and sends to the other ranks."""

    plan: TrainingPlan
    run: Path  # the run's folder; only rank 0 needs to see it
    saved: dict[str, Any] | None  # the state to resume from; None: a new training
    watch: FileWatch | None = None  # over the files that the plan was made of; rank 0 asks it


@dataclass(frozen=True)
class Session:
    """One process's part of a run."""

    fabric: Fabric
    plan: TrainingPlan
    run: Path  # the run's folder; only rank 0 writes to it
    training: Training
    reporter: Reporter
    stop_request: StopRequest
    rank_monitor: RankMonitor
    watch: FileWatch | None = None
    tracker: Tracker = field(default_factory=Tracker)  # rank 0's alone does something

    @property
    def is_rank_zero(self) -> bool:
        """True in the one process that prints and writes files."""
        return self.fabric.is_global_zero
