"""The progress of a training: a live bar in a terminal, elsewhere a plain line an epoch."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from segtrain.config import TrainConfig
from segtrain.console import format_duration, format_score


class Reporter:
    """Shows training: a live bar in a terminal, elsewhere a plain line an epoch.

    Ranks other than 0 make one that is not `loud` and shows nothing.
    """

    COLUMNS = (
        "[bold]{task.fields[place]}",
        "{task.completed}/{task.total}",
        "loss {task.fields[loss]}",
        "lr {task.fields[lr]}",
        "{task.fields[speed]}",
        "best {task.fields[monitor]} {task.fields[best]}",
    )

    def __init__(
        self, train: TrainConfig, steps_per_epoch: int, done: int, best: float | None, loud: bool
    ):
        self.epochs, self.steps_per_epoch = train.epochs, steps_per_epoch
        self.batch_size, self.loud = train.batch_size, loud
        self.done = done  # steps that an earlier process did
        self.monitor = "mIoU" if train.monitor == "miou" else train.monitor
        self.first: tuple[int, float] | None = None  # step and time of the first reading
        self.estimated = self.split = False
        self.console = Console()
        self.live = loud and self.console.is_terminal
        place, *others = (
            TextColumn(column, table_column=Column(no_wrap=True)) for column in self.COLUMNS
        )
        self.bar = Progress(
            place,
            BarColumn(None, table_column=Column(ratio=1)),  # takes what the numbers leave
            *others,
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self.console,
            transient=True,  # the epochs' lines stay
            expand=True,
        )
        self.task = self.bar.add_task(
            "",
            total=train.epochs * steps_per_epoch,
            completed=done,
            place="start",
            loss="-",
            lr="-",
            speed="-",
            monitor=self.monitor,
            best=format_score(best),
        )

    def __enter__(self) -> Reporter:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:  # else some versions of rich end with an empty line
            self.bar.stop()

    def count(self, epoch: int, step: int) -> None:
        """After each step."""
        self.bar.update(self.task, completed=step, place=f"epoch {epoch + 1}/{self.epochs}")

    def step(self, step: int, loss: float, lr: float, seconds: float) -> None:
        """After a step was read; seconds of the epoch's training so far."""
        speed = ((step - 1) % self.steps_per_epoch + 1) * self.batch_size / seconds
        self.bar.update(
            self.task,
            loss=f"{loss:.3f}",
            lr=f"{lr:.1e}",
            speed=f"{speed:.1f} images/s",
        )
        if self.first is None:
            self.first = step, time.monotonic()  # the first steps are slower than those to come
        elif not self.estimated:
            self.estimated = True
            each = (time.monotonic() - self.first[1]) / (step - self.first[0])
            self.say(
                f"about {format_duration(each * self.steps_per_epoch)} an epoch, validation aside; "
                f"ends {self._when(each, step)}"
            )

    def _when(self, seconds_a_step: float, step: int) -> str:
        left = (self.epochs * self.steps_per_epoch - step) * seconds_a_step
        return f"in {format_duration(left)}, at {datetime.now() + timedelta(seconds=left):%a %H:%M}"

    def validating(self, epoch: int) -> None:
        self.bar.update(self.task, place=f"scoring {epoch + 1}/{self.epochs}")

    def epoch(self, row: dict[str, Any], best: float | None) -> None:
        self.bar.update(self.task, best=format_score(best))
        validated = (
            f"val mIoU {format_score(row['val_miou'])} "
            f"(best {'' if self.monitor == 'mIoU' else f'{self.monitor} '}{format_score(best)})  "
            if row["val_miou"] is not None
            else ""
        )
        self.say(
            f"epoch {row['epoch']}/{self.epochs}  loss {format_score(row['train_loss'])}  "
            f"lr {row['lr']:.2e}  {validated}{row['images_per_second']:.1f} images/s  "
            f"{row['seconds']:.0f} s"
        )
        if not self.split:
            self.split = self.estimated = True
            names = ("data", "forward", "backward", "other")
            shares = (f"{n} {row[f'{n}_seconds'] / row['train_seconds']:.0%}" for n in names)
            each = row["seconds"] / self.steps_per_epoch
            left = row["step"] < self.epochs * self.steps_per_epoch
            ends = f"; ends {self._when(each, row['step'])}" if left else ""
            self.say(f"time of a step: {', '.join(shares)}{ends}")

    def say(self, line: str) -> None:
        if self.loud:
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)
