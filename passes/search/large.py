"""Searching graphs that are too large for one search: by parts, joined, and again across the seams."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Graph, Node
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.edges import edge_tables
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.moves import MoveFinder
from joulec.passes.search.objective import Objective, linear_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.partition import Part
from joulec.passes.search.parts import LARGE, PASSES, Joined, Joiner, Way
from joulec.passes.search.results import Plan, SearchOptions, SearchResult, SearchStatistics
from joulec.passes.search.totals import GraphFigures, Totals


def search(
    graph: Graph,
    rules: tuple[Rule, ...],
    costs: CostSource,
    objective: Objective,
    options: SearchOptions,
    tidy: Callable[[Graph], Graph],
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None,
    finder: MoveFinder | None = None,
) -> SearchResult:
    """Search a graph of any size; see `OuterSearch` and `PartitionedSearch`."""
    by_parts = len(graph.nodes) > LARGE and not objective.uses_figures
    kind = PartitionedSearch if by_parts else OuterSearch
    return kind(rules, costs, objective, options, tidy, on_progress, finder=finder).run(graph)


@dataclass
class PartitionedSearch:
    """Searches a graph part by part; attributes as of `OuterSearch`.

    Each part is searched under the objective made linear at the whole graph's totals, so the time grows with the
    number of parts. Parts of equal structure are searched once. The budget holds for each part. A second pass cuts
    elsewhere, so that substitutions across the first pass's seams are found. The joined graph is assigned as a whole.
    """

    rules: tuple[Rule, ...]
    costs: CostSource
    objective: Objective
    options: SearchOptions = field(default_factory=SearchOptions)
    tidy: Callable[[Graph], Graph] = lambda graph: graph
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None
    clock: Callable[[], float] = time.monotonic
    statistics: SearchStatistics = field(default_factory=SearchStatistics)
    finder: MoveFinder | None = None

    def run(self, graph: Graph) -> SearchResult:
        """Search from a canonical graph; raises as `OuterSearch.run`."""
        began = self.clock()
        self._joiner = Joiner(self.rules, self.tidy)
        still = replace(self.options, budget=0)
        whole = OuterSearch(self.rules, self.costs, self.objective, still, self.tidy).run(graph)
        best, origin = whole.best, whole.origin.totals
        how = self.options
        inner = InnerSearch(self.objective, origin, how.inner, how.distance, how.bound_method)
        steps: list[tuple[str, Graph]] = []
        seams: tuple[Node, ...] = ()
        for _ in range(PASSES if self.options.budget else 0):
            joined = self._pass(best.graph, self._weights(best.totals, origin), seams, began)
            seams = joined.seams
            found = self._assigned(joined.graph, inner)
            if self._rank(found.totals, origin) < self._rank(best.totals, origin):
                steps += [(name, joined.graph) for name in joined.rules]
                best = replace(found, applied=tuple(steps))
        self.statistics.seconds = self.clock() - began
        return SearchResult(whole.origin, best, self.statistics, self._rank(best.totals, origin)[0] == 0.0)

    def _pass(self, graph: Graph, weights: tuple[float, float], seams: tuple[Node, ...], began: float) -> Joined:
        """Search all parts."""
        ways: dict[int, Way] = {}

        def way_of(part: Part, again: bool) -> Way:
            if (again or part.signature not in ways) and not self._late(began):
                ways[part.signature] = self._search_part(part, weights, began)
            return ways.get(part.signature, ())

        return self._joiner.run(graph, way_of, seams)

    def _search_part(self, part: Part, weights: tuple[float, float], began: float) -> Way:
        """The way to the part's best graph."""
        self.costs.prepare({node.spec for node in part.graph.nodes})
        slowest = sum(float(self.costs.options(node.spec).times.max()) for node in part.graph.nodes)
        above_zero = max(-weights[0], 0.0) * slowest
        objective = linear_objective(weights, above_zero)
        limit = self.options.time_limit_s
        left = None if limit is None else max(limit - (self.clock() - began), 0.0)
        options = replace(self.options, time_limit_s=left)
        one = OuterSearch(self.rules, self.costs, objective, options, self.tidy, clock=self.clock, finder=self.finder)
        path = one.run(part.graph).best.path
        self.statistics.add(one.statistics)
        self.on_progress(self.statistics, 1.0)
        return self._joiner.way(part.graph, path)

    def _assigned(self, graph: Graph, inner: InnerSearch) -> Plan:
        self.costs.prepare({node.spec for node in graph.nodes})
        options = [self.costs.options(node.spec) for node in graph.nodes]
        assignment = inner.solve(options, GraphFigures.of(graph), edge_tables(graph, options, self.costs))
        chosen = tuple(of.choices[pick] for of, pick in zip(options, assignment.picks, strict=True))
        return Plan(graph, chosen, assignment.totals, assignment.optimal, gap=assignment.gap)

    def _weights(self, totals: Totals, origin: Totals) -> tuple[float, float]:
        """The objective's slope in seconds and in joules at the totals, what breaks a bound included."""
        if self.objective.linear is not None and not self.objective.bounds:
            return self.objective.linear(origin)
        here = sum(self._rank(totals, origin))
        time_step, energy_step = 1e-6 * float(totals.time_s), 1e-6 * float(totals.energy_j)
        later = sum(self._rank(replace(totals, time_s=totals.time_s + time_step), origin))
        dearer = sum(self._rank(replace(totals, energy_j=totals.energy_j + energy_step), origin))
        return (later - here) / time_step, (dearer - here) / energy_step if self.objective.uses_energy else 0.0

    def _rank(self, totals: Totals, origin: Totals) -> tuple[float, float]:
        return float(self.objective.bounds.excess(totals)), float(self.objective.value(totals, origin))

    def _late(self, began: float) -> bool:
        limit = self.options.time_limit_s
        if limit is not None and self.clock() - began >= limit:
            self.statistics.cut = True
        return self.statistics.cut
