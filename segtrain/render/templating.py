"""Pages from templates. Imports no torch: `segtrain compare` does without it."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from segtrain.console import format_duration, safe

LONGEST_NAME = 120  # columns of a class name on a page


def render_page(template: str, **context: object) -> str:
    r"""Return a template of templates/ as HTML; everything in the context is escaped.

    Names keep their script; control characters are written as \xNN, as in a terminal.
    """
    environment = Environment(
        loader=PackageLoader("segtrain.render"),
        autoescape=True,
        finalize=make_visible,
        undefined=StrictUndefined,  # a name that is missing is an error, no empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "lines": format_lines,
        "figure": format_figure,
        "raw": format_raw,
        "percent": format_percent,
        "count": format_count,
        "duration": format_duration,
    }
    environment.policies["json.dumps_kwargs"] = {  # of tojson, which also escapes "</script>"
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    return environment.get_template(template).render(context)


def make_visible(value: object) -> object:
    """Return a text safe as in a terminal; anything else, and HTML of our own, as it is."""
    return safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def format_lines(text: str) -> Markup:
    """Return a text of several lines, each safe, as HTML."""
    return Markup("\n").join(map(safe, text.split("\n")))


def format_figure(value: float | None, digits: int = 3) -> str:
    """Return a fraction; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_raw(value: float | None) -> str:
    """Return the text by which a table sorts the value."""
    return "" if value is None else repr(float(value))


def format_percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent; a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def format_count(value: int | None) -> str:
    """Return an integer in groups of three digits; a dash where it is undefined."""
    return "–" if value is None else f"{value:,}"
