"""A verb's imports: without the garbage collector, whose work goes on after them."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from segtrain.cli.imports import importing


def test_no_garbage_is_collected_meanwhile():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_collected_after_an_import_that_fails():
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module  # noqa: F401
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_so():
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_objects_are_taken_out_of_all_collections_only_by_an_import():
    """Else a process that calls verb after verb would keep the garbage of each."""
    code = (
        "import gc\n"
        "from segtrain.cli.imports import importing\n"
        "for _ in range(2):\n"
        "    before = gc.get_freeze_count()\n"
        "    with importing():\n"
        "        import sqlite3\n"
        "    print(gc.get_freeze_count() > before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
