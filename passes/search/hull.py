"""Lower convex hulls of (time, energy) points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def lower_hull(times: Floats, energies: Floats, *, whole: bool) -> list[int]:
    """Indices on the lower hull of the points, in ascending time.

    Args:
        whole: from the fastest to the slowest point; otherwise from the fastest to the one of least energy, beyond
            which nothing is better in time or energy.
    """
    hull: list[int] = []
    for point in np.lexsort((energies, times)).tolist():
        if hull and times[point] == times[hull[-1]]:
            continue
        if hull and not whole and energies[point] >= energies[hull[-1]]:
            continue
        while len(hull) >= 2 and _turns_up(times, energies, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_up(times: Floats, energies: Floats, a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the line from a to c."""
    first = (energies[b] - energies[a]) * (times[c] - times[a])
    second = (energies[c] - energies[a]) * (times[b] - times[a])
    return bool(first >= second)


@dataclass(frozen=True, slots=True)
class Hull:
    """The whole lower hull of one operator's choices.

    Attributes:
        indices: the choices on it, in ascending time.
        corners: their (seconds, joules).
        slopes: joules per second along each edge, ascending.
    """

    indices: tuple[int, ...]
    corners: tuple[tuple[float, float], ...]
    slopes: tuple[float, ...]

    @staticmethod
    def of(times: Floats, energies: Floats) -> Hull:
        """The hull of points."""
        indices = lower_hull(times, energies, whole=True)
        corners = tuple((float(times[index]), float(energies[index])) for index in indices)
        slopes = tuple((e1 - e0) / (t1 - t0) for (t0, e0), (t1, e1) in pairwise(corners))
        return Hull(tuple(indices), corners, slopes)

    def at(self, slope: float) -> tuple[float, float]:
        """The corner of least energy - slope * time; of equal ones the slowest."""
        return self.corners[bisect_right(self.slopes, slope)]


def sums(hulls: Iterable[tuple[Hull, int]]) -> tuple[Floats, Floats]:
    """(seconds, joules) at the vertices of the lower hull of all sums, from the fastest to the slowest.

    Every vertex minimises energy - slope * time for some slope, so all are met by starting with the fastest choices
    and taking the operators' own edges in ascending slope.

    Args:
        hulls: each operator's hull, and how often it occurs.
    """
    start_s = start_j = 0.0
    edges: list[tuple[float, int, float, float]] = []
    for hull, count in hulls:
        start_s += count * hull.corners[0][0]
        start_j += count * hull.corners[0][1]
        for slope, (t0, e0), (t1, e1) in zip(hull.slopes, hull.corners, hull.corners[1:], strict=False):
            edges.append((slope, len(edges), count * (t1 - t0), count * (e1 - e0)))
    edges.sort()
    times = start_s + np.cumsum([0.0, *(edge[2] for edge in edges)])
    energies = start_j + np.cumsum([0.0, *(edge[3] for edge in edges)])
    return times, energies
