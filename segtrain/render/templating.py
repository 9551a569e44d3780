"""Templates to pages; a light import, as comparing runs needs no torch."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from segtrain.console import format_duration


def page(template: str, **context: object) -> str:
    """A template of templates/ with its context, as HTML; everything in it is escaped."""
    pages = Environment(
        loader=PackageLoader("segtrain.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "figure": figure,
        "raw": raw,
        "percent": percent,
        "count": count,
        "duration": format_duration,
    }
    pages.policies["json.dumps_kwargs"] = {  # of tojson, which no text in a script element can end
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    return pages.get_template(template).render(context)


def figure(value: float | None, digits: int = 3) -> str:
    """A fraction; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def raw(value: float | None) -> str:
    """What a table sorts by."""
    return "" if value is None else repr(float(value))


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
