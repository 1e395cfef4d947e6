"""The inner search where edges cost something: weighted sums by `quadratic`, everything else over their lower hull."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from joulec.passes.search import quadratic
from joulec.passes.search.assignment import Assignment, Picks, Problem, relative_gap
from joulec.passes.search.neighbourhood import neighbourhood
from joulec.passes.search.relaxation import ROUNDING, relax_curve
from joulec.passes.search.surface import Surface, surface_of

_VERTICES = 64


def solve_linked(problem: Problem, distance: int) -> Assignment:
    """The best assignment, with the gap that is proven.

    Linear objectives and power are solved by one or a few quadratic problems, products exactly over the vertices of the
    lower hull. For the rest the hull gives the lower bound, and Algorithm 2 starts from its best vertex.
    """
    solver = _Weighted(problem)
    objective = problem.objective
    if not objective.bounds and objective.linear is not None:
        least = solver.solve(*objective.linear(problem.origin))
        value = problem.assignment(least.picks).value
        return problem.assignment(least.picks, relative_gap(value, value - least.slack))
    if not objective.bounds and objective.is_power:
        return _least_power(problem, solver)
    if not objective.uses_energy:
        least = solver.solve(1.0, 0.0)
        if objective.monotone and least.slack == 0.0:
            return problem.assignment(least.picks, 0.0)
        return neighbourhood(problem, least.picks, distance)
    surface = surface_of(objective, problem.origin, problem.figures)
    vertices = list(_hull(problem, solver))
    best = min(vertices, key=lambda one: one.rank)
    found = neighbourhood(problem, best.picks, min(distance, 1))
    if found.optimal or surface is None or found.excess > 0.0 or not solver.exact:
        return found
    return problem.assignment(found.picks, relative_gap(found.value, _lower(problem, vertices, surface)))


@dataclass(frozen=True)
class _Least:
    """The least weighted sum; ``slack`` is how far above the minimum it may lie."""

    picks: Picks
    slack: float


@dataclass
class _Weighted:
    """Solves weighted sums of time and energy; remembers whether all were solved to the optimum."""

    problem: Problem
    exact: bool = field(default=True, init=False)

    def solve(self, time_weight: float, energy_weight: float) -> _Least:
        nodes = [_sum(time_weight, of.times, energy_weight, of.energies) for of in self.problem.options]
        edges: dict[tuple[int, int], quadratic.Floats] = {}
        for table in self.problem.edges:
            key = (table.source, table.target)
            costs = _sum(time_weight, table.seconds, energy_weight, table.joules)
            forbidden = np.isinf(table.seconds) | np.isinf(table.joules)
            costs = np.where(forbidden, math.inf, costs)
            if table.source == table.target:
                nodes[table.source] = nodes[table.source] + costs.diagonal()
            else:
                edges[key] = edges.get(key, 0.0) + costs
        solved = quadratic.solve(nodes, edges)
        if solved.optimal:
            return _Least(solved.picks, 0.0)
        self.exact = False
        slack = math.inf if solved.gap is None else solved.gap * abs(solved.value)
        return _Least(solved.picks, slack)


def _sum(
    time_weight: float, times: quadratic.Floats, energy_weight: float, joules: quadratic.Floats
) -> quadratic.Floats:
    """A weight of 0 leaves its term out, which may be infinite or unknown."""
    with np.errstate(invalid="ignore"):
        terms = [weight * part for weight, part in ((time_weight, times), (energy_weight, joules)) if weight != 0]
        return np.asarray(sum(terms)) if terms else np.zeros_like(times)


def _least_power(problem: Problem, solver: _Weighted) -> Assignment:
    """Dinkelbach's iteration, each step a quadratic problem."""
    current = problem.assignment(solver.solve(0.0, 1.0).picks)
    while True:
        power = float(current.totals.power_w)
        found = solver.solve(-power, 1.0)
        following = problem.assignment(found.picks)
        if not float(following.totals.power_w) < power * (1 - ROUNDING):
            return problem.assignment(current.picks, 0.0 if found.slack == 0.0 else None)
        current = following


def _hull(problem: Problem, solver: _Weighted) -> Iterator[Assignment]:
    """Vertices of the lower hull of all sums between the least time and the most, each by one weighted sum.

    Between two neighbours the direction square to the line through them finds a vertex below it, or that there is none.
    """
    ends = [problem.assignment(solver.solve(1.0, 0.0).picks), problem.assignment(solver.solve(-1.0, 0.0).picks)]
    yield from ends
    gaps = [(ends[0], ends[1])]
    left = _VERTICES
    while gaps:
        start, end = gaps.pop()
        seconds = float(end.totals.time_s - start.totals.time_s)
        joules = float(end.totals.energy_j - start.totals.energy_j)
        if seconds <= ROUNDING * float(end.totals.time_s):
            continue
        if left == 0:
            solver.exact = False
            return
        left -= 1
        slope = joules / seconds
        middle = problem.assignment(solver.solve(-slope, 1.0).picks)
        below = float(start.totals.energy_j - middle.totals.energy_j) - slope * float(
            start.totals.time_s - middle.totals.time_s
        )
        if below > 1e-11 * float(max(start.totals.energy_j, end.totals.energy_j)):
            yield middle
            gaps += [(start, middle), (middle, end)]


def _lower(problem: Problem, vertices: list[Assignment], surface: Surface) -> float:
    """The relaxation over the hull of the vertices."""
    points = sorted((float(one.totals.time_s), float(one.totals.energy_j)) for one in vertices)
    times = np.array([time for time, _ in points])
    energies = np.array([energy for _, energy in points])
    return float(relax_curve(surface, problem.objective.bounds, times, energies).least.min())
