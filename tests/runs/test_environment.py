"""The record of a run's starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segtrain.errors import SegtrainError
from segtrain.runs.environment import record_start


def test_a_resume_is_appended_to_the_first_start(tmp_path: Path):
    file = tmp_path / "environment.json"
    for number in range(3):
        record_start(file, {"start": number})
    resumed = [{"start": 1}, {"start": 2}]
    assert json.loads(file.read_text()) == {"start": 0, "resumed": resumed}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b"3", b'{"resumed": 5}', b"[" * 100_000]
)
def test_a_damaged_record_is_refused_in_one_line_and_kept(tmp_path: Path, content: bytes):
    file = tmp_path / "environment.json"
    file.write_bytes(content)
    with pytest.raises(SegtrainError, match="environment.json: damaged.*remove it") as error:
        record_start(file, {"start": 1})
    assert "\n" not in str(error.value) and file.read_bytes() == content
