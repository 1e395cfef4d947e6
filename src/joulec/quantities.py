"""Quantities as users write them: ``2ms``, ``90W``, ``60mJ``, ``2m``; bare numbers are SI."""

from __future__ import annotations

import math
import re
from typing import Literal

Unit = Literal["s", "W", "J"]

_SCALES: dict[Unit, dict[str, float]] = {
    "s": {"": 1.0, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0},
    "W": {"": 1.0, "mW": 1e-3, "W": 1.0, "kW": 1e3},
    "J": {"": 1.0, "uJ": 1e-6, "µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3},
}
_NAMES: dict[Unit, str] = {"s": "a time", "W": "a power", "J": "an energy"}


class QuantityError(ValueError):
    """Text that is no quantity of the wanted unit."""


def parse_quantity(text: str, unit: Unit) -> float:
    """The quantity in SI units.

    Raises:
        QuantityError: it is no number with a known unit, or not positive and finite.
    """
    match = re.fullmatch(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµ]*)\s*", text)
    scales = _SCALES[unit]
    if match is None or match[2] not in scales:
        known = ", ".join(scale for scale in scales if scale)
        raise QuantityError(f"{text!r} is not {_NAMES[unit]}: write a number with one of {known}, or SI without a unit")
    try:
        value = float(match[1]) * scales[match[2]]
    except ValueError as error:
        raise QuantityError(f"{text!r} is not {_NAMES[unit]}: {match[1]!r} is no number") from error
    if not math.isfinite(value) or value <= 0:
        raise QuantityError(f"{text!r} is not {_NAMES[unit]}: it must be greater than zero")
    return value


def show_time(seconds: float) -> str:
    """Seconds for people, three digits."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def show_energy(joules: float) -> str:
    """Joules for people, three digits."""
    for scale, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if abs(joules) >= scale:
            return f"{joules / scale:.3g} {unit}"
    return f"{joules * 1e9:.3g} nJ"
