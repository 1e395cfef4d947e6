"""The frontier between time and energy, over graphs and assignments (first paper, Section 4.4), in one search.

The outer search runs once under a fan of weights between time and energy (`lines`). What it met is then settled
exactly: the graphs that won under some weight contribute every assignment that no other one beats (`pareto`), and so
does each other graph that may still have a point below those, until none is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Graph, Node
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostingError, CostSource
from joulec.passes.search.edges import edge_tables
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.lines import LinedState, LineSearch, winners
from joulec.passes.search.objective import weighted
from joulec.passes.search.pareto import Sums, undominated_sums
from joulec.passes.search.partition import Part
from joulec.passes.search.parts import LARGE, PASSES, Joiner, Way
from joulec.passes.search.results import Plan, SearchOptions, SearchStatistics
from joulec.passes.search.totals import Bounds, GraphFigures, Totals

Floats = npt.NDArray[np.float64]

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Weights on energy under which graphs are searched (Table 4's); the rest of the weight is on time."""
PRESSURES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Beneath a bound on power: what exceeding it counts beside time and energy."""


@dataclass
class FrontierSearch:
    """Finds the frontier of one graph.

    Attributes:
        rules: the substitutions.
        costs: where costs come from; its objective, if it has one, counts time and energy both.
        options: how far the search goes; algorithms are assigned exactly.
        tidy: canonicalises a rewritten graph.
        on_progress: called after every expansion with the statistics and the least time relative to the original.
        statistics: what the last run did.
        exact: also settle the graphs that win under no weight but may have a point below those that do. Without, points
            are the best of the winning graphs, which takes a fraction of the time.
    """

    rules: tuple[Rule, ...]
    costs: CostSource
    options: SearchOptions = field(default_factory=SearchOptions)
    tidy: Callable[[Graph], Graph] = lambda graph: graph
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None
    statistics: SearchStatistics = field(default_factory=SearchStatistics)
    exact: bool = True

    def run(self, graph: Graph, bounds: Bounds | None = None) -> list[Plan]:
        """The plans that no other one beats in time and energy, fastest first.

        Args:
            graph: canonical. Of a large one (see `joulec.passes.search.parts`) the parts are searched, and the graphs
                that win under some weight are settled.
            bounds: what every point must keep.

        Raises:
            CostingError: the original graph itself has an operator without a known cost or without a known energy.
        """
        bounds = bounds or Bounds()
        origin = self._origin(graph)
        self.statistics = SearchStatistics()
        lines = self._lines(origin, bounds)
        if len(graph.nodes) > LARGE:
            won = met = self._by_parts(graph, lines)
        else:
            met = self._search(graph, lines)
            won = list({state.key: state for state in winners(met)}.values())
        linked = bool(edge_tables(graph, [self.costs.options(node.spec) for node in graph.nodes], self.costs))
        if linked:  # lines know nothing of edges
            won = list({state.key: state for state in (*won, met[0])}.values())
        if linked or bounds.max_power_w is not None:
            return undominated([plan for state in won for plan in self._under_weights(state, origin, bounds)])
        settled = _Settled(lines)
        for state in won:
            settled.add(state, self._sums(state))
        for state in settled.promising(met if self.exact else ()):
            settled.add(state, self._sums(state))
        plans = [self._plan(state, picks) for state, picks in settled.points()]
        return undominated([plan for plan in plans if not bounds.excess(plan.totals)])

    def _origin(self, graph: Graph) -> Totals:
        """Totals of the original under its fastest algorithms."""
        self.costs.prepare({node.spec for node in graph.nodes})
        for node in graph.nodes:
            options = self.costs.options(node.spec)
            if not len(options):
                raise CostingError(f"no algorithm with a known cost computes {node}")
            if np.isnan(options.energies).any():
                raise CostingError(f"the frontier needs energies, and the costs at hand have none for {node}")
        fastest = [self.costs.options(node.spec).cheapest_point(1.0, 0.0) for node in graph.nodes]
        times, energies = zip(*fastest, strict=True)
        return Totals(math.fsum(times), math.fsum(energies))

    def _lines(self, origin: Totals, bounds: Bounds) -> Floats:
        """What a second and a joule count under each weight, of shape [lines, 2]."""
        time_s, energy_j = origin.time_s or 1.0, origin.energy_j or 1.0
        lines = np.array([((1 - w) / time_s, w / energy_j) for w in WEIGHTS])
        if bounds.max_power_w is None:
            return lines
        over = np.array([-bounds.max_power_w, 1.0]) / energy_j
        return np.concatenate([lines + pressure * over for pressure in PRESSURES])

    def _search(self, graph: Graph, lines: Floats) -> list[LinedState]:
        return LineSearch(
            self.rules, self.costs, lines, self.options, self.tidy, self.on_progress, statistics=self.statistics
        ).run(graph)

    def _by_parts(self, graph: Graph, lines: Floats) -> list[LinedState]:
        """The joined graphs of all lines; each part is searched once under all of them."""
        joiner = Joiner(self.rules, self.tidy)
        ways: dict[int, list[Way]] = {}

        def way_of(part: Part, again: bool, line: int) -> Way:
            if again or part.signature not in ways:
                best = winners(self._search(part.graph, lines))
                ways[part.signature] = [joiner.way(part.graph, state.path()) for state in best]
            return ways[part.signature][line]

        found = {graph.key: LinedState(graph.key, graph=graph, values=np.full(len(lines), np.inf))}
        for line in range(len(lines)):
            whole, seams = graph, tuple[Node, ...]()
            for _ in range(PASSES if self.options.budget else 0):
                joined = joiner.run(whole, partial(way_of, line=line), seams)
                whole, seams = joined.graph, joined.seams
            found.setdefault(whole.key, LinedState(whole.key, graph=whole, values=np.full(len(lines), np.inf)))
        return list(found.values())

    def _sums(self, state: LinedState) -> Sums:
        graph = state.built()
        self.costs.prepare({node.spec for node in graph.nodes})
        return undominated_sums([self.costs.options(node.spec) for node in graph.nodes])

    def _under_weights(self, state: LinedState, origin: Totals, bounds: Bounds) -> Iterator[Plan]:
        """The best assignments of one graph under each weight that keep the bounds."""
        graph = state.built()
        self.costs.prepare({node.spec for node in graph.nodes})
        options = [self.costs.options(node.spec) for node in graph.nodes]
        figures, edges = GraphFigures.of(graph), edge_tables(graph, options, self.costs)
        for weight in WEIGHTS:
            found = InnerSearch(weighted(weight).within(bounds), origin).solve(options, figures, edges)
            if not found.excess:
                yield replace(self._plan(state, found.picks), totals=found.totals)

    def _plan(self, state: LinedState, picks: Sequence[int]) -> Plan:
        graph = state.built()
        options = [self.costs.options(node.spec) for node in graph.nodes]
        chosen = tuple(of.choices[pick] for of, pick in zip(options, picks, strict=True))
        times, energies = zip(*((choice.time_s, choice.energy_j) for choice in chosen), strict=True)
        totals = GraphFigures.of(graph).totals(math.fsum(times), math.fsum(energies))
        return Plan(graph, chosen, totals, applied=state.applied(), path=state.path())


class _Settled:
    """The points that no other one beats, of the graphs that were settled so far."""

    def __init__(self, lines: Floats) -> None:
        self._lines = lines
        self._keys: set[int] = set()
        self._points: list[tuple[float, float, int, LinedState, tuple[int, ...]]] = []

    def add(self, state: LinedState, sums: Sums) -> None:
        """Take the points of a graph in."""
        self._keys.add(state.key)
        order = len(self._keys)
        fresh = [
            (float(time_s), float(energy_j), order, state, sums.picks(index))
            for index, (time_s, energy_j) in enumerate(zip(sums.times, sums.energies, strict=True))
        ]
        kept: list[tuple[float, float, int, LinedState, tuple[int, ...]]] = []
        for point in sorted([*self._points, *fresh], key=lambda point: point[:3]):
            if not kept or point[1] < kept[-1][1]:
                kept.append(point)
        self._points = kept

    def promising(self, met: Sequence[LinedState]) -> Iterator[LinedState]:
        """The graphs that may have a point which none of those settled so far beats, one after the other.

        Such a point lies below and to the left of a corner of the staircase that the points make, so under every line
        the graph costs less than the corner.
        """
        if not met:
            return
        order = np.argsort([float(state.values.min()) for state in met], kind="stable")
        for index in order.tolist():
            state = met[index]
            if state.key not in self._keys and bool((state.values < self._corners()).all(axis=1).any()):
                yield state

    def points(self) -> Iterator[tuple[LinedState, tuple[int, ...]]]:
        """The graph and the picks of each point, fastest first."""
        for _, _, _, state, picks in self._points:
            yield state, picks

    def _corners(self) -> Floats:
        """What each corner of the staircase costs under each line, of shape [corners, lines]."""
        times = np.array([*(point[0] for point in self._points), np.inf])
        energies = np.array([np.inf, *(point[1] for point in self._points)])
        with np.errstate(invalid="ignore"):
            seconds, joules = (np.outer(part, of) for part, of in zip((times, energies), self._lines.T, strict=True))
        return np.where(np.isnan(seconds), 0.0, seconds) + np.where(np.isnan(joules), 0.0, joules)


def undominated(plans: Sequence[Plan]) -> list[Plan]:
    """The plans that no other one beats or equals in time and energy both; fastest first."""
    order = sorted(
        plans, key=lambda plan: (plan.totals.time_s, plan.totals.energy_j, len(plan.applied), plan.graph.key)
    )
    kept: list[Plan] = []
    for plan in order:
        if not kept or plan.totals.energy_j < kept[-1].totals.energy_j:
            kept.append(plan)
    return kept
