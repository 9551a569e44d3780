"""Names of any script in pictures: drawn by a font that has them, or their class ids."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from segtrain.render import fonts
from segtrain.render.fonts import explain_missing_fonts, find_font, fit_text, label_classes
from segtrain.render.overlay import add_legend, draw_contact_sheet, draw_panels
from segtrain.render.plots import draw_training_charts, save_confusion

ROAD, RIVER = "道路", "江"
NAMES = [
    "road",
    ROAD,
    RIVER,
    "سيارة",
    "$\\frac$",
    "_a",
    "a\nb",
    "\ud800",
    "",
    "x" * 999,
    "x" * 998 + "y",
]


@pytest.fixture(autouse=True)
def no_other_fonts(monkeypatch) -> Iterator[None]:
    """Leave only matplotlib's own font, which has no Chinese characters."""
    fonts.find_font.cache_clear()
    own = fonts._font_files()[:1]
    monkeypatch.setattr(fonts, "_font_files", lambda: own)
    yield
    fonts.find_font.cache_clear()


@pytest.fixture
def font_of_road(tmp_path: Path, no_other_fonts: None, monkeypatch) -> str:
    """A font whose characters are squares."""
    pen = TTGlyphPen(None)
    for point in [(0, 0), (0, 800), (800, 800), (800, 0)]:
        (pen.lineTo if pen.points else pen.moveTo)(point)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", "one", "two"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, ROAD), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    files = [*fonts._font_files(), str(tmp_path / "missing.ttf"), str(tmp_path / "squares.ttf")]
    monkeypatch.setattr(fonts, "_font_files", lambda: files)
    return files[-1]


def test_a_class_that_no_font_has_is_its_id_and_named():
    labels = label_classes(NAMES)
    assert labels[:3] == ["road", "class 1 (no font)", "class 2 (no font)"]
    assert len(set(labels)) == len(NAMES) and labels[6:9] == [r"a\x0ab", r"\ud800", "class 8"]
    (note,) = explain_missing_fonts(NAMES)
    assert f"{ROAD} (class 1), {RIVER} (class 2)" in str(note)
    assert explain_missing_fonts(["road", "größe", "дорога"]) == ()
    assert fit_text(f"{ROAD}/a.png", 12)[0] == r"\u9053\u8def/a.png"


def test_a_font_of_the_machine_is_found(font_of_road: str):
    assert find_font(ROAD) == font_of_road and find_font(RIVER) is None
    assert label_classes([ROAD, RIVER]) == [ROAD, "class 1 (no font)"]
    assert fit_text(f"{ROAD} a", 12)[0] == r"\u9053\u8def a"  # no font has both
    plain = add_legend(Image.new("RGB", (80, 9)), ["road"], [(255, 255, 255)])
    drawn = add_legend(Image.new("RGB", (80, 9)), [ROAD], [(255, 255, 255)])
    dark = [(np.asarray(page)[9:].max(2) < 60).sum() for page in (plain, drawn)]
    assert dark[1] > 2 * dark[0]  # its squares


def test_scripts_that_need_shaping_need_a_library_that_can(monkeypatch):
    assert find_font("سيارة") and find_font("e\u0301")
    fonts.find_font.cache_clear()
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    assert find_font("سيارة") is None and label_classes(["שמיים"]) == ["class 0 (no font)"]


def test_no_name_draws_a_warning_or_an_error(tmp_path: Path, font_of_road: str):
    matrix = torch.eye(len(NAMES), dtype=torch.int64)
    grey, colours = Image.new("RGB", (30, 20)), [(i, i, i) for i in range(len(NAMES))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_confusion(tmp_path / "c.png", matrix, NAMES, f"mIoU of {ROAD} {RIVER} $x$")
        page = add_legend(grey, NAMES, colours)
        draw_contact_sheet([(name, grey) for name in NAMES])
        draw_panels({"image": grey}, ROAD * 99)
        row = {"epoch": 1, "train_loss": 1} | {f"loss/{n}/value": 1 for n in ("$", "_x", RIVER)}
        (chart, *_) = draw_training_charts([row])
    assert page.width < 600  # names of any length
    assert "_x (weighted)" in chart.svg and "$ (weighted)" in chart.svg
