"""Checks of a loss's arguments, which come from a user's expression and may be anything."""

import math
from collections.abc import Sequence
from typing import Any

from segtrain.errors import UsageError, did_you_mean

LARGEST = 1e30  # products of larger ones leave float32


def number(
    name: str, value: Any, low: float, high: float = math.inf, open_low=False, open_high=False
) -> float:
    """The value as a float within low..high, ends included unless open. Raises UsageError."""
    allowed = "a number" + (
        f" {'above' if open_low else 'from'} {low:g}"
        if high == math.inf
        else f" in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    )
    if type(value) not in (int, float) or not abs(value) <= LARGEST:  # false for NaN, too
        raise UsageError(f"loss: {name} is {allowed}, got {value!r:.40}")
    if not low <= value <= high or open_low and value == low or open_high and value == high:
        raise UsageError(f"loss: {name} is {allowed}, got {value:g}")
    return float(value)


def whole_number(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    if type(value) not in (int, float) or not low <= value <= high or value % 1:
        raise UsageError(f"loss: {name} is a whole number from {low} to {high}, got {value!r:.40}")
    return int(value)


def switch(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise UsageError(f"loss: {name} is True or False, got {value!r}")
    return value


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    if value not in allowed:
        near = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise UsageError(f"loss: {name} is {' or '.join(allowed)}, got {value!r}{near}")
    return value


def numbers(name: str, value: Any, low: float) -> list[float]:
    """A non-empty list or tuple of numbers from `low`."""
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"loss: {name} is a list of numbers, got {value!r}")
    return [number(f"each of {name}", each, low) for each in value]
