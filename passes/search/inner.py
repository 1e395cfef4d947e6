"""Inner search: an algorithm for every node of one graph (first paper, Section 3.3, Algorithm 2), and exactly.

What makes it exact depends on the objective:

- linear: every node on its own;
- power: Dinkelbach's iteration over linear objectives;
- products: they are least at a vertex of the lower hull of all (time, energy) sums;
- mixes with power, other monotone objectives, and any of these under bounds: `labels`;
- with costs on edges: `linked`.

What none of these covers, a Python function above all, is searched by Algorithm 2, and nothing is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from joulec.passes.search.assignment import Assignment, Picks, Problem, relative_gap
from joulec.passes.search.choices import Options
from joulec.passes.search.edges import EdgeTable
from joulec.passes.search.hull import sums
from joulec.passes.search.labels import search as search_labels
from joulec.passes.search.linked import solve_linked
from joulec.passes.search.neighbourhood import neighbourhood
from joulec.passes.search.objective import Objective
from joulec.passes.search.relaxation import ROUNDING, relax_curve
from joulec.passes.search.surface import Excess, Surface, surface_of
from joulec.passes.search.totals import Bounds, GraphFigures, Totals

Mode = Literal["exact", "neighbourhood", "none"]
BoundMethod = Literal["exact", "weights"]

__all__ = ["Assignment", "BoundMethod", "InnerSearch", "Mode"]


@dataclass(frozen=True)
class InnerSearch:
    """Assigns algorithms under one objective.

    Attributes:
        objective: what is minimised.
        origin: totals of the original graph, to which ratios refer.
        mode: ``exact`` proves the optimum where the objective's form allows it and falls back to the neighbourhood
            elsewhere; ``neighbourhood`` is Algorithm 2; ``none`` keeps the fastest algorithm of every node.
        distance: d of Algorithm 2, how many nodes may change at once.
        bound_method: ``exact`` finds the best assignment that keeps the bounds; ``weights`` the best that some weights
            between time and energy lead to (first paper, Section 4.4), with its gap.
    """

    objective: Objective
    origin: Totals
    mode: Mode = "exact"
    distance: int = 2
    bound_method: BoundMethod = "exact"

    def solve(self, options: Sequence[Options], figures: GraphFigures, edges: Sequence[EdgeTable] = ()) -> Assignment:
        """The best assignment that the mode finds.

        Args:
            options: per node, the algorithms with their costs (none empty).
            figures: the part of the totals that no algorithm changes.
            edges: costs of pairs of choices.
        """
        problem = Problem(options, edges, figures, self.objective, self.origin)
        fastest = problem.separable(1.0, 0.0)
        if self.mode == "none":
            return problem.assignment(fastest)
        if all(len(of) == 1 for of in options):
            return problem.assignment(fastest, 0.0)
        if self.mode == "neighbourhood":
            return neighbourhood(problem, fastest, self.distance)
        if edges:
            return solve_linked(problem, self.distance)
        return self._simple(problem, fastest) or self._relaxed(problem)

    def improve(self, options: Sequence[Options], figures: GraphFigures, below: float) -> Assignment | None:
        """The best assignment without edges that keeps the bounds and whose value is less than ``below``, if any.

        Only where the objective has a relaxation is this faster than `solve`.
        """
        problem = Problem(options, (), figures, self.objective, self.origin)
        surface = self.surface(figures)
        if surface is None or not self.labelled or all(len(of) == 1 for of in options):
            found = self.solve(options, figures)
            return found if found.rank < (0.0, below) else None
        return self._labelled(problem, surface, below)

    @property
    def labelled(self) -> bool:
        """Whether assignments without edges are found by `labels`."""
        objective = self.objective
        simple = objective.linear is not None or objective.is_power or objective.product
        return (
            self.mode == "exact"
            and objective.uses_energy
            and not (simple and not objective.bounds)
            and not (objective.bounds and self.bound_method == "weights")
        )

    def surface(self, figures: GraphFigures) -> Surface | None:
        """The objective as a relaxation sees it; None where it has none."""
        return surface_of(self.objective, self.origin, figures) if self.objective.uses_energy else None

    def _simple(self, problem: Problem, fastest: Picks) -> Assignment | None:
        """Objectives that need no search."""
        free = not self.objective.bounds
        if free and self.objective.linear is not None:
            return problem.assignment(problem.separable(*self.objective.linear(self.origin)), 0.0)
        if free and self.objective.is_power:
            return problem.assignment(least_power(problem, fastest), 0.0)
        if free and self.objective.product and self.objective.uses_energy:
            return problem.assignment(problem.best_on_hull(), 0.0)
        if not self.objective.uses_energy:
            if self.objective.monotone:
                return problem.assignment(fastest, 0.0)
            return neighbourhood(problem, fastest, self.distance)
        return None

    def _relaxed(self, problem: Problem) -> Assignment:
        """Objectives and bounds that tie the nodes together."""
        surface = self.surface(problem.figures)
        start = problem.best_on_hull()
        if surface is None:
            return self._unproven(problem, start)
        if self.objective.bounds and self.bound_method == "weights":
            return _with_gap(problem, start, surface)
        return self._labelled(problem, surface) or self._nearest(problem, surface)

    def _unproven(self, problem: Problem, start: Picks) -> Assignment:
        """Algorithm 2 from the best vertex of the hull; where that breaks the bounds, also from the least excess."""
        found = neighbourhood(problem, start, self.distance)
        if found.optimal or not found.excess:
            return found
        least = search_labels(problem.options, Excess(self.objective.bounds), Bounds())
        again = neighbourhood(problem, least.picks or start, self.distance)
        return min(found, again, key=lambda one: one.rank)

    def _labelled(self, problem: Problem, surface: Surface, below: float = math.inf) -> Assignment | None:
        found = search_labels(problem.options, surface, self.objective.bounds, below=below)
        if found.picks is None:
            return None
        return problem.assignment(found.picks, relative_gap(found.value, found.lower))

    def _nearest(self, problem: Problem, surface: Surface) -> Assignment:
        """Of the assignments that break the bounds least, the best.

        That none keeps the bounds, and that none breaks them less, is proven where the gap is not None.
        """
        bounds = self.objective.bounds
        least = search_labels(problem.options, Excess(bounds), Bounds())
        excess_gap = relative_gap(least.value, least.lower)
        best = search_labels(problem.options, surface, bounds, excess=least.value)
        picks = best.picks or least.picks
        assert picks is not None
        if excess_gap or best.picks is None:
            return problem.assignment(picks, excess_gap or None)
        return problem.assignment(picks, relative_gap(best.value, best.lower))


def least_power(problem: Problem, picks: Picks) -> Picks:
    """Minimum of ΣE/ΣT by Dinkelbach's parametric iteration: minimise E - λT until λ no longer falls."""
    power = math.inf
    while True:
        current = float(problem.assignment(picks).totals.power_w)
        if not current < power * (1 - ROUNDING):
            return picks
        power = current
        picks = problem.separable(-power, 1.0)


def _with_gap(problem: Problem, picks: Picks, surface: Surface) -> Assignment:
    """Picks with the gap that the relaxation proves."""
    found = problem.assignment(picks)
    curve = sums((of.hull, 1) for of in problem.options)
    if found.excess == 0.0:
        lower = float(relax_curve(surface, problem.objective.bounds, *curve).least.min())
        return replace(found, gap=relative_gap(found.value, lower))
    lower = float(relax_curve(Excess(problem.objective.bounds), Bounds(), *curve).least.min())
    return replace(found, gap=relative_gap(found.excess, lower))
