"""The frontier between time and energy, over graphs and assignments (first paper, Section 4.4).

The outer search is run for a few weights between time and energy, each chosen where the last ones left the widest gap,
until no weight finds a graph below the line through its neighbours. Every graph that won then contributes all
assignments on the lower hull of its (time, energy) sums, and what another point beats in both is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Graph
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.edges import EdgeCosts
from joulec.passes.search.large import LARGE, search
from joulec.passes.search.moves import MoveFinder
from joulec.passes.search.objective import weighted
from joulec.passes.search.outer import OuterSearch, Plan, SearchOptions, SearchResult
from joulec.passes.search.totals import Bounds, GraphFigures

_NEARER = 1e-9
"""How much below the line between two points, relative to it, a new point lies at least."""

Point = tuple[float, float]


@dataclass
class FrontierSearch:
    """Finds the frontier of one graph.

    Attributes:
        rules: the substitutions.
        costs: where costs come from; its objective, if it has one, counts time and energy both.
        options: how far each of the searches goes; the inner search is exact.
        tidy: canonicalises a rewritten graph.
        searches: the most weights that are tried.
        on_search: told of each weight on energy that is about to be tried.
    """

    rules: tuple[Rule, ...]
    costs: CostSource
    options: SearchOptions = field(default_factory=SearchOptions)
    tidy: Callable[[Graph], Graph] = lambda graph: graph
    searches: int = 12
    on_search: Callable[[float], None] = lambda weight: None
    _tried: int = field(default=0, init=False)

    def run(self, graph: Graph, bounds: Bounds | None = None) -> list[Plan]:
        """The plans that no other one beats in time and energy, fastest first.

        Args:
            graph: canonical.
            bounds: what every point must keep.

        Raises:
            CostingError: the original graph itself has an operator without a known cost.
        """
        self._tried = 0
        self._bounds = bounds or Bounds()
        self._finder = MoveFinder(self.rules, self.tidy)
        found = [result.best for result in self._sweep(graph)]
        graphs = {plan.graph.key: plan for plan in found}
        found += [point for plan in graphs.values() for point in self._assignments(plan)]
        return undominated([plan for plan in found if not self._bounds.excess(plan.totals)])

    def _sweep(self, graph: Graph) -> Iterator[SearchResult]:
        """The best for time, for energy, and between neighbours while that finds anything better."""
        fastest, thriftiest = self._search(graph, 0.0), self._search(graph, 1.0)
        yield fastest
        yield thriftiest
        gaps = [(_ratios(fastest), _ratios(thriftiest))]
        while gaps and self._tried < self.searches:
            gaps.sort(key=lambda gap: (_width(gap), gap))
            left, right = gaps.pop()
            saved, spent = left[1] - right[1], right[0] - left[0]
            if saved <= 0 or spent <= 0:
                continue
            weight = spent / (saved + spent)
            result = self._search(graph, weight)
            middle = _ratios(result)
            if _value(middle, weight) < _value(left, weight) * (1 - _NEARER):
                yield result
                gaps += [(left, middle), (middle, right)]

    def _search(self, graph: Graph, weight: float) -> SearchResult:
        self._tried += 1
        self.on_search(weight)
        options = replace(self.options, inner="exact")
        objective = weighted(weight).within(self._bounds)
        if len(graph.nodes) > LARGE:
            return search(graph, self.rules, self.costs, objective, options, self.tidy)
        return OuterSearch(self.rules, self.costs, objective, options, self.tidy, finder=self._finder).run(graph)

    def _assignments(self, plan: Plan) -> Iterator[Plan]:
        """All assignments of a plan's graph on the lower hull of its sums, from the fastest to the least energy.

        Where edges cost too there is no such sum, and the plan stands alone.
        """
        if isinstance(self.costs, EdgeCosts):
            yield plan
            return
        options = [self.costs.options(node.spec) for node in plan.graph.nodes]
        hulls = [of.hull for of in options]
        edges = sorted(
            (slope, node, corner + 1)
            for node, hull in enumerate(hulls)
            for corner, slope in enumerate(hull.slopes)
            if slope < 0
        )
        figures = GraphFigures.of(plan.graph)
        picks = [hull.indices[0] for hull in hulls]
        for edge in (None, *edges):
            if edge is not None:
                picks[edge[1]] = hulls[edge[1]].indices[edge[2]]
            chosen = tuple(of.choices[pick] for of, pick in zip(options, picks, strict=True))
            time_s, energy_j = (math.fsum(part) for part in zip(*((c.time_s, c.energy_j) for c in chosen), strict=True))
            yield replace(plan, choices=chosen, totals=figures.totals(time_s, energy_j), optimal=False)


def undominated(plans: Sequence[Plan]) -> list[Plan]:
    """The plans that no other one beats or equals in time and energy both; fastest first."""
    order = sorted(plans, key=lambda plan: (plan.totals.time_s, plan.totals.energy_j, plan.graph.key))
    kept: list[Plan] = []
    for plan in order:
        if not kept or plan.totals.energy_j < kept[-1].totals.energy_j:
            kept.append(plan)
    return kept


def _ratios(result: SearchResult) -> Point:
    """Time and energy relative to the original graph."""
    found, origin = result.best.totals, result.origin.totals
    return found.time_s / origin.time_s, found.energy_j / origin.energy_j


def _value(point: Point, weight: float) -> float:
    return (1 - weight) * point[0] + weight * point[1]


def _width(gap: tuple[Point, Point]) -> float:
    (left_time, left_energy), (right_time, right_energy) = gap
    return math.hypot(right_time - left_time, left_energy - right_energy)
