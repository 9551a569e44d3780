"""YAML: what it would read in silence, or fill the memory with, is refused in one line."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config.loading import load_config
from segtrain.config.yaml_text import dump_yaml, parse_yaml
from segtrain.errors import UsageError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
)
CHAIN = "a0: &a0 []\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))


def refusal(text: str) -> str:
    began = time.process_time()
    with pytest.raises(UsageError) as raised:
        parse_yaml(text, "run.yaml")
    assert time.process_time() - began < 5
    message = str(raised.value)
    assert message.startswith("run.yaml: ") and "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize(
    "text",
    ["train: " + "[" * 10_000, "{a: " * 10_000, "- " * 10_000, "? " * 10_000, CHAIN,
     "".join(" " * depth + "a:\n" for depth in range(200))],
    ids=["brackets", "braces", "dashes", "questions", "chain", "blocks"],
)  # fmt: skip
def test_nesting_is_bounded(text: str):
    assert "more than 50 levels" in refusal(text)


@pytest.mark.parametrize("text", [LAUGHS, MERGES], ids=["laughs", "merges"])
def test_aliases_count_as_what_they_stand_for(text: str):
    assert "1,000,000 values" in refusal(text)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}"])
def test_an_alias_within_itself_is_refused(text: str):
    assert "alias" in refusal(text)


@pytest.mark.parametrize(
    "text",
    ["train: {}\ndata: {}\ntrain: {}", "train: {}\n'train': {}", "data: {a: {1: 0, 0x1: 1}}",
     "a: {1: 0, true: 1}", "a: {1: 0, 1.0: 0}", "- a: [{b: 1, b: 2}]", "{a: 1, a: 1}",
     "b: &b {c: 1}\na: {<<: *b, <<: *b}", "a: {~: 1, null: 2}", "a: {? x : 1, x: 2}"],
)  # fmt: skip
def test_a_key_given_twice_is_refused_wherever_it_stands(text: str):
    assert "again" in refusal(text)


def test_a_merged_key_is_given_once():
    text = "b: &b {c: 1, d: 2}\na: {<<: *b, c: 3}\ne: {<<: *b}"
    parsed = parse_yaml(text, "")
    assert parsed["a"] == {"c": 3, "d": 2} and parsed["e"] == {"c": 1, "d": 2}


@pytest.mark.parametrize(
    "number", ["010", "-0_7", "1:30", "1:30.5", "0x" + "f" * 20_000, "1" * 5000]
)
def test_numbers_that_hardly_anyone_means_are_refused(number: str):
    assert number[:20] in refusal(f"train: {{epochs: {number}}}")


@pytest.mark.parametrize(
    "text, value",
    [("2026-11-28", "2026-11-28"), ("2026-99-99", "2026-99-99"), ("08", "08"), ("0", 0),
     ("1_000", 1000), ("0x1f", 31), ("-3", -3), ("0.5", 0.5), ("1e-3", "1e-3"), ("'010'", "010")],
)  # fmt: skip
def test_plain_values(text: str, value: object):
    assert parse_yaml(text, "") == value


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system [ls]", "!!set {a, b}", "!!omap [a: 1]", "!!binary aGk=",
     "!!timestamp 2026-01-01", "!foo x", "a: \x00", "a: b\n---\nc: d", "[1]: 2", "\ta: 1", "="],
)  # fmt: skip
def test_other_things_of_yaml_are_refused(text: str):
    assert "not YAML" in refusal(text)


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("[]{}:,-&*!<>|'\"%@#?\n\t 01ax=~\ufeff\x85.")))
def test_any_text_is_values_or_one_line(text: str):
    try:
        values = parse_yaml(text, "--set x")
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert parse_yaml(dump_yaml(values), "") == values or values != values


def test_files_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("utf16.yaml").write_bytes("train: {epochs: 3}".encode("utf-16"))
    Path("long.yaml").write_text("#" * 5_000_000)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.yaml")
        for name in ("utf16.yaml", "long.yaml", "socket.yaml", ".", "/dev/zero", "x" * 300, "a\0b"):
            with pytest.raises(UsageError) as raised:
                load_config(Path(name))
            assert str(raised.value).startswith(name) and "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("train: {epochs: 3}", encoding="utf-8-sig")
    assert load_config(tmp_path / "run.yaml").train.epochs == 3
    assert load_config(Path("/dev/null")).train.epochs == 50
