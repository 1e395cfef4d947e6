"""Searching graphs that are too large for one search: by parts, joined, and again across the seams."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from joulec.passes.graph import Graph, Node, NodeSpec, Value
from joulec.passes.graph.graph import replace_operands
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource
from joulec.passes.search.edges import edge_tables
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.moves import Move, MoveFinder
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


@dataclass(frozen=True, slots=True)
class _Step:
    """A substitution in words that hold for all parts of one structure.

    Attributes:
        index: its place among the moves of the graph of the part that was searched.
        removed: how many nodes of each spec go.
        added: how many of each come.
    """

    index: int = field(compare=False)
    rule: str
    removed: frozenset[tuple[NodeSpec, int]]
    added: frozenset[tuple[NodeSpec, int]]

    @staticmethod
    def of(move: Move, index: int) -> _Step:
        """A move's step."""
        removed, added = (Counter(node.spec for node in nodes) for nodes in (move.removed, move.added))
        return _Step(index, move.rule, frozenset(removed.items()), frozenset(added.items()))


_Way = tuple[_Step, ...]


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
        how = self.options
        inner = InnerSearch(self.objective, origin, how.inner, how.distance, how.bound_method)
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
        ways: dict[int, _Way] = {}
        nodes: list[Node] = []
        names: list[str] = []
        starts: list[Node] = []
        renamed: dict[Value, Value] = {}
        for part in cut(graph, self.rules, PART_NODES, seams):
            result = self._follow(part.graph, ways.get(part.signature, ()))
            if (result is None or part.signature not in ways) and not self._late(began):
                ways[part.signature] = self._search_part(part, weights, began)
                result = self._follow(part.graph, ways[part.signature])
            if result is None:
                result = part.graph
            else:
                names += [step.rule for step in ways.get(part.signature, ())]
            fresh = [replace_operands(node, renamed) for node in result.nodes]
            starts += fresh[:1]
            nodes += fresh
            pairs = zip(part.graph.outputs, result.outputs, strict=True)
            renamed.update({old: renamed.get(new, new) for old, new in pairs if old != new})
        outputs = [renamed.get(value, value) for value in graph.outputs]
        return Graph.build(graph.inputs, outputs, nodes, graph.output_names), names, starts

    def _search_part(self, part: Part, weights: tuple[float, float], began: float) -> _Way:
        """The way to the part's best graph."""
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
        graph, steps = part.graph, []
        moves = self._finder.all(graph) if path else {}
        for index in path:
            move = [move for node in graph.nodes for move in moves.get(node, ())][index]
            steps.append(_Step.of(move, index))
            following = move.applied(graph)
            moves = self._finder.after(following, move, moves)
            graph = following
        return tuple(steps)

    def _follow(self, graph: Graph, way: _Way) -> Graph | None:
        """Take the same steps in a part of the same structure.

        Returns:
            None where one is not there: the order among equals depends on the names of values, and what a rule does may
            depend on the contents of weights.
        """
        moves = self._finder.all(graph) if way else {}
        for step in way:
            there = [move for node in graph.nodes for move in moves.get(node, ())]
            likely = there[step.index : step.index + 1]
            move = next((move for move in (*likely, *there) if _Step.of(move, step.index) == step), None)
            if move is None:
                return None
            following = move.applied(graph)
            moves = self._finder.after(following, move, moves)
            graph = following
        return graph

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


def _weigh(totals: Totals, weights: tuple[float, float]) -> float:
    return float(sum(w * part for w, part in zip(weights, (totals.time_s, totals.energy_j), strict=True) if w != 0))
