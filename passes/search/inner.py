"""Inner search: an algorithm for every node of one graph (first paper, Section 3.3, Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from joulec.passes.search.choices import Options
from joulec.passes.search.hull import sums
from joulec.passes.search.objective import Objective
from joulec.passes.search.totals import GraphFigures, Totals

Mode = Literal["exact", "neighbourhood", "none"]
Picks = tuple[int, ...]
_Floats = npt.NDArray[np.float64]

_IMPROVEMENT = 1e-12


@dataclass(frozen=True)
class Assignment:
    """The outcome of an inner search.

    Attributes:
        picks: index of the chosen algorithm among each node's choices.
        totals: sums under the picks.
        excess: by how much the bounds are broken (0: kept).
        value: the objective.
        optimal: whether no other assignment of this graph is better, proven.
    """

    picks: Picks
    totals: Totals
    excess: float
    value: float
    optimal: bool

    @property
    def rank(self) -> tuple[float, float]:
        """Order among assignments: bounds first, then the objective."""
        return (self.excess, self.value)


@dataclass(frozen=True)
class InnerSearch:
    """Assigns algorithms under one objective.

    Attributes:
        objective: what is minimised.
        origin: totals of the original graph, to which ratios refer.
        mode: ``exact`` proves the optimum where the objective's form allows it and falls back to the neighbourhood
            elsewhere; ``neighbourhood`` is Algorithm 2; ``none`` keeps the fastest algorithm of every node.
        distance: d of Algorithm 2, how many nodes may change at once.
    """

    objective: Objective
    origin: Totals
    mode: Mode = "exact"
    distance: int = 2

    def solve(self, options: Sequence[Options], figures: GraphFigures) -> Assignment:
        """The best assignment that the mode finds.

        Args:
            options: per node, the algorithms with their costs (none empty).
            figures: the part of the totals that no algorithm changes.
        """
        problem = _Problem(options, figures, self.objective, self.origin)
        fastest = problem.separable(1.0, 0.0)
        if self.mode == "none":
            return problem.assignment(fastest, optimal=False)
        if self.mode == "exact":
            start = self._exact(problem, fastest)
            if start.optimal:
                return start
            return problem.neighbourhood(start.picks, self.distance)
        return problem.neighbourhood(fastest, self.distance)

    def _exact(self, problem: _Problem, fastest: Picks) -> Assignment:
        """The proven optimum where the objective's form has one, else the best vertex of the lower hull."""
        free = not self.objective.bounds
        if free and self.objective.linear is not None:
            return problem.assignment(problem.separable(*self.objective.linear(self.origin)), optimal=True)
        if free and self.objective.is_power:
            return problem.assignment(problem.least_power(fastest), optimal=True)
        if not self.objective.uses_energy:
            return problem.assignment(fastest, optimal=self.objective.monotone)
        return problem.assignment(problem.best_on_hull(), optimal=free and self.objective.product)


@dataclass(frozen=True)
class _Problem:
    options: Sequence[Options]
    figures: GraphFigures
    objective: Objective
    origin: Totals

    def assignment(self, picks: Picks, *, optimal: bool) -> Assignment:
        chosen = [options.choices[pick] for options, pick in zip(self.options, picks, strict=True)]
        time_s = math.fsum(choice.time_s for choice in chosen)
        energy_j = math.fsum(choice.energy_j for choice in chosen)
        totals = self.figures.totals(time_s, energy_j)
        excess = float(self.objective.bounds.excess(totals))
        return Assignment(picks, totals, excess, float(self.objective.value(totals, self.origin)), optimal)

    def separable(self, time_weight: float, energy_weight: float) -> Picks:
        """Minimum of a linear objective: each node on its own (first paper, Section 3.3)."""
        return tuple(options.cheapest(time_weight, energy_weight) for options in self.options)

    def least_power(self, picks: Picks) -> Picks:
        """Minimum of ΣE/ΣT by Dinkelbach's parametric iteration: minimise E - λT until λ no longer falls."""
        power = float("inf")
        while True:
            current = float(self.assignment(picks, optimal=False).totals.power_w)
            if not current < power * (1 - _IMPROVEMENT):
                return picks
            power = current
            picks = self.separable(-power, 1.0)

    def best_on_hull(self) -> Picks:
        """The best vertex of the lower convex hull of all (time, energy) sums (see `hull.sums`)."""
        hulls = [options.hull for options in self.options]
        edges = sorted(
            (slope, node, index + 1) for node, hull in enumerate(hulls) for index, slope in enumerate(hull.slopes)
        )
        best = self._least(*sums((hull, 1) for hull in hulls))
        picks = [hull.indices[0] for hull in hulls]
        for _, node, corner in edges[:best]:
            picks[node] = hulls[node].indices[corner]
        return tuple(picks)

    def neighbourhood(self, picks: Picks, distance: int) -> Assignment:
        """Algorithm 2: move to a better assignment within the distance, nearer ones first, until there is none."""
        current = self.assignment(picks, optimal=False)
        nodes = [index for index, options in enumerate(self.options) if len(options) > 1]
        reach = min(distance, len(nodes))
        radius = 1
        while radius <= reach:
            best = min(self._around(current, nodes, radius), key=lambda found: found.rank)
            if _better(best.rank, current.rank):
                current, radius = best, 1
            else:
                radius += 1
        return replace(current, optimal=reach == len(nodes))

    def _around(self, current: Assignment, nodes: list[int], radius: int) -> Iterator[Assignment]:
        """The best assignments that differ from the current one in ``radius`` nodes, one per chunk of them."""
        moves = [
            (node, pick, float(times[pick] - times[now]), float(joules[pick] - joules[now]))
            for node in nodes
            for times, joules, now in [(self.options[node].times, self.options[node].energies, current.picks[node])]
            for pick in range(len(times))
            if pick != now
        ]
        owners = np.array([move[0] for move in moves])
        seconds = np.array([move[2] for move in moves])
        joules = np.array([move[3] for move in moves])
        for fixed in combinations(range(len(moves)), radius - 1):
            taken = [moves[index][0] for index in fixed]
            if len(set(taken)) < len(taken):
                continue
            first = fixed[-1] + 1 if fixed else 0
            free = np.flatnonzero(~np.isin(owners[first:], taken)) + first
            if not len(free):
                continue
            time_s = current.totals.time_s + sum(moves[index][2] for index in fixed) + seconds[free]
            energy_j = current.totals.energy_j + sum(moves[index][3] for index in fixed) + joules[free]
            picks = list(current.picks)
            for index in (*fixed, int(free[self._least(time_s, energy_j)])):
                picks[moves[index][0]] = moves[index][1]
            yield self.assignment(tuple(picks), optimal=False)

    def _least(self, time_s: _Floats, energy_j: _Floats) -> int:
        """Index of the best of many points."""
        totals = self.figures.totals(time_s, energy_j)
        excess = np.broadcast_to(np.asarray(self.objective.bounds.excess(totals), dtype=float), time_s.shape)
        value = np.broadcast_to(np.asarray(self.objective.value(totals, self.origin), dtype=float), time_s.shape)
        return int(np.lexsort((value, excess))[0])


def _better(new: tuple[float, float], old: tuple[float, float]) -> bool:
    """Strictly better by more than rounding, so that the search ends."""
    (new_excess, new_value), (old_excess, old_value) = new, old
    if new_excess < old_excess - _IMPROVEMENT:
        return True
    gain = old_value - new_value
    return new_excess <= old_excess and gain > _IMPROVEMENT * min(abs(old_value), abs(new_value))
