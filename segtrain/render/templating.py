"""Pages from templates. Imports no torch: `segtrain compare` does without it."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from segtrain.console import format_duration


def render_page(template: str, **context: object) -> str:
    """Return a template of templates/ as HTML; everything in the context is escaped."""
    environment = Environment(
        loader=PackageLoader("segtrain.render"),
        autoescape=True,
        undefined=StrictUndefined,  # a name that is missing is an error, no empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
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
