"""Locks between processes, by the system's own and by the files that stand in for them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from segtrain.files import locks
from segtrain.files.locks import lock_path

# argv: how the lock is made, path, and "shared" or ""; says so once it has the lock, and keeps it
HOLDER = """
import sys, time
from pathlib import Path
from segtrain.files import locks
locks.BY_SYSTEM = sys.argv[1] == "system"
with locks.lock_path(Path(sys.argv[2]), wait=True, shared=bool(sys.argv[3])) as locked:
    print(locked, flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["system", "files"])
def way(request, tmp_path: Path, monkeypatch) -> str:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(locks, "BY_SYSTEM", request.param == "system")
    return request.param


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a run").mkdir()
    return tmp_path / "a run"


def hold(way: str, place: Path, shared: str = "") -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, way, place, shared], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    return process


def test_another_process_finds_it_locked_until_it_is_killed(way: str, place: Path):
    with hold(way, place) as holder:
        for shared in (False, True):
            with lock_path(place, shared=shared) as locked:
                assert locked is False
        with lock_path(place.parent) as locked:
            assert locked is True
        holder.kill()
        with lock_path(place, wait=True) as locked:
            assert locked is True
    assert list(place.iterdir()) == []


def test_shared_ones_keep_out_only_the_others(way: str, place: Path):
    with hold(way, place, "shared") as holder:
        with lock_path(place, shared=True) as locked:
            assert locked is True
        with lock_path(place) as locked:
            assert locked is False
        holder.kill()


def test_one_process_has_it_once(way: str, place: Path):
    for _ in range(2):
        with lock_path(place) as locked:
            assert locked is True
            with lock_path(place) as second:
                assert second is False


def test_a_file_is_locked_as_a_folder_is(way: str, place: Path):
    (place / "image.tif").touch()
    with hold(way, place / "image.tif") as holder:
        with lock_path(place / "image.tif") as locked:
            assert locked is False
        holder.kill()


def test_what_is_missing_has_no_lock(way: str, place: Path):
    with lock_path(place / "none", wait=True) as locked:
        assert locked is None
    assert list(place.iterdir()) == []
