"""Ctrl-C at any moment: one line and exit code 130, never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from conftest import Answer

from segtrain.cli.interrupts import working

RUN = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == PLACE:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module("segtrain", run_name="__main__", alter_sys=True)
"""


def run_until(place: str, *args: str, more: str = "") -> Answer:
    """Run segtrain in a process that gets SIGINT as it imports a module."""
    code = f"PLACE = {place!r}\n{more}{RUN}"
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "place, args",
    [
        ("segtrain.cli.app", ["--version"]),
        ("pydantic_core", ["fit", "--help"]),
        ("segtrain.commands.requests", ["fit"]),
        ("numpy", ["check", "demo"]),
        ("torch", ["fit", "--data", "."]),
    ],
)
def test_ctrl_c_in_an_import_is_one_line_and_130(place: str, args: list[str]):
    answer = run_until(place, *args)
    assert (answer.code, answer.stdout, answer.stderr) == (130, "", "error: interrupted\n")


def test_ctrl_c_after_the_verb_is_one_line_and_130():
    """Python waits for threads and runs exit handlers."""
    at_exit = "import atexit; atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    answer = run_until("", "losses", more=at_exit)
    assert (answer.code, answer.stderr) == (130, "error: interrupted\n")


def test_an_ignored_ctrl_c_stays_ignored():
    """As under nohup."""
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    answer = run_until("pydantic_core", "--version", more=ignore)
    assert (answer.code, answer.stderr) == (0, "")


@pytest.mark.parametrize("error", [ImportError("numpy"), SystemError("a result with an exception")])
def test_another_error_that_a_library_raises_for_ctrl_c_is_one_line_and_130(
    cli, monkeypatch, error: Exception
):
    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise error from interrupt

    monkeypatch.setattr("segtrain.commands.losses.show_losses", interrupted)
    before = signal.getsignal(signal.SIGINT)
    answer = cli("losses")
    assert (answer.code, answer.stderr) == (130, "error: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_errors_that_cause_each_other_end():
    first, second = OSError("full"), OSError("thread")
    first.__context__, second.__context__ = second, first
    with pytest.raises(OSError, match="full"), working():
        raise first
