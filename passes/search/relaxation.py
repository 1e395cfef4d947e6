"""The relaxation of the inner search: mixing a node's algorithms turns all (time, energy) sums into one lower hull."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from joulec.passes.search.surface import Surface
from joulec.passes.search.totals import Bounds

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-12
"""Relative error up to which a bound counts as kept and two values as equal."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Pieces of lower hulls that keep the bounds, arrays of equal shape.

    Attributes:
        t0: seconds where each begins.
        t1: seconds where each ends.
        least: a lower bound of the objective on each; infinite where no point of it keeps the bounds.
    """

    t0: Floats
    t1: Floats
    least: Floats


def relax(surface: Surface, bounds: Bounds, t0: Floats, e0: Floats, t1: Floats, e1: Floats) -> Segments:
    """Clip segments to the bounds, which are linear in time and energy, and bound the objective on what is left."""
    low, high = np.zeros(t0.shape), np.ones(t0.shape)
    for at_start, at_end in zip(_over(bounds, t0, e0), _over(bounds, t1, e1), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = at_start / (at_start - at_end)
        low = np.where(at_start > 0, np.where(at_end > 0, math.inf, np.maximum(low, crossing)), low)
        high = np.where((at_end > 0) & (at_start <= 0), np.minimum(high, crossing), high)
    if not bounds:
        return Segments(t0, t1, surface.least(t0, e0, t1, e1))
    empty = low > high
    low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    start_t, start_e = t0 + low * (t1 - t0), e0 + low * (e1 - e0)
    end_t, end_e = t0 + high * (t1 - t0), e0 + high * (e1 - e0)
    least = surface.least(start_t, start_e, end_t, end_e)
    return Segments(start_t, end_t, np.where(empty, math.inf, least))


def relax_curve(surface: Surface, bounds: Bounds, times: Floats, energies: Floats) -> Segments:
    """`relax` for a hull given by its vertices; a single one is a segment without length."""
    if len(times) == 1:
        return relax(surface, bounds, times, energies, times, energies)
    return relax(surface, bounds, times[:-1], energies[:-1], times[1:], energies[1:])


def keeps(bounds: Bounds, times: Floats, energies: Floats) -> npt.NDArray[np.bool_]:
    """Which points keep the bounds."""
    kept = np.ones(times.shape, dtype=bool)
    for over in _over(bounds, times, energies):
        kept &= over <= 0
    return kept


def _over(bounds: Bounds, times: Floats, energies: Floats) -> list[Floats]:
    """For each bound a linear function that is positive where it is broken by more than rounding."""
    over = []
    if bounds.max_time_s is not None:
        over.append(times - bounds.max_time_s * (1 + ROUNDING))
    if bounds.max_energy_j is not None:
        over.append(energies - bounds.max_energy_j * (1 + ROUNDING))
    if bounds.max_power_w is not None:
        over.append(energies - bounds.max_power_w * (1 + ROUNDING) * times)
    return over
