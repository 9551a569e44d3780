"""Templates of templates/ -> pages; a light import, as comparing runs needs no torch."""

from __future__ import annotations

import json

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


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
        "duration": duration,
        "json": as_json,
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


def duration(seconds: float) -> str:
    """Such as 42.3 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
    )


def as_json(value: object) -> Markup:
    """JSON for a script element, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
