"""Progress bars in a terminal, and the lines that a file gets instead."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from segtrain.config import TrainConfig
from segtrain.console import progress
from segtrain.training.progress import Reporter
from segtrain.training.state import TrainState


@pytest.fixture
def terminal(monkeypatch) -> None:
    """Make rich take every stream for a terminal."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")


def plan_of(epochs: int, **train: object) -> SimpleNamespace:
    """What a report reads of a plan of epochs of 20 steps."""
    config = SimpleNamespace(train=TrainConfig(**train))
    return SimpleNamespace(
        config=config, epochs=epochs, steps_per_epoch=20, total_steps=20 * epochs
    )


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_leaves_what_is_printed_to_its_own_stream(terminal, monkeypatch, capsys, shown: bool):
    """`segtrain predict folder > list.txt` lists files; on a screen they stand above the bar."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: shown)
    for name in progress(["a.png", "b.png"], "predicting", 2):
        print(name)
    out, err = (re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text) for text in capsys.readouterr())
    assert "predicting" in err
    assert re.findall(r"[ab]\.png\n", err if shown else out) == ["a.png\n", "b.png\n"]
    assert shown == (out == "")


def test_without_a_terminal_there_is_no_bar(capsys):
    assert list(progress("ab", "predicting", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_the_training_bar_counts_every_step():
    """Also those whose loss is not read: on a CPU ten steps can take minutes."""
    reporter = Reporter(plan_of(epochs=3), TrainState(), True)
    reporter.count_step(0, 1)
    screen = Console(file=io.StringIO(), width=150)
    screen.print(reporter.bar)
    assert "epoch 1/3" in screen.file.getvalue() and "1/60" in screen.file.getvalue()


def test_lines_stand_above_the_live_bar_unwrapped_and_safe(terminal, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    line = "step 3: skipped; files: [red]a\x1b[2J.png " + 60 * "x"
    with Reporter(plan_of(epochs=3), TrainState(), True) as reporter:
        reporter.write(line)
    assert line.replace("\x1b", "\\x1b") in capsys.readouterr().out


def test_a_class_in_the_bar_is_text_whatever_it_holds():
    plan = plan_of(epochs=3, monitor="iou:[/b]\x1b[31m:smile:")
    screen = Console(file=io.StringIO(), width=150)
    screen.print(Reporter(plan, TrainState(), True).bar)
    assert "best iou:[/b]\\x1b[31m:smile:" in screen.file.getvalue()


def test_other_ranks_report_nothing(terminal, capsys):
    with Reporter(plan_of(epochs=3), TrainState(), False) as reporter:
        reporter.write("a line")
    assert capsys.readouterr().out == ""


def test_the_last_epoch_estimates_no_end(capsys):
    row = {"epoch": 1, "train_loss": 1.0, "lr": 0.1, "val_miou": None, "images_per_second": 1.0}
    row |= {"seconds": 2.0, "train_seconds": 1.0, "step": 20}
    row |= {f"{part}_seconds": 0.25 for part in ("data", "forward", "backward", "other")}
    for epochs, estimated in ((1, False), (2, True)):
        Reporter(plan_of(epochs=epochs), TrainState(), True).end_epoch(row, None)
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith("time of a step: data 25%") and ("ends in" in line) == estimated
