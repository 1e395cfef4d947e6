"""Where the power cap comes from: a number, a function, a file, or a trace; and what holds when that is lost."""

from __future__ import annotations

import bisect
import csv
import logging
import math
import numbers
import os
import re
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(mW|W|kW|)\s*")
_SCALE = {"": 1.0, "W": 1.0, "mW": 1e-3, "kW": 1e3}

CapSource = float | Callable[[], float] | str | os.PathLike[str]
"""Watts; a function that returns watts; a file that holds one quantity; a ``.csv`` trace ``t_s,cap_w``."""


class CapError(ValueError):
    """A power cap that cannot be read or makes no sense."""


def parse_power(text: str) -> float:
    """Watts from text such as ``150``, ``150W``, ``0.15 kW``.

    Raises:
        CapError: it is no finite power from zero on.
    """
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise CapError(f"{text.strip()[:40]!r} is not a power; write watts, e.g. 150 or 150W")
    return allowed(float(match[1]) * _SCALE[match[2]])


def checked(watts: object) -> float:
    """The cap in watts.

    Raises:
        CapError: it is not a finite number above zero.
    """
    if isinstance(watts, bool) or not isinstance(watts, numbers.Real) or not math.isfinite(watts) or watts <= 0:
        raise CapError(f"a power cap must be a finite number of watts above 0, not {watts!r}")
    return float(watts)


def allowed(watts: object) -> float:
    """A cap that may come up at run time: zero too, which nothing can keep to, so that as little as possible runs.

    Raises:
        CapError: it is not a finite number from zero on.
    """
    if type(watts) is not bool and watts == 0:
        return 0.0
    return checked(watts)


def read_trace(path: Path) -> list[tuple[float, float]]:
    """A cap trace: lines ``t_s,cap_w`` with ascending times in seconds since the start; a header is optional.

    Raises:
        CapError: a line is not two numbers, the times do not ascend, or there is no line.
        OSError: the file cannot be read.
    """
    steps: list[tuple[float, float]] = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if not row or (number == 1 and row[0].strip() == "t_s"):
                continue
            try:
                step = float(row[0]), allowed(float(row[1]))
            except (ValueError, IndexError) as error:
                raise CapError(f"{path}, line {number}: expected t_s,cap_w, found {','.join(row)!r}") from error
            if steps and step[0] <= steps[-1][0]:
                raise CapError(f"{path}, line {number}: times must ascend")
            steps.append(step)
    if not steps:
        raise CapError(f"{path} holds no line t_s,cap_w")
    return steps


class PowerCap:
    """The cap now in force. A source that is lost or turns absurd leaves the last safe cap standing, with one warning.

    Args:
        source: where the cap comes from.
        poll_s: a file is read at most this often.
        warn: receives the warning.

    Raises:
        CapError: the source gives no usable cap at the start, when there is no safe one to fall back on.
    """

    def __init__(self, source: CapSource, *, poll_s: float = 0.05, warn: Callable[[str], None] = _log.warning) -> None:
        self._warn = warn
        self._lost = False
        self._read, self._name, self._poll_s = _reader(source, poll_s)
        self._polled_s = 0.0
        try:
            self._watts = checked(self._read(0.0))
        except Exception as error:
            raise CapError(f"cannot get a power cap from {self._name}: {error}") from error

    @property
    def watts(self) -> float:
        """The cap as last read."""
        return self._watts

    def current(self, t_s: float) -> float:
        """Watts in force at a time in seconds since the start."""
        if self._poll_s and t_s - self._polled_s < self._poll_s:
            return self._watts
        self._polled_s = t_s
        try:
            self._watts = allowed(self._read(t_s))
            self._lost = False
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything
            if not self._lost:
                self._warn(f"the power cap from {self._name} is lost ({error}); {self._watts:g} W stays in force")
            self._lost = True
        return self._watts

    def set(self, watts: float) -> None:
        """Replace the source by a number.

        Raises:
            CapError: it is not a finite number above zero.
        """
        value = checked(watts)
        self._read, self._name, self._poll_s = _reader(value, 0.0)
        self._watts = value


def _reader(source: CapSource, poll_s: float) -> tuple[Callable[[float], float], str, float]:
    """How to read a source at a time, its name, and how often at most."""
    if callable(source):
        function = source
        return (lambda t_s: function()), f"the function {getattr(source, '__name__', source)}", 0.0
    if not isinstance(source, str | os.PathLike):
        value = source
        return (lambda t_s: value), "the value given", 0.0
    path = Path(source)
    if path.suffix != ".csv":
        return (lambda t_s: parse_power(path.read_text())), str(path), poll_s
    try:
        steps = read_trace(path)
    except OSError as error:
        raise CapError(f"cannot get a power cap from {path}: {error.strerror or error}") from error
    times = [step[0] for step in steps]
    return (lambda t_s: steps[max(bisect.bisect_right(times, t_s) - 1, 0)][1]), str(path), 0.0
