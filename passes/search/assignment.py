"""What an inner search returns, and the problem that it solves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from joulec.passes.search.choices import Options
from joulec.passes.search.edges import EdgeTable
from joulec.passes.search.hull import sums
from joulec.passes.search.objective import Objective
from joulec.passes.search.relaxation import ROUNDING
from joulec.passes.search.totals import GraphFigures, Totals

Picks = tuple[int, ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Assignment:
    """The outcome of an inner search.

    Attributes:
        picks: index of the chosen algorithm among each node's choices.
        totals: sums under the picks.
        excess: by how much the bounds are broken (0: kept).
        value: the objective.
        gap: how far, relative to itself, the value may lie above the optimum, proven; where the bounds are broken, how
            far the excess may lie above the least. 0: optimal; None: nothing is proven.
    """

    picks: Picks
    totals: Totals
    excess: float
    value: float
    gap: float | None = None

    @property
    def optimal(self) -> bool:
        """Whether no other assignment of this graph is better, proven."""
        return self.gap == 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """Order among assignments: bounds first, then the objective."""
        return (self.excess, self.value)


def relative_gap(value: float, lower: float) -> float | None:
    """How far a value may lie above the optimum that is at least ``lower``, relative to the value."""
    if lower >= value - 2 * ROUNDING * abs(value):
        return 0.0
    return (value - lower) / abs(value) if value and math.isfinite(lower) else None


@dataclass(frozen=True)
class Problem:
    """One graph to assign algorithms to.

    Attributes:
        options: per node, its algorithms.
        edges: costs of pairs of choices.
        figures: the part of the totals that no algorithm changes.
        objective: what is minimised.
        origin: totals of the original graph.
    """

    options: Sequence[Options]
    edges: Sequence[EdgeTable]
    figures: GraphFigures
    objective: Objective
    origin: Totals

    def assignment(self, picks: Picks, gap: float | None = None) -> Assignment:
        """Picks with what they cost."""
        chosen = [options.choices[pick] for options, pick in zip(self.options, picks, strict=True)]
        times = [choice.time_s for choice in chosen]
        energies = [choice.energy_j for choice in chosen]
        for edge in self.edges:
            pair = picks[edge.source], picks[edge.target]
            times.append(float(edge.seconds[pair]))
            energies.append(float(edge.joules[pair]))
        totals = self.figures.totals(math.fsum(times), math.fsum(energies))
        excess = float(self.objective.bounds.excess(totals))
        value = float(self.objective.value(totals, self.origin))
        return Assignment(picks, totals, 0.0 if excess <= ROUNDING else excess, value, gap)

    def separable(self, time_weight: float, energy_weight: float) -> Picks:
        """Least weighted sum without edges: each node on its own (first paper, Section 3.3)."""
        return tuple(options.cheapest(time_weight, energy_weight) for options in self.options)

    def best_on_hull(self) -> Picks:
        """The best vertex of the lower convex hull of all (time, energy) sums without edges (see `hull.sums`)."""
        hulls = [options.hull for options in self.options]
        steps = sorted(
            (slope, node, index + 1) for node, hull in enumerate(hulls) for index, slope in enumerate(hull.slopes)
        )
        best = self.least(*sums((hull, 1) for hull in hulls))
        picks = [hull.indices[0] for hull in hulls]
        for _, node, corner in steps[:best]:
            picks[node] = hulls[node].indices[corner]
        return tuple(picks)

    def least(self, time_s: Floats, energy_j: Floats) -> int:
        """Index of the best of many points."""
        totals = self.figures.totals(time_s, energy_j)
        excess = np.broadcast_to(np.asarray(self.objective.bounds.excess(totals), dtype=float), time_s.shape)
        value = np.broadcast_to(np.asarray(self.objective.value(totals, self.origin), dtype=float), time_s.shape)
        return int(np.lexsort((value, np.where(excess <= ROUNDING, 0.0, excess)))[0])
