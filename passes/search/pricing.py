"""What a rewritten graph costs, found from what its parent costs and what changed.

The outer search prices thousands of graphs and looks closely at few. A pricer ranks a graph without building it: by the
best assignment where that is separable, else by what the lower hull of all (time, energy) sums tells. For power and for
products the best vertex of it is the optimum itself; for mixes and under bounds the hull is a relaxation, whose minimum
no assignment lies below. The graphs that can still win are solved by the inner search.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from joulec.passes.search.choices import Options
from joulec.passes.search.hull import sums
from joulec.passes.search.inner import BoundMethod, Mode
from joulec.passes.search.objective import Objective
from joulec.passes.search.relaxation import relax_curve
from joulec.passes.search.surface import Excess, Surface, surface_of
from joulec.passes.search.totals import Bounds, GraphFigures, Totals

_NO_FIGURES = GraphFigures(0.0, 0.0, 0.0, 0)

Rank = tuple[float, float]
"""(excess over the bounds, value of the objective): smaller is better."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a graph costs under the assignment that ranks it.

    Attributes:
        rank: order among graphs.
        time_s: seconds.
        energy_j: joules.
        counts: how often each operator occurs, for pricers that need all of them.
        free: the value if there were no bounds; None where there are none.
    """

    rank: Rank
    time_s: float
    energy_j: float
    counts: Mapping[Options, int] | None = None
    free: float | None = None


class Pricer(Protocol):
    """Prices graphs under one objective."""

    @property
    def exact(self) -> bool:
        """Whether a price is that of the best assignment."""

    @property
    def bounding(self) -> bool:
        """Whether no assignment of a graph ranks before its price."""

    def whole(self, options: Sequence[Options]) -> Price:
        """The price of a graph from all its nodes."""

    def after(self, price: Price, removed: Sequence[Options], added: Sequence[Options]) -> Price:
        """The price after some nodes went and others came."""


def make_pricer(
    objective: Objective, origin: Totals, mode: Mode, bound_method: BoundMethod = "exact", *, exactly: bool
) -> Pricer | None:
    """A pricer for the objective; None where each graph has to be solved by itself.

    Args:
        origin: totals of the original graph.
        mode: how the inner search assigns algorithms.
        bound_method: how it keeps bounds.
        exactly: no pricer that is not exact.
    """
    if objective.uses_figures or not objective.vectorised:
        return None
    if mode == "none":
        return SeparablePricer(objective, origin, (1.0, 0.0))
    if objective.linear is not None and not objective.bounds:
        return SeparablePricer(objective, origin, objective.linear(origin))
    if mode == "neighbourhood":
        return None
    if objective.is_power and not objective.bounds:
        return PowerPricer(objective, origin)
    surface = None
    if not (objective.product and not objective.bounds) and not (objective.bounds and bound_method == "weights"):
        surface = surface_of(objective, origin, _NO_FIGURES) if objective.uses_energy else None
    pricer = HullPricer(objective, origin, surface)
    return None if exactly and not pricer.exact else pricer


@dataclass(frozen=True)
class SeparablePricer:
    """Every node on its own: linear objectives, and the fastest algorithm per node under any."""

    objective: Objective
    origin: Totals
    weights: tuple[float, float]
    exact: bool = True
    bounding: bool = True

    def whole(self, options: Sequence[Options]) -> Price:
        """Sums over the nodes."""
        picked = [of.cheapest_point(*self.weights) for of in options]
        return self._price(math.fsum(time for time, _ in picked), math.fsum(energy for _, energy in picked))

    def after(self, price: Price, removed: Sequence[Options], added: Sequence[Options]) -> Price:
        """The parent's sums with the difference."""
        time_s, energy_j = price.time_s, price.energy_j
        for of in removed:
            time, energy = of.cheapest_point(*self.weights)
            time_s, energy_j = time_s - time, energy_j - energy
        for of in added:
            time, energy = of.cheapest_point(*self.weights)
            time_s, energy_j = time_s + time, energy_j + energy
        return self._price(time_s, energy_j)

    def _price(self, time_s: float, energy_j: float) -> Price:
        totals = Totals(time_s, energy_j)
        excess = float(self.objective.bounds.excess(totals)) if self.objective.bounds else 0.0
        return Price((excess, float(self.objective.value(totals, self.origin))), time_s, energy_j)


class _Counting:
    """Keeps how often each operator occurs."""

    def whole(self, options: Sequence[Options]) -> Price:
        """From all nodes."""
        return self._solve(Counter(options), None)

    def after(self, price: Price, removed: Sequence[Options], added: Sequence[Options]) -> Price:
        """From the parent's counts."""
        assert price.counts is not None
        counts = dict(price.counts)
        for of in removed:
            counts[of] -= 1
        for of in added:
            counts[of] = counts.get(of, 0) + 1
        return self._solve({of: count for of, count in counts.items() if count}, price)

    def _solve(self, counts: Mapping[Options, int], near: Price | None) -> Price:
        raise NotImplementedError


@dataclass(frozen=True)
class PowerPricer(_Counting):
    """Least ΣE/ΣT by Dinkelbach's iteration, started at the parent's power."""

    objective: Objective
    origin: Totals
    exact: bool = True
    bounding: bool = True

    def _solve(self, counts: Mapping[Options, int], near: Price | None) -> Price:
        """Minimise ΣE - λΣT for falling λ until the minimum is zero; then λ is the least power."""
        power = near.energy_j / near.time_s if near and near.time_s else math.inf
        while True:
            time_s = energy_j = 0.0
            for of, count in counts.items():
                time, energy = of.hull.at(power)
                time_s += count * time
                energy_j += count * energy
            found = energy_j / time_s if time_s else 0.0
            if abs(found - power) <= 1e-12 * found:
                value = float(self.objective.value(Totals(time_s, energy_j), self.origin))
                return Price((0.0, value), time_s, energy_j, counts)
            power = found


@dataclass(frozen=True)
class HullPricer(_Counting):
    """The lower hull of all sums: its minimum under the bounds where there is a surface, else its best vertex.

    Attributes:
        surface: the objective as a relaxation sees it; None for products, where the best vertex is the optimum, and
            for what cannot be relaxed, where it is near it.
    """

    objective: Objective
    origin: Totals
    surface: Surface | None = None

    @property
    def exact(self) -> bool:
        """For products without bounds."""
        return self.objective.product and not self.objective.bounds

    @property
    def bounding(self) -> bool:
        """With a surface."""
        return self.exact or self.surface is not None

    def _solve(self, counts: Mapping[Options, int], near: Price | None) -> Price:
        times, energies = sums((of.hull, count) for of, count in counts.items())
        if self.surface is None:
            totals = Totals(times, energies)
            value = np.broadcast_to(self.objective.value(totals, self.origin), times.shape)
            excess = np.broadcast_to(self.objective.bounds.excess(totals), times.shape)
            best = int(np.lexsort((value, excess))[0])
            rank = (float(excess[best]), float(value[best]))
            free = float(value.min()) if self.objective.bounds else None
            return Price(rank, float(times[best]), float(energies[best]), counts, free)
        least = relax_curve(self.surface, self.objective.bounds, times, energies).least
        best = int(least.argmin())
        rank = (0.0, float(least[best]))
        if not self.objective.bounds:
            return Price(rank, float(times[best]), float(energies[best]), counts)
        free = float(relax_curve(self.surface, Bounds(), times, energies).least.min())
        if rank[1] == math.inf:
            over = relax_curve(Excess(self.objective.bounds), Bounds(), times, energies).least
            best = int(over.argmin())
            rank = (float(over[best]), free)
        return Price(rank, float(times[best]), float(energies[best]), counts, free)
