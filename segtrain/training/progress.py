"""Progress of a training: a live bar in a terminal, elsewhere one line per epoch."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from segtrain.console import format_duration, format_score, safe, terminal, write, write_above
from segtrain.training.plan import TrainingPlan
from segtrain.training.state import STEP_PHASES, TrainState


class Reporter:
    """Report of the progress of a training; ranks other than 0 report nothing.

    A context manager: the bar is live inside it.
    """

    COLUMNS = (
        ("{task.fields[position]}", "bold"),
        ("{task.completed}/{task.total}", "none"),
        ("loss {task.fields[loss]}", "none"),
        ("lr {task.fields[lr]}", "none"),
        ("{task.fields[speed]}", "none"),
        ("best {task.fields[monitor]} {task.fields[best]}", "none"),
    )

    def __init__(self, plan: TrainingPlan, state: TrainState, is_rank_zero: bool):
        train = plan.config.train
        self.epochs, self.steps_per_epoch = plan.epochs, plan.steps_per_epoch
        self.batch_size, self.is_rank_zero = train.images_per_step, is_rank_zero
        self.steps_before = state.step  # steps that an earlier process took
        self.monitor = "mIoU" if train.monitor == "miou" else safe(train.monitor)
        self.first: tuple[int, float] | None = None  # step and time of the first reading
        self.has_estimated = self.has_shown_phases = False
        console = terminal()
        self.live = is_rank_zero and console.is_terminal
        position, *others = (
            TextColumn(column, style, markup=False, table_column=Column(no_wrap=True))
            for column, style in self.COLUMNS
        )
        self.bar = Progress(
            position,
            BarColumn(None, table_column=Column(ratio=1)),  # fills the rest of the line
            *others,
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,  # only the lines above it stay
            expand=True,
        )
        self.task = self.bar.add_task(
            "",
            total=plan.total_steps,
            completed=state.step,
            position="start",
            loss="-",
            lr="-",
            speed="-",
            monitor=self.monitor,
            best=format_score(state.best),
        )

    def __enter__(self) -> Reporter:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:  # some versions of rich print an empty line if it never ran
            self.bar.stop()

    def count_step(self, epoch: int, step: int) -> None:
        """Move the bar after each step; `epoch` counts from 0."""
        self.bar.update(self.task, completed=step, position=f"epoch {epoch + 1}/{self.epochs}")

    def show_step(self, step: int, loss: float, lr: float, seconds: float) -> None:
        """Show the loss and speed after a step; `seconds` are the epoch's so far."""
        speed = ((step - 1) % self.steps_per_epoch + 1) * self.batch_size / seconds
        self.bar.update(
            self.task, loss=f"{loss:.3f}", lr=f"{lr:.1e}", speed=f"{speed:.1f} images/s"
        )
        if self.first is None:
            self.first = step, time.monotonic()  # the first steps are slower than the rest
        elif not self.has_estimated:
            self.has_estimated = True
            per_step = (time.monotonic() - self.first[1]) / (step - self.first[0])
            self.write(
                f"about {format_duration(per_step * self.steps_per_epoch)} an epoch without "
                f"validation; ends {self._estimate_end(per_step, step)}"
            )

    def _estimate_end(self, seconds_per_step: float, step: int) -> str:
        left = (self.epochs * self.steps_per_epoch - step) * seconds_per_step
        return f"in {format_duration(left)}, at {datetime.now() + timedelta(seconds=left):%a %H:%M}"

    def show_validation(self, epoch: int) -> None:
        """Show that validation runs; `epoch` counts from 0."""
        self.bar.update(self.task, position=f"scoring {epoch + 1}/{self.epochs}")

    def end_epoch(self, row: dict[str, Any], best: float | None) -> None:
        """Write the line of an epoch, from its row of metrics.csv."""
        self.bar.update(self.task, best=format_score(best))
        validated = (
            f"val mIoU {format_score(row['val_miou'])} "
            f"(best {'' if self.monitor == 'mIoU' else f'{self.monitor} '}{format_score(best)})  "
            if row["val_miou"] is not None
            else ""
        )
        self.write(
            f"epoch {row['epoch']}/{self.epochs}  loss {format_score(row['train_loss'])}  "
            f"lr {row['lr']:.2e}  {validated}{row['images_per_second']:.1f} images/s  "
            f"{row['seconds']:.0f} s"
        )
        if not self.has_shown_phases:
            self.has_shown_phases = self.has_estimated = True
            total = row["train_seconds"]
            shares = (f"{p} {row[f'{p}_seconds'] / total:.0%}" for p in STEP_PHASES)
            per_step = row["seconds"] / self.steps_per_epoch
            left = row["step"] < self.epochs * self.steps_per_epoch
            ends = f"; ends {self._estimate_end(per_step, row['step'])}" if left else ""
            self.write(f"time of a step: {', '.join(shares)}{ends}")

    def write(self, line: str) -> None:
        """Write a line, above the bar where there is one; only rank 0 does."""
        if self.live:
            write_above(self.bar, line)
        elif self.is_rank_zero:
            write(line)
