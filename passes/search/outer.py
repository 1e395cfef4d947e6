"""Outer search: relaxed backtracking over graph substitutions (first paper, Section 3.3, Algorithm 1)."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from joulec.passes.graph import Graph, Node
from joulec.passes.rules import Rule, substitutions
from joulec.passes.search.choices import Choice, CostingError, CostSource, Options
from joulec.passes.search.inner import Assignment, InnerSearch, Mode
from joulec.passes.search.objective import Objective
from joulec.passes.search.totals import GraphFigures, Totals


@dataclass(frozen=True)
class SearchOptions:
    """How far to search.

    Attributes:
        alpha: a graph is kept while it costs less than alpha times the best (1: greedy).
        budget: how many graphs are expanded; 0 turns the outer search off.
        inner: how algorithms are assigned; ``none`` keeps the fastest of every node.
        distance: d of the inner search's neighbourhood.
        time_limit_s: seconds after which the best so far is returned; None for no limit.
    """

    alpha: float = 1.05
    budget: int = 300
    inner: Mode = "exact"
    distance: int = 2
    time_limit_s: float | None = None


@dataclass(frozen=True)
class Plan:
    """A graph with an algorithm for every node.

    Attributes:
        choices: per node of ``graph.nodes``, the algorithm and its cost.
        totals: sums over the nodes.
        optimal: whether no other assignment of this graph is better, proven.
        applied: the substitutions that led here from the original graph, in order: (rule, graph after it).
    """

    graph: Graph
    choices: tuple[Choice, ...]
    totals: Totals
    optimal: bool = False
    applied: tuple[tuple[str, Graph], ...] = ()

    @property
    def assignment(self) -> Mapping[Node, Choice]:
        """Choice by node."""
        return dict(zip(self.graph.nodes, self.choices, strict=True))


@dataclass
class SearchStatistics:
    """What a search did.

    Attributes:
        expanded: graphs taken from the queue and rewritten.
        generated: graphs that rewriting gave.
        duplicates: of these, graphs met before (dropped before costing).
        inadmissible: of these, graphs with an operator that no algorithm computes.
        pruned: of these, graphs dropped because their lower bound cannot win.
        seconds: wall time.
        cut: whether the time limit ended it.
        exhausted: whether the queue ran empty, so that every graph within alpha of the best was seen.
    """

    expanded: int = 0
    generated: int = 0
    duplicates: int = 0
    inadmissible: int = 0
    pruned: int = 0
    seconds: float = 0.0
    cut: bool = False
    exhausted: bool = False


@dataclass(frozen=True)
class SearchResult:
    """The best plan, the original's, and how it was found."""

    origin: Plan
    best: Plan
    statistics: SearchStatistics
    met_bounds: bool

    @property
    def substitutions(self) -> tuple[tuple[str, int], ...]:
        """How often each rule stands on the way from the original to the best graph."""
        return tuple(sorted(Counter(rule for rule, _ in self.best.applied).items()))


@dataclass(frozen=True)
class _State:
    graph: Graph
    figures: GraphFigures
    assignment: Assignment
    parent: _State | None = None
    rule: str = ""

    @property
    def order(self) -> tuple[float, float, int]:
        """Bounds first, then cost; ties by the graph's hash."""
        return (*self.assignment.rank, self.graph.key)

    def applied(self) -> tuple[tuple[str, Graph], ...]:
        steps: list[tuple[str, Graph]] = []
        state: _State | None = self
        while state is not None and state.parent is not None:
            steps.append((state.rule, state.graph))
            state = state.parent
        return tuple(reversed(steps))


@dataclass
class OuterSearch:
    """One search of one graph under one objective.

    Attributes:
        rules: the substitutions.
        costs: where costs come from; asked for all specs of an expansion at once, so that it can measure in batches.
        objective: what is minimised.
        options: how far to search.
        tidy: canonicalises a rewritten graph.
        on_progress: called after every expansion with the statistics and the best value so far.
        clock: seconds, monotonic.
    """

    rules: tuple[Rule, ...]
    costs: CostSource
    objective: Objective
    options: SearchOptions = SearchOptions()
    tidy: Callable[[Graph], Graph] = lambda graph: graph
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None
    clock: Callable[[], float] = time.monotonic
    statistics: SearchStatistics = field(default_factory=SearchStatistics)

    def run(self, graph: Graph) -> SearchResult:
        """Search from a canonical graph.

        Raises:
            CostingError: the original graph itself has an operator without a known cost.
        """
        began = self.clock()
        self.costs.prepare({node.spec for node in graph.nodes})
        for node in graph.nodes:
            if not len(self.costs.options(node.spec)):
                raise CostingError(f"no algorithm with a known cost computes {node}")
        figures = GraphFigures.of(graph)
        fastest = InnerSearch(self.objective, Totals(1.0, 1.0), "none").solve(self._options(graph), figures)
        origin = fastest.totals
        inner = InnerSearch(self.objective, origin, self.options.inner, self.options.distance)
        start = _State(graph, figures, inner.solve(self._options(graph), figures))
        best = self._explore(start, inner, began)
        self.statistics.seconds = self.clock() - began
        return SearchResult(
            self._plan(_State(graph, figures, fastest)),
            self._plan(best),
            self.statistics,
            best.assignment.excess == 0.0,
        )

    def _explore(self, start: _State, inner: InnerSearch, began: float) -> _State:
        best = start
        seen = {start.graph.key}
        queue = [(start.order, start)]
        limit = self.options.time_limit_s
        while queue and self.statistics.expanded < self.options.budget:
            if limit is not None and self.clock() - began >= limit:
                self.statistics.cut = True
                break
            _, state = heapq.heappop(queue)
            self.statistics.expanded += 1
            fresh = [(rule, graph) for rule, graph in self._neighbours(state.graph) if self._is_new(graph, seen)]
            hopeful = [(rule, graph) for rule, graph in fresh if self._may_win(graph, best, inner)]
            self.costs.prepare({node.spec for _, graph in hopeful for node in graph.nodes})
            for rule, graph in hopeful:
                options = self._options(graph)
                if not all(map(len, options)):
                    self.statistics.inadmissible += 1
                    continue
                figures = GraphFigures.of(graph)
                found = _State(graph, figures, inner.solve(options, figures), state, rule.name)
                if found.assignment.rank < best.assignment.rank:
                    best = found
                if self._keeps(found.assignment, best.assignment):
                    heapq.heappush(queue, (found.order, found))
            self.on_progress(self.statistics, best.assignment.value)
        self.statistics.exhausted = not queue
        return best

    def _neighbours(self, graph: Graph) -> Iterator[tuple[Rule, Graph]]:
        for rule, match in substitutions(graph, self.rules):
            self.statistics.generated += 1
            yield rule, self.tidy(graph.apply(rule.rewrite(graph, match)))

    def _is_new(self, graph: Graph, seen: set[int]) -> bool:
        if graph.key in seen:
            self.statistics.duplicates += 1
            return False
        seen.add(graph.key)
        return True

    def _keeps(self, found: Assignment, best: Assignment) -> bool:
        """Whether a graph is enqueued: it costs less than alpha times the best, or nearly keeps the bounds."""
        slack = self.options.alpha - 1.0
        if found.excess > 0:
            return found.excess <= best.excess + slack
        return found.value < self.options.alpha * best.value

    def _may_win(self, graph: Graph, best: _State, inner: InnerSearch) -> bool:
        """Whether the graph's lower bound leaves it a place in the queue."""
        only_time_and_energy = self.objective.linear is not None or self.objective.product
        if not (self.objective.monotone and only_time_and_energy) or best.assignment.excess > 0:
            return True
        bounds = [self.costs.lower_bound(node.spec) for node in graph.nodes]
        least = Totals(math.fsum(seconds for seconds, _ in bounds), math.fsum(joules for _, joules in bounds))
        if float(inner.objective.value(least, inner.origin)) < self.options.alpha * best.assignment.value:
            return True
        self.statistics.pruned += 1
        return False

    def _options(self, graph: Graph) -> list[Options]:
        return [self.costs.options(node.spec) for node in graph.nodes]

    def _plan(self, state: _State) -> Plan:
        options = self._options(state.graph)
        chosen = tuple(of.choices[pick] for of, pick in zip(options, state.assignment.picks, strict=True))
        return Plan(state.graph, chosen, state.assignment.totals, state.assignment.optimal, state.applied())
