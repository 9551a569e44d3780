"""Output stays inert and readable, whatever is in a name and wherever it goes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.table import Table

from segtrain import console
from segtrain.console import (
    Note,
    progress,
    safe,
    show_names,
    write,
    write_json,
    write_notes,
    write_rows,
    write_table,
)
from segtrain.errors import SegtrainError

# a name, and the text that a terminal gets for it
NAMES = {
    "a\nb": r"a\x0ab",
    "\x1b[31mred": r"\x1b[31mred",
    "next\x85line": r"next\x85line",
    os.fsdecode(b"caf\xe9"): r"caf\xe9",
    "\ud834 alone": r"\ud834 alone",
    "line\u2028separator": r"line\u2028separator",
    "txt\u202egnp": r"txt\u202egnp",
    "road\u200b\u200d": r"road\u200b\u200d",
    "\u3164": r"\u3164",
    "tag\U000e0041": r"tag\U000e0041",
    "می\u200cخواهم 👩\u200d🚒 ❤\ufe0f": "می\u200cخواهم 👩\u200d🚒 ❤\ufe0f",
    "[bold]no[/bold]": "[bold]no[/bold]",
    "[/]": "[/]",
    ":smile:": ":smile:",
    "größe 大きさ": "größe 大きさ",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_inert_in_lines_tables_and_json(name: str, capsys):
    expected = NAMES[name]
    assert safe(name) == expected
    write(name)
    assert capsys.readouterr().out == f"{expected}\n"
    write_notes([Note(name, "note")], stderr=True)
    assert capsys.readouterr().err == f"note: {expected}\n"
    table = Table(name)
    table.add_row(name)
    write_table(table)
    assert capsys.readouterr().out.count(expected) == 2
    write_json({name: [name]})
    printed = capsys.readouterr().out
    assert safe(printed.replace("\n", "")) == printed.replace("\n", "")
    assert json.loads(printed) == {name: [name]}


@given(st.lists(st.text("ab…#1 \u3042\u0301\x1b", max_size=60), unique=True), st.integers(12, 40))
@settings(max_examples=200)
def test_no_two_names_look_the_same_and_none_is_too_wide(names: list[str], limit: int):
    shown = show_names(names, limit)
    assert len(set(shown)) == len(names)
    for name, text in zip(names, shown, strict=True):
        assert text.strip() and safe(text) == text and cell_len(text) <= limit
        if name.strip() and cell_len(safe(name)) <= limit:
            assert text.startswith(safe(name)[: limit - 6])
    assert show_names(["x" * 90, "道路", "x" * 89 + "y"], 20)[1] == "道路"


@given(
    st.lists(st.sampled_from(["road", "道路" * 9, "a name of many words", "x" * 50]), min_size=1),
    st.integers(20, 100),
    st.integers(1, 2),
)
@settings(max_examples=60)
def test_a_narrow_table_loses_columns_and_no_digits(names: list[str], width: int, gap: int):
    columns = ["class", "IoU", "95 % interval", "Dice", "share"]
    rows = [[name, f"0.{i:03}", f"0.{i:03}-0.9", "0.5", "0.25"] for i, name in enumerate(names)]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        patch.setenv("COLUMNS", str(width))
        write_rows(columns, rows, drop=(4, 3, 2), gap=gap)
    lines = printed.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    left_out = [name for name in columns if name not in lines[0]]
    assert left_out == [c for c in columns[2:] if c in left_out] and "IoU" in lines[0]
    assert left_out == columns[5 - len(left_out) :]  # the least important ones go first
    text = " ".join("\n".join(lines).split())
    assert all(row[1 + k] in text for row in rows for k in range(4 - len(left_out)))
    assert bool(left_out) == ("--json" in text and all(name in text for name in left_out))
    if width >= 58:
        assert not left_out


def test_a_warning_is_framed(capsys):
    write_notes([Note("plain"), Note("take care", "warning")])
    frame = "=" * 80
    assert capsys.readouterr().out.splitlines() == ["plain", frame, "warning: take care", frame]


def test_json_refuses_nan(capsys):
    with pytest.raises(ValueError):
        write_json(float("nan"))
    assert capsys.readouterr().out == ""


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["[/]", ":smile:", "a\x1b[2Jb"])
def test_the_label_of_a_progress_bar_is_inert(name: str, monkeypatch):
    """Names of splits are labels; a wrong tag in one must not end the run."""
    shown = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress([1, 2], name, 2)) == [1, 2]
    assert safe(name) in shown.getvalue() and "\x1b[2J" not in shown.getvalue()


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_need_a_terminal_without_no_color(no_color: bool, monkeypatch):
    table = Table("class")
    table.add_row("road", style="red")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    for stream, coloured in ((FakeTerminal(), not no_color), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stdout", stream)
        write_table(table)
        assert ("\x1b[31m" in stream.getvalue()) is coloured


SCRIPT = """
from rich.table import Table
from segtrain.console import accept_any_text, progress, write, write_json, write_table
accept_any_text()
table = Table("größe")
table.add_row("\\udce9")
write("größe\\udce9")
write_table(table)
write_json({"größe": "\\udce9"})
list(progress([1], "größe", 1))
"""


def run(script: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess:
    words = ["bash", "-c", f'"$0" -c "$1" {shell}', sys.executable, script]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)


def test_stdout_that_is_not_utf_8(tmp_path: Path):
    done = run(SCRIPT, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    line, rest = done.stdout.split("\n", 1)
    assert line == r"gr\xf6\xdfe\xe9"
    assert json.loads(rest[rest.index("{") :]) == {"größe": "\udce9"}
    assert r"gr\xf6\xdfe" in rest


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_stop_no_command(closed: str):
    done = run(SCRIPT, closed)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [["--version"], ["--help"], ["fit", "--help"], []], ids=str)
def test_a_full_disk_is_one_line(options: list[str]):
    done = run(f"from segtrain.cli.app import app; app({options})", "> /dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to stdout: No space left on device\n"


def test_warnings_and_logs_of_libraries_are_inert(monkeypatch, capsys):
    script = """
import logging, warnings
from segtrain.console import accept_any_text
accept_any_text()
warnings.warn("a\\x1b[31m\\nb" + "c" * 9999)
logging.getLogger("lib").warning("d\\x1b[31m %s", "\\u202e")
"""
    done = run(script)
    warning, logged = done.stderr.splitlines()
    assert warning.startswith(r"warning: a\x1b[31m bccc") and len(warning) < 1100
    assert logged == r"d\x1b[31m \u202e"


def test_a_name_in_an_error_is_inert(cli):
    answer = cli("predict", "a\x1b[31m\x85[bold].png", "--debug")
    assert answer.code == 2
    assert r"a\x1b[31m\x85[bold].png: no such file" in answer.stderr.splitlines()[-1]
    assert "\x1b" not in answer.stderr and "\x85" not in answer.stderr


def test_a_failure_to_print_is_a_segtrain_error(monkeypatch):
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    for call in (write, lambda: write_table("text"), lambda: console.write_json({})):
        with pytest.raises(SegtrainError, match="cannot write to stdout: No space left on device"):
            call()
