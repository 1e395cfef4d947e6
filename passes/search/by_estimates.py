"""A search that measures as little as it can.

A search that measures every operator it meets spends most of its time on graphs that lose. Here one finds what is best
by what is known and by estimates for all else (`joulec.passes.search.estimates`), which are rather too low: a graph
that no estimate takes to be the best is not worth measuring, nor is an operator that promises next to nothing. What the
best graph needs is measured, and the search is done again with what that told, until the best graph rests on
measurements alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Graph
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.costing import MeasuredCosts
from joulec.passes.search.estimates import EstimatedCosts
from joulec.passes.search.large import search
from joulec.passes.search.moves import MoveFinder
from joulec.passes.search.objective import Objective
from joulec.passes.search.results import SearchOptions, SearchResult, SearchStatistics
from joulec.profiler.entrant import Point

_ROUNDS = 8
"""How often what is best by estimates is measured, at most."""
_STAKE = 0.0001
"""The part of what the original costs that an operator has to promise before it is measured."""
_FORESEEING = 0.25
"""The part of a limited time that may go into finding out what to measure."""


@dataclass
class SearchByEstimates:
    """Attributes as of `joulec.passes.search.outer.OuterSearch`.

    Attributes:
        limit_measuring: told after how many seconds nothing more is to be measured, where time is limited.
    """

    rules: tuple[Rule, ...]
    costs: MeasuredCosts
    objective: Objective
    options: SearchOptions
    tidy: Callable[[Graph], Graph]
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None
    limit_measuring: Callable[[float], None] = lambda seconds: None
    clock: Callable[[], float] = time.monotonic
    _finder: MoveFinder = field(init=False)

    def __post_init__(self) -> None:
        self._finder = MoveFinder(self.rules, self.tidy)

    def run(self, graph: Graph) -> SearchResult:
        """Search from a canonical graph whose own operators were prepared; raises as `OuterSearch.run`."""
        began_s = self.clock()
        result = self._within(graph) if self.options.time_limit_s is not None else self._until_known(graph)
        result.statistics.seconds = self.clock() - began_s
        return result

    def _until_known(self, graph: Graph) -> SearchResult:
        for _ in range(_ROUNDS):
            estimates = self._estimates(graph)
            found = self._search(graph, estimates, self.options)
            specs, asked = {node.spec for node in found.best.graph.nodes}, self.costs.asked
            self.costs.prepare(specs)
            if not estimates.guesses(specs) and self.costs.asked == asked:
                return found
        return self._by_what_is_known(graph, self.options)

    def _within(self, graph: Graph) -> SearchResult:
        """One look ahead that takes a part of the time at most, and leaves as much again to the search that follows.

        That one does without what was not measured by then.
        """
        began_s, limit_s = self.clock(), self.options.time_limit_s
        assert limit_s is not None
        few = replace(self.options, time_limit_s=_FORESEEING * limit_s)
        foreseen = self._search(graph, self._estimates(graph), few)
        self.limit_measuring(max(limit_s - 2 * (self.clock() - began_s), 0.0))
        self.costs.prepare({node.spec for node in foreseen.best.graph.nodes})
        left_s = max(limit_s - (self.clock() - began_s), 0.0)
        return self._by_what_is_known(graph, replace(self.options, time_limit_s=left_s))

    def _estimates(self, graph: Graph) -> EstimatedCosts:
        estimates = self.costs.estimated(sparse=False)
        specs = [node.spec for node in graph.nodes]
        estimates.calibrate(set(specs))
        estimates.prepare(set(specs))
        costs = [estimates.fastest(spec) for spec in specs]
        estimates.stake = Point(*(_STAKE * math.fsum(cost[axis] for cost in costs) for axis in (0, 1)))
        return estimates

    def _by_what_is_known(self, graph: Graph, options: SearchOptions) -> SearchResult:
        with self.costs.as_known():
            return self._search(graph, self.costs, options)

    def _search(self, graph: Graph, costs: CostSource, options: SearchOptions) -> SearchResult:
        return search(
            graph, self.rules, costs, self.objective, options, self.tidy, self.on_progress, finder=self._finder
        )
