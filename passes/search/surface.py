"""Objectives as surfaces over (time, energy): their least value on a segment, and which direction is surely better.

All surfaces here never fall when energy grows and time stays, so that over a convex set of points they are least on its
lower hull: that is what makes the hull of all sums a relaxation of the inner search.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.passes.search.objective import Objective
from joulec.passes.search.totals import Bounds, GraphFigures, Totals

Floats = npt.NDArray[np.float64]
Direction = tuple[float, float]
"""Weights of seconds and joules."""

_PIECES = 16


@dataclass(frozen=True)
class Box:
    """A range of (time, energy): lowest and highest seconds, lowest and highest joules."""

    time_low_s: float
    time_high_s: float
    energy_low_j: float
    energy_high_j: float


class Surface(Protocol):
    """An objective as the relaxation sees it."""

    def value(self, time_s: Any, energy_j: Any) -> Any:
        """The objective at points."""

    def least(self, t0: Floats, e0: Floats, t1: Floats, e1: Floats) -> Floats:
        """A lower bound of the objective on each segment from (t0, e0) to (t1, e1), where t0 <= t1."""

    def energy_below(self, value: float, time_low_s: float, time_high_s: float) -> float:
        """Joules above which no point of these times lies below the value; infinite where not known."""

    def directions(self, box: Box) -> tuple[Direction, ...]:
        """Every gradient in the box is a non-negative combination of these."""


@dataclass(frozen=True)
class Mix:
    """a·time + b·energy + p·power + c with b, p ≥ 0."""

    time: float
    energy: float
    power: float
    constant: float = 0.0

    def value(self, time_s: Any, energy_j: Any) -> Any:
        """The mix at points."""
        total = self.time * time_s + self.energy * energy_j + self.constant
        return total + self.power * (energy_j / time_s) if self.power else total

    def least(self, t0: Floats, e0: Floats, t1: Floats, e1: Floats) -> Floats:
        """Exactly: at an end, or where the derivative along the segment is zero.

        On energy = s·time + q the mix is (a + b·s)·time + p·q/time + constant, stationary at √(p·q / (a + b·s)).
        """
        least: Floats = np.minimum(self.value(t0, e0), self.value(t1, e1))
        if not self.power:
            return least
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (e1 - e0) / (t1 - t0)
            turn = np.sqrt(self.power * (e0 - slope * t0) / (self.time + self.energy * slope))
            inside = (turn > t0) & (turn < t1)
            at_turn = self.value(turn, e0 + slope * (turn - t0))
        best: Floats = np.where(inside, np.minimum(least, at_turn), least)
        return best

    def energy_below(self, value: float, time_low_s: float, time_high_s: float) -> float:
        """From energy·(b + p/time) ≤ value - c - a·time."""
        room = value - self.constant - min(self.time * time_low_s, self.time * time_high_s)
        weight = self.energy + self.power / time_high_s if self.power else self.energy
        return room / weight if weight > 0 and room > 0 else math.inf

    def directions(self, box: Box) -> tuple[Direction, ...]:
        """The steepest and the flattest ratio of the derivatives by time and by energy."""
        if not self.power:
            return ((self.time, self.energy),) if self.time or self.energy else ()

        def by_time(time_s: float) -> float:
            return self.time * time_s / (self.energy * time_s + self.power)

        def by_power(time_s: float, energy_j: float) -> float:
            return self.power * energy_j / (time_s * (self.energy * time_s + self.power))

        low, high = sorted((by_time(box.time_low_s), by_time(box.time_high_s)))
        return (
            (low - by_power(box.time_low_s, box.energy_high_j), 1.0),
            (high - by_power(box.time_high_s, box.energy_low_j), 1.0),
        )


@dataclass(frozen=True)
class Monotone:
    """Any function that never falls when time or energy grows.

    Attributes:
        function: of seconds and joules, on arrays.
        at_ends: it is least at an end of every segment (products of powers are).
    """

    function: Callable[[Any, Any], Any]
    at_ends: bool = False

    def value(self, time_s: Any, energy_j: Any) -> Any:
        """The function at points."""
        return self.function(time_s, energy_j)

    def least(self, t0: Floats, e0: Floats, t1: Floats, e1: Floats) -> Floats:
        """The smaller end; in general the least among pieces of (their least time, their least energy)."""
        if self.at_ends:
            ends: Floats = np.minimum(self.value(t0, e0), self.value(t1, e1))
            return ends
        least = np.full(np.shape(t0), math.inf)
        for piece in range(_PIECES):
            start, end = piece / _PIECES, (piece + 1) / _PIECES
            lowest = np.minimum(e0 + start * (e1 - e0), e0 + end * (e1 - e0))
            least = np.minimum(least, self.value(t0 + start * (t1 - t0), lowest))
        return least

    def energy_below(self, value: float, time_low_s: float, time_high_s: float) -> float:
        """Not known."""
        return math.inf

    def directions(self, box: Box) -> tuple[Direction, ...]:
        """Less time and less energy are better."""
        return ((1.0, 0.0), (0.0, 1.0))


class Excess:
    """By how much bounds are broken: the greatest sum over any of the relative excesses, at least 0."""

    def __init__(self, bounds: Bounds) -> None:
        terms = []
        if bounds.max_time_s is not None:
            terms.append((1 / bounds.max_time_s, 0.0, 0.0))
        if bounds.max_energy_j is not None:
            terms.append((0.0, 1 / bounds.max_energy_j, 0.0))
        if bounds.max_power_w is not None:
            terms.append((0.0, 0.0, 1 / bounds.max_power_w))
        self._sums = []
        for size in range(1, len(terms) + 1):
            for some in combinations(terms, size):
                time, energy, power = (math.fsum(column) for column in zip(*some, strict=True))
                self._sums.append(Mix(time, energy, power, -float(size)))
        self._terms = self._sums[: len(terms)]

    def value(self, time_s: Any, energy_j: Any) -> Any:
        """The excess at points."""
        return sum(np.maximum(term.value(time_s, energy_j), 0.0) for term in self._terms)

    def least(self, t0: Floats, e0: Floats, t1: Floats, e1: Floats) -> Floats:
        """The greatest of what each sum is at least."""
        least = np.zeros(np.shape(t0))
        for some in self._sums:
            least = np.maximum(least, some.least(t0, e0, t1, e1))
        return least

    def energy_below(self, value: float, time_low_s: float, time_high_s: float) -> float:
        """What the tightest of the bounds leaves."""
        return min(term.energy_below(value, time_low_s, time_high_s) for term in self._terms)

    def directions(self, box: Box) -> tuple[Direction, ...]:
        """Those of each bound."""
        return tuple(direction for term in self._terms for direction in term.directions(box))


def surface_of(objective: Objective, origin: Totals, figures: GraphFigures) -> Surface | None:
    """The objective on graphs with the given figures; None where nothing about it is known that would bound it."""

    def function(time_s: Any, energy_j: Any) -> Any:
        value = objective.value(figures.totals(time_s, energy_j), origin)
        return np.broadcast_to(np.asarray(value, dtype=float), np.shape(time_s))

    weights = _weights(objective)
    if weights is not None and not (origin.time_s and origin.energy_j):
        return None  # a graph of views alone: its ratios are no quotients
    if weights is not None:
        time, energy, power = weights(origin)
        if energy < 0 or power < 0:
            return None
        here = origin.time_s, origin.energy_j
        constant = float(function(*here)) - float(Mix(time, energy, power).value(*here))
        return Mix(time, energy, power, constant)
    if objective.vectorised and (objective.monotone or objective.product):
        return Monotone(function, at_ends=objective.product)
    return None


def _weights(objective: Objective) -> Callable[[Totals], tuple[float, float, float]] | None:
    """Weights of seconds, joules and watts."""
    linear = objective.linear
    if objective.affine is not None or linear is None:
        return objective.affine
    return lambda origin: (*linear(origin), 0.0)
