"""Searching graphs that are too large for one search: by parts, joined, and again across the seams."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Graph, Node, Value
from joulec.passes.graph.graph import replace_operands
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.moves import MoveFinder
from joulec.passes.search.objective import Objective
from joulec.passes.search.outer import OuterSearch, Plan, SearchOptions, SearchResult, SearchStatistics
from joulec.passes.search.partition import Part, cut
from joulec.passes.search.totals import GraphFigures, Totals

LARGE = 200
"""Nodes from which on a graph is cut; below, one search sees all of it."""
PART_NODES = 40
PASSES = 2


def search(
    graph: Graph,
    rules: tuple[Rule, ...],
    costs: CostSource,
    objective: Objective,
    options: SearchOptions,
    tidy: Callable[[Graph], Graph],
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None,
) -> SearchResult:
    """Search a graph of any size; see `OuterSearch` and `PartitionedSearch`."""
    by_parts = len(graph.nodes) > LARGE and not objective.uses_figures
    kind = PartitionedSearch if by_parts else OuterSearch
    return kind(rules, costs, objective, options, tidy, on_progress).run(graph)


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

    def run(self, graph: Graph) -> SearchResult:
        """Search from a canonical graph; raises as `OuterSearch.run`."""
        began = self.clock()
        self._finder = MoveFinder(self.rules, self.tidy)
        still = replace(self.options, budget=0)
        whole = OuterSearch(self.rules, self.costs, self.objective, still, self.tidy).run(graph)
        best, origin = whole.best, whole.origin.totals
        inner = InnerSearch(self.objective, origin, self.options.inner, self.options.distance)
        steps: list[tuple[str, Graph]] = []
        seams: list[Node] = []
        for _ in range(PASSES if self.options.budget else 0):
            joined, names, seams = self._pass(best.graph, self._weights(best.totals, origin), seams, began)
            found = self._assigned(joined, inner)
            if self._rank(found.totals, origin) < self._rank(best.totals, origin):
                steps += [(name, joined) for name in names]
                best = replace(found, applied=tuple(steps))
        self.statistics.seconds = self.clock() - began
        return SearchResult(whole.origin, best, self.statistics, self._rank(best.totals, origin)[0] == 0.0)

    def _pass(
        self, graph: Graph, weights: tuple[float, float], seams: list[Node], began: float
    ) -> tuple[Graph, list[str], list[Node]]:
        """Search all parts.

        Returns:
            The joined graph, the substitutions in order, and the nodes with which its parts begin.
        """
        paths: dict[int, tuple[int, ...]] = {}
        nodes: list[Node] = []
        names: list[str] = []
        starts: list[Node] = []
        renamed: dict[Value, Value] = {}
        for part in cut(graph, self.rules, PART_NODES, seams):
            if part.signature not in paths and not self._late(began):
                paths[part.signature] = self._search_part(part, weights, began)
            result, applied = self._follow(part.graph, paths.get(part.signature, ()))
            names += applied
            fresh = [replace_operands(node, renamed) for node in result.nodes]
            starts += fresh[:1]
            nodes += fresh
            pairs = zip(part.graph.outputs, result.outputs, strict=True)
            renamed.update({old: renamed.get(new, new) for old, new in pairs if old != new})
        outputs = [renamed.get(value, value) for value in graph.outputs]
        return Graph.build(graph.inputs, outputs, nodes, graph.output_names), names, starts

    def _search_part(self, part: Part, weights: tuple[float, float], began: float) -> tuple[int, ...]:
        """The way to the part's best graph, as indices among the moves of each graph on it."""
        self.costs.prepare({node.spec for node in part.graph.nodes})
        time_weight, energy_weight = weights
        slowest = sum(float(self.costs.options(node.spec).times.max()) for node in part.graph.nodes)
        above_zero = max(-time_weight, 0.0) * slowest
        objective = Objective(
            "part",
            lambda totals, origin: _weigh(totals, weights) + above_zero,
            linear=lambda origin: weights,
            monotone=min(weights) >= 0,
            uses_energy=energy_weight != 0,
        )
        limit = self.options.time_limit_s
        left = None if limit is None else max(limit - (self.clock() - began), 0.0)
        options = replace(self.options, time_limit_s=left)
        one = OuterSearch(self.rules, self.costs, objective, options, self.tidy, clock=self.clock)
        path = one.run(part.graph).best.path
        self.statistics.add(one.statistics)
        self.on_progress(self.statistics, 1.0)
        return path

    def _follow(self, graph: Graph, path: tuple[int, ...]) -> tuple[Graph, list[str]]:
        """Apply the moves of those indices one after another."""
        moves = self._finder.all(graph) if path else {}
        names: list[str] = []
        for index in path:
            move = [move for node in graph.nodes for move in moves.get(node, ())][index]
            following = move.applied(graph)
            moves = self._finder.after(following, move, moves)
            graph = following
            names.append(move.rule)
        return graph, names

    def _assigned(self, graph: Graph, inner: InnerSearch) -> Plan:
        self.costs.prepare({node.spec for node in graph.nodes})
        options = [self.costs.options(node.spec) for node in graph.nodes]
        assignment = inner.solve(options, GraphFigures.of(graph))
        chosen = tuple(of.choices[pick] for of, pick in zip(options, assignment.picks, strict=True))
        return Plan(graph, chosen, assignment.totals, assignment.optimal)

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


def _weigh(totals: Totals, weights: tuple[float, float]) -> float:
    return float(sum(w * part for w, part in zip(weights, (totals.time_s, totals.energy_j), strict=True) if w != 0))
