"""Files are written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segtrain.console import safe
from segtrain.errors import SegtrainError
from segtrain.files.locks import lock_path
from segtrain.files.tables import read_csv, save_csv
from segtrain.files.whole import save_bytes, save_text, whole_file, whole_folder


def test_writes_a_file_and_its_folders(tmp_path: Path):
    path = tmp_path / "a" / "b" / "note.txt"
    save_text(path, "grüße\n")
    assert path.read_text(encoding="utf-8") == "grüße\n"
    save_bytes(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_is_no_text_can_be_written(tmp_path: Path):
    path = tmp_path / "names.csv"
    save_csv(path, [{"image": os.fsdecode(b"a\xff.png")}])
    assert path.read_text(encoding="utf-8") == "image\na\\udcff.png\n"
    assert read_csv(path) == [{"image": os.fsdecode(b"a\xff.png")}]


# what escapes and quotes are made of
AWKWARD = st.text(
    st.sampled_from("\\xu50cU1b=+-@'\t\r\n\x1b\x85\ud800\udc80\u202e\u200d＝ä,\"\U000e0001")
)


@given(st.lists(st.lists(AWKWARD | st.text(), min_size=3, max_size=3), min_size=1), st.floats())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_are_inert_in_a_table_and_read_back_as_they_were(tmp_path: Path, rows, number: float):
    header = dict.fromkeys(rows[0])
    table = [dict(zip(header, row, strict=False)) for row in rows]
    save_csv(tmp_path / "t.csv", table)
    assert read_csv(tmp_path / "t.csv") == table
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(tuple("=+-@\t\r")) or safe(cell) != cell for cell in cells)
    save_csv(tmp_path / "t.csv", [{"n": number}])
    assert read_csv(tmp_path / "t.csv") == [{"n": str(number)}]  # -0.5 is a number


def test_a_formula_and_names_of_older_tables(tmp_path: Path):
    save_csv(tmp_path / "t.csv", [{"image": "=1+1", "iou": -0.5}, {"image": "-a", "iou": 1}])
    assert (tmp_path / "t.csv").read_text() == "image,iou\n'=1+1,-0.5\n'-a,1\n"
    (tmp_path / "t.csv").write_text("image\n'a'\n-a\n\n")  # as written before there were quotes
    assert read_csv(tmp_path / "t.csv") == [{"image": "'a'"}, {"image": "-a"}]


@pytest.mark.parametrize(
    "make", [lambda p: p.mkdir(), lambda p: os.mkfifo(p)], ids=["folder", "fifo"]
)
def test_only_files_are_replaced(tmp_path: Path, make):
    path = tmp_path / "out"
    make(path)
    with pytest.raises(SegtrainError, match="out: it exists"):
        save_text(path, "x")
    assert list(tmp_path.iterdir()) == [path] and not path.is_file()


@pytest.mark.parametrize("old", [None, "what was there"])
@pytest.mark.parametrize("error", [ValueError("in the block"), KeyboardInterrupt()], ids=repr)
def test_a_failing_block_changes_nothing(tmp_path: Path, old, error):
    path = tmp_path / "note.txt"
    if old:
        path.write_text(old)
    with pytest.raises(type(error)):
        with whole_file(path) as temporary:
            temporary.write_text("half of")
            raise error
    assert list(tmp_path.iterdir()) == ([path] if old else [])
    assert not old or path.read_text() == old


def test_the_temporary_keeps_the_suffix_and_the_folder(tmp_path: Path):
    with whole_file(tmp_path / "picture.png") as temporary:
        assert (temporary.suffix, temporary.parent) == (".png", tmp_path)
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_an_unwritable_folder_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "note.txt"
    with pytest.raises(SegtrainError, match="cannot write .*note.txt"):
        save_text(path, "text")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_folder_of_the_files_name_is_an_error_and_stays(tmp_path: Path):
    (tmp_path / "note.txt").mkdir()
    with pytest.raises(SegtrainError, match="cannot write .*note.txt"):
        save_text(tmp_path / "note.txt", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_a_table_has_the_columns_of_all_its_rows(tmp_path: Path):
    """An epoch whose observed steps were all skipped has no values of its loss."""
    save_csv(tmp_path / "t.csv", [{"epoch": 1, "lr": None}, {"epoch": 2, "lr": 0.1, "loss/ce": 3}])
    assert (tmp_path / "t.csv").read_text() == "epoch,lr,loss/ce\n1,,\n2,0.1,3\n"


OWN = {"scores", "page", "pictures"}


def write_both(folder: Path, text: str) -> None:
    with whole_folder(folder, OWN) as temporary:
        for name in ("scores", "page"):
            save_text(temporary / name, text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_folder_is_replaced_whole_and_keeps_what_is_not_its_own(tmp_path: Path):
    folder = tmp_path / "eval" / "val"
    write_both(folder, "old")
    (folder / "pictures").mkdir()
    (folder / "notes.txt").write_text("mine")
    write_both(folder, "new")
    assert contents(folder) == {"notes.txt": "mine", "page": "new", "scores": "new"}
    assert not (folder / "pictures").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["val"]


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "val").symlink_to("elsewhere")
    write_both(tmp_path / "val", "new")
    assert (tmp_path / "val").is_symlink()
    assert contents(tmp_path / "elsewhere") == {"page": "new", "scores": "new"}


def test_a_folder_that_fails_is_as_it_was(tmp_path: Path):
    write_both(tmp_path / "val", "old")
    with pytest.raises(SegtrainError, match=f"cannot write {tmp_path}/val/page"):
        with whole_folder(tmp_path / "val", OWN) as temporary:
            save_text(temporary / "scores", "new")
            (temporary / "page").mkdir()
            save_text(temporary / "page", "new")
    assert contents(tmp_path / "val") == {"page": "old", "scores": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["val"]


KILLS = """
import json, os, shutil, signal, sys
from pathlib import Path
from segtrain.files.whole import save_text, save_together, whole_folder

def write(text):
    with whole_folder(Path("val"), {"scores", "page"}) as folder:
        save_text(folder / "scores", text)
        save_text(folder / "page", text)
    save_together(Path("out"), {"json": text, "html": text})

def contents(folder):
    return {p.name: p.read_text() for p in sorted(Path(folder).glob("[!.]*"))}

def kill_at(nth):
    calls = 0
    def counting(plain):
        def call(*args, **more):
            nonlocal calls
            calls += 1
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **more)
        return call
    for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "fsync"):
        setattr(os, name, counting(getattr(os, name)))

status, nth = 1, 0
while status:
    nth += 1
    for name in ("val", "out"):
        shutil.rmtree(name, ignore_errors=True)
    write("old")
    Path("val/mine").write_text("mine")
    if not os.fork():
        kill_at(nth)
        write("new")
        os._exit(0)
    status = os.wait()[1]
    left = contents("val"), contents("out")
    write("last")
    print(json.dumps([*left, contents("val"), sorted(os.listdir("."))]))
"""


def test_a_kill_at_any_moment_leaves_all_old_or_all_new(tmp_path: Path):
    """Of a folder, and of files that belong together; the next writer repairs what is left."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) > 15
    for folder, files, repaired, names in kills:
        folder.pop("mine", None)  # is moved last
        assert folder in ({}, *({"page": text, "scores": text} for text in ("old", "new")))
        assert len(set(files.values())) <= 1
        assert repaired == {"mine": "mine", "page": "last", "scores": "last"}
        assert names == ["out", "val"]
    assert sum(not folder for folder, *_ in kills) <= 1  # between two renames


def test_what_another_process_is_writing_is_no_leftover(tmp_path: Path):
    (tmp_path / ".tmp-1-val").mkdir()
    with lock_path(tmp_path / ".tmp-1-val") as locked:
        assert locked
        write_both(tmp_path / "val", "new")
        assert (tmp_path / ".tmp-1-val").exists()
    write_both(tmp_path / "val", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["val"]
