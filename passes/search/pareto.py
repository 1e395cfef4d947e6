"""The assignments of one graph that no other one beats in time and energy both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from joulec.passes.search.choices import Options

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MOST_POINTS = 4096
"""So many sums are kept at each node; beyond, neighbours are thinned."""


@dataclass(frozen=True)
class Sums:
    """Undominated sums over a graph's nodes, from the fastest to the one of least energy.

    Attributes:
        times: seconds, ascending.
        energies: joules, descending.
        complete: whether these are all undominated sums; otherwise some between neighbours were left out.
    """

    times: Floats
    energies: Floats
    complete: bool
    _steps: tuple[tuple[Indices, Indices], ...]

    def picks(self, index: int) -> tuple[int, ...]:
        """Per node, the choice that leads to a sum."""
        chosen = []
        for before, choice in reversed(self._steps):
            chosen.append(int(choice[index]))
            index = int(before[index])
        return tuple(reversed(chosen))


def undominated_sums(options: Sequence[Options], most: int = MOST_POINTS) -> Sums:
    """Add the nodes one after the other, and keep of the sums so far what no other one beats or equals.

    An undominated sum never holds a dominated one, so nothing is lost. Where more than ``most`` are left, those that
    stand closest together are thinned; the fastest and the one of least energy always stay.

    Args:
        options: per node, its choices with known time and energy (none empty).
    """
    times, energies, complete = np.zeros(1), np.zeros(1), True
    steps = []
    for of in options:
        all_times = (times[:, None] + of.times).ravel()
        all_energies = (energies[:, None] + of.energies).ravel()
        kept = undominated(all_times, all_energies)
        if len(kept) > most:
            kept, complete = _thinned(kept, all_times, all_energies, most), False
        times, energies = all_times[kept], all_energies[kept]
        steps.append((kept // len(of), kept % len(of)))
    return Sums(times, energies, complete, tuple(steps))


def undominated(times: Floats, energies: Floats) -> Indices:
    """Indices of the points that no other one beats or equals in both, in ascending time."""
    order = np.lexsort((energies, times))
    sorted_energies = energies[order]
    least_before = np.concatenate(([np.inf], np.minimum.accumulate(sorted_energies)[:-1]))
    return np.asarray(order[sorted_energies < least_before])


def _thinned(kept: Indices, times: Floats, energies: Floats, most: int) -> Indices:
    """At most so many of the points, spaced evenly along the frontier, both ends among them."""
    steps = np.abs(np.diff(times[kept])) / np.ptp(times[kept]) + np.abs(np.diff(energies[kept])) / np.ptp(
        energies[kept]
    )
    along = np.concatenate(([0.0], np.cumsum(steps)))
    wanted = np.linspace(0.0, along[-1], most)
    return np.asarray(kept[np.unique(np.minimum(np.searchsorted(along, wanted), len(kept) - 1))])
