"""Open choices of a config file: refused with their lines, valid once one is chosen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config.choices import END, format_choice
from segtrain.config.loading import load_config
from segtrain.errors import UsageError

READINGS = [
    ("all values are classes", {"label_map": {128: 1, 255: 2}, "classes": ["a: b", "#c", "d"]}),
    ("255 is ignored", {"label_map": {128: 1, 255: "ignore"}, "classes": ["a", "b"]}),
    ("the values are ids", {"lb_ignore": -1}),
]
OTHER = [("by colour", {"palette": [[0, 0, 0], [9, 8, 7]]}), ("none", {"exclude": ["a\nb.png"]})]


def write_file(path: Path, *choices: list) -> list[str]:
    """Write a config with these choices; return its lines."""
    text = "# a set\ndata:\n  path: set\n" + "".join(map(format_choice, choices))
    text += "# model: {mean: [1.0]}\nseed: {}\n".replace("seed: {}\n", "train:\n  seed: 3\n")
    path.write_text(text)
    return text.splitlines()


def refused(path: Path, **options) -> str:
    with pytest.raises(UsageError) as raised:
        load_config(path, **options)
    return str(raised.value)


def named_lines(message: str) -> list[range]:
    """Return the lines that a message names for each reading, counted from 0."""
    found = re.findall(r"lines? (\d+)(?:-(\d+))?", message)
    return [range(int(first) - 1, int(last or first)) for first, last in found]


@pytest.mark.parametrize("mark", ["#", "# "])
@pytest.mark.parametrize("reading", range(len(READINGS)))
def test_each_reading_is_read_once_its_lines_are_uncommented(tmp_path: Path, reading, mark):
    """Editors remove a # with the space that follows, people the # alone."""
    lines = write_file(tmp_path / "c.yaml", READINGS)
    message = refused(tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in message
    assert all(meaning in message for meaning, _ in READINGS)
    for line in named_lines(message)[reading]:
        lines[line] = re.sub(f"^( *)#{' ?' * (mark == '# ')}", r"\1", lines[line])
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    config = load_config(tmp_path / "c.yaml")
    fields = READINGS[reading][1]
    assert {key: getattr(config.data, key) for key in fields} == fields
    assert config.data.path == "set" and config.train.seed == 3


def test_every_open_choice_is_named_until_it_is_made(tmp_path: Path):
    lines = write_file(tmp_path / "c.yaml", READINGS, OTHER)
    named = named_lines(refused(tmp_path / "c.yaml"))
    assert len(named) == len(READINGS) + len(OTHER)
    for line in named[1]:
        lines[line] = lines[line].replace("#", "", 1)
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    message = refused(tmp_path / "c.yaml")
    assert named_lines(message) == named[-len(OTHER) :]
    assert "by colour" in message and "255" not in message


def test_two_readings_at_once_are_refused(tmp_path: Path):
    lines = write_file(tmp_path / "c.yaml", READINGS)
    for line in [line for lines in named_lines(refused(tmp_path / "c.yaml"))[:2] for line in lines]:
        lines[line] = lines[line].replace("#", "", 1)
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    assert "label_map" in refused(tmp_path / "c.yaml")


def test_an_option_that_is_not_given_makes_no_choice(tmp_path: Path):
    """Commands pass all their options, None for those that are left out."""
    write_file(tmp_path / "c.yaml", READINGS)
    assert "choose one" in refused(tmp_path / "c.yaml", flags={"data.lb_ignore": None})
    assert load_config(tmp_path / "c.yaml", flags={"data.lb_ignore": 7}).data.lb_ignore == 7


def test_a_choice_is_made_by_deleting_it_or_on_the_command_line(tmp_path: Path):
    lines = write_file(tmp_path / "c.yaml", READINGS)
    chosen = load_config(tmp_path / "c.yaml", sets=["data.label_map={128: 0}"])
    assert chosen.data.label_map == {128: 0}
    assert refused(tmp_path / "c.yaml", sets=["data.sampler=uniform"], flags={"data.path": "x"})
    (tmp_path / "c.yaml").write_text("\n".join(line for line in lines if "#" not in line))
    assert load_config(tmp_path / "c.yaml").data.label_map == {}


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT, min_size=1, max_size=4), TEXT)
def test_any_names_are_commented_out(names: list[str], path: str):
    text = f"data:\n  path: x\n{format_choice([('one', {'classes': names, 'path': path})])}"
    assert yaml.safe_load(text) == {"data": {"path": "x"}}
    uncommented = re.sub(r"(?m)^  #(?! )", "  ", text.replace("  path: x\n", ""))
    assert yaml.safe_load(uncommented) == {"data": {"classes": names, "path": path}}
    assert text.rstrip().endswith(END)


@pytest.mark.parametrize(
    "text",
    [
        "data:\n  cache: ram\n  cache: none\n",
        "data: {label_map: {1: 0, 2: 1, 1: 1}}\n",
        "data: {}\nmodel: {}\ndata: {cache: ram}\n",
    ],  # fmt: skip
)
def test_a_key_given_twice_is_refused(tmp_path: Path, text: str):
    """YAML's own rule; PyYAML would take the last."""
    (tmp_path / "c.yaml").write_text(text)
    message = refused(tmp_path / "c.yaml")
    assert message.startswith(str(tmp_path / "c.yaml")) and "again" in message
