"""Fonts for names of any script: which of this machine's has their characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

from PIL import ImageFont, features

from segtrain.console import Note, escape_character, safe, show_names
from segtrain.errors import cut_middle, shorten

DEFAULT = "DejaVuSans.ttf"  # comes with matplotlib
LONGEST_LABEL = 40  # columns of a class name in a picture


@cache
def find_font(text: str) -> str | None:
    """Return the file of a font with all characters of a text, None where there is none."""
    needed = {ord(c) for c in text if not c.isspace() and unicodedata.category(c) != "Cf"}
    needed -= set(range(0xFE00, 0xFE10))  # variation selectors
    if any(map(_needs_shaping, text)) and not _can_shape():
        return None
    return next((file for file in _font_files() if needed <= _characters(file)), None)


def _needs_shaping(character: str) -> bool:
    """Return whether letters join, move or run from right to left, as in Arabic and Hindi."""
    kind = unicodedata.bidirectional(character), unicodedata.category(character)
    return kind[0] in ("R", "AL", "AN") or kind[1] in ("Mn", "Mc")


@cache
def _can_shape() -> bool:
    """Return whether Pillow and matplotlib both place letters by the rules of their script."""
    import matplotlib

    return bool(features.check("raqm")) and matplotlib.__version_info__ >= (3, 11)


@cache
def _font_files() -> list[str]:
    """Return the files of upright fonts, matplotlib's own and others of ordinary weight first."""
    # imported here: it takes half a second, and most names are ASCII
    from matplotlib import font_manager, get_data_path

    own = f"{get_data_path()}/fonts/ttf/{DEFAULT}"
    fonts = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and "Last Resort" not in font.name  # a box for any character
    ]
    fonts.sort(key=lambda font: (font.weight != 400, "Sans" not in font.name, font.fname))
    return list(dict.fromkeys([own, *(font.fname for font in fonts)]))


@cache
def _characters(file: str) -> frozenset[int]:
    """Return the code points that a font has outlines for; none where it can't be read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def label_classes(names: Sequence[str]) -> list[str]:
    """Return the classes' names as pictures show them; a class id where no font has a name."""
    return [
        text if _can_draw(text) else f"class {class_id} (no font)"
        for class_id, text in enumerate(show_names(names, LONGEST_LABEL))
    ]


def explain_missing_fonts(names: Sequence[str]) -> tuple[Note, ...]:
    """Return a note on the classes that pictures show by their ids."""
    missing = [
        f"{name} (class {class_id})"
        for class_id, name in enumerate(show_names(names, LONGEST_LABEL))
        if not _can_draw(name)
    ]
    if not missing:
        return ()
    text = f"no font here has the characters of {shorten(missing)}: pictures show the class ids; "
    return (Note(f"{text}install a font that has them, such as one of Noto's", "note"),)


def _can_draw(text: str) -> bool:
    return text.isascii() or find_font(text) is not None


def make_drawable(text: str) -> tuple[str, str]:
    r"""Return a line safe for a picture, and the font file that has all its characters.

    Characters that no font here has are written as \uNNNN.
    """
    text = safe(text)
    if find_font(text) is None:
        text = "".join(c if find_font(c) else escape_character(c) for c in text)
    if find_font(text) is None:  # several fonts have them together
        text = "".join(c if c.isascii() else escape_character(c) for c in text)
    return text, find_font(text) or _font_files()[0]


def fit_text(
    text: str, size: int, width: int | None = None
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return a line for a picture and its font; without its middle where wider than `width`."""
    text, font = safe(text), ImageFont.load_default(size)
    if not text.isascii():
        text, file = make_drawable(text)
        font = ImageFont.truetype(file, size)
    return cut_middle(text, width, font.getlength) if width else text, font
