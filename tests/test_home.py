"""Without a home folder, an entry in passwd or a place to write, all works but caching."""

from __future__ import annotations

import ntpath
import os
import stat
import tempfile
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from conftest import write_pairs

from segtrain.data.layouts.locate import demo_folder
from segtrain.errors import UsageError
from segtrain.files import places
from segtrain.files.places import (
    cache_folder,
    common_folder,
    provide_home,
    relative_path,
    resolve_path,
    temporary_home,
)


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Take away home, cache and entry in passwd; temporary files go to tmp_path/tmp."""

    def no_entry(uid: int):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("HOME", "SEGTRAIN_CACHE", "USER", "MPLCONFIGDIR", "TRITON_CACHE_DIR"):
        # also unset again what provide_home sets
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    places._private_folder.cache_clear()
    yield tmp_path / "tmp"
    if places._private_folder.cache_info().currsize:
        places._private_folder().cleanup()
    places._private_folder.cache_clear()


def test_libraries_find_a_home_and_a_user(homeless: Path):
    provide_home()
    home = Path.home()
    assert home.parent == homeless and stat.S_IMODE(home.stat().st_mode) == 0o700
    assert os.environ["USER"] and cache_folder() == home / ".cache/segtrain"


@pytest.mark.parametrize("home", ["/nonexistent", "/dev/null", "/proc"])
def test_a_home_that_is_none(homeless: Path, monkeypatch, home: str):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(places.os, "access", lambda path, mode: not str(path).startswith("/proc"))
    provide_home()
    assert str(homeless) in str(cache_folder())
    place = "MPLCONFIGDIR" if home == "/proc" else "HOME"  # what is in a home to read stays found
    assert os.environ[place].startswith(str(homeless))


def test_a_home_and_a_cache_that_can_be_used_stay(homeless: Path, monkeypatch, tmp_path: Path):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = dict(os.environ)
    provide_home()
    assert {k: v for k, v in os.environ.items() if before.get(k) != v}.keys() <= {"USER"}
    assert cache_folder() == tmp_path / "home/.cache/segtrain"
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert list(homeless.iterdir()) == []


@pytest.mark.parametrize("trap", ["link", "file", "open to all", "another user's"])
def test_a_folder_that_others_can_write_is_not_taken(homeless: Path, monkeypatch, trap: str):
    folder = homeless / f"segtrain-{os.getuid()}"
    if trap == "link":
        (homeless / "theirs").mkdir(mode=0o700)
        folder.symlink_to(homeless / "theirs")
    elif trap == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777 if trap == "open to all" else 0o700)
    if trap == "another user's":
        uid = os.getuid()
        monkeypatch.setattr(places.os, "getuid", lambda: uid + 1)
        folder.rename(homeless / f"segtrain-{uid + 1}")
    taken = temporary_home()
    assert taken.parent == homeless and taken.name.startswith("segtrain-")
    assert taken != folder and taken == temporary_home()
    assert stat.S_IMODE(taken.stat().st_mode) == 0o700


def test_the_demo_where_the_cache_cannot_be_written(homeless: Path, monkeypatch):
    monkeypatch.setenv("SEGTRAIN_CACHE", "/dev/null/own")
    assert homeless in demo_folder().parents


def test_check_and_the_demo_without_any_place(homeless: Path, monkeypatch, cli, tmp_path: Path):
    def no_place() -> str:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_place)
    assert cli("check", write_pairs(tmp_path / "set")).code == 0
    answer = cli("check", "demo")
    assert answer.code == 1 and "SEGTRAIN_CACHE" in answer.error


@pytest.mark.parametrize("text", ["~nobody-of-this-name/set", "ring", "a\0b", "x" * 300])
def test_paths_that_cannot_be(homeless: Path, monkeypatch, tmp_path: Path, cli, text: str):
    (tmp_path / "ring").symlink_to("ring")
    monkeypatch.chdir(tmp_path)
    try:
        resolve_path(text)
    except UsageError as error:
        assert text in str(error)
    answer = cli("check", text)
    assert answer.code in (1, 2) and text[:50].split("\0")[0] in answer.error


@pytest.mark.parametrize(
    "path, start, name",
    [
        ("C:\\data\\images\\a b.png", "C:\\data", "images/a b.png"),
        ("c:/data/images/a.png", "C:\\DATA\\images", "a.png"),
        ("C:\\data\\a.png", "C:\\data\\images", "../a.png"),
        ("D:\\a.png", "C:\\data", "D:/a.png"),
        ("\\\\server\\share\\a.png", "C:\\data", "//server/share/a.png"),
    ],
)
def test_paths_of_windows_are_named_as_everywhere(path: str, start: str, name: str, monkeypatch):
    windows = SimpleNamespace(path=ntpath, sep="\\", fspath=os.fspath)
    monkeypatch.setattr(places, "os", windows)
    assert places.relative_path(path, start) == name


def test_a_path_is_relative_as_the_system_has_it():
    assert relative_path("/data/images/a\\b.png", "/data") == "images/a\\b.png"
    assert relative_path(Path("/data/a.png"), Path("/data/b")) == "../a.png"
    assert common_folder(iter([Path("/a/b/c"), Path("/a/b/d")])) == Path("/a/b")


def test_paths_of_several_drives_have_no_common_folder(monkeypatch):
    windows = SimpleNamespace(path=ntpath)
    monkeypatch.setattr(places, "os", windows)
    found = [PureWindowsPath("C:\\data\\a"), PureWindowsPath("D:\\data\\a")]
    monkeypatch.setattr(places, "Path", PureWindowsPath)
    assert places.common_folder(found) == found[0]
    assert places.common_folder([found[0], found[0].with_name("b")]) == found[0].parent
