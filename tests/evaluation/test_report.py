"""Parts of a report; tests/commands/test_eval.py sees the report from outside."""

from __future__ import annotations

import pytest

from segtrain.evaluation.report import group_images


@pytest.mark.parametrize(
    "pattern, groups",
    [
        (None, ["a_1.png", "a_2.png", "b_0.png"]),
        ("^._", ["a_", "a_", "b_"]),
        ("^a_(.)|^(b)", ["1", "2", "b"]),
        ("^(a)_|(.+)", ["a", "a", "b_0.png"]),
    ],
)
def test_a_group_is_what_the_pattern_finds(pattern: str | None, groups: list[str]):
    assert group_images(["a_1.png", "a_2.png", "b_0.png"], pattern) == groups
