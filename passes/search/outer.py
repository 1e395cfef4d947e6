"""Outer search: relaxed backtracking over graph substitutions (first paper, Section 3.3, Algorithm 1)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from joulec.passes.graph import Graph, Node
from joulec.passes.rules import Rule
from joulec.passes.search.agenda import Agenda
from joulec.passes.search.choices import Choice, CostingError, CostSource, Options
from joulec.passes.search.edges import EdgeCosts, edge_tables
from joulec.passes.search.inner import Assignment, BoundMethod, InnerSearch, Mode
from joulec.passes.search.moves import Move, MoveFinder, Moves
from joulec.passes.search.objective import Objective, ObjectiveError
from joulec.passes.search.pricing import Price, make_pricer
from joulec.passes.search.totals import GraphFigures, Totals

_KEYS = (1 << 128) - 1
_FINALISTS = 8
_SOLVED = 256
_CROWD = 4096
_SMALL = 4096


@dataclass(frozen=True)
class SearchOptions:
    """How far to search.

    Attributes:
        alpha: a graph is kept while it costs less than alpha times the best (1: greedy).
        budget: how many graphs are expanded; 0 turns the outer search off.
        inner: how algorithms are assigned; ``none`` keeps the fastest of every node.
        distance: d of the inner search's neighbourhood.
        time_limit_s: seconds after which the best so far is returned; None for no limit.
        bound_method: how the inner search keeps bounds.
    """

    alpha: float = 1.05
    budget: int = 300
    inner: Mode = "exact"
    distance: int = 2
    time_limit_s: float | None = None
    bound_method: BoundMethod = "exact"


@dataclass(frozen=True)
class Plan:
    """A graph with an algorithm for every node.

    Attributes:
        choices: per node of ``graph.nodes``, the algorithm and its cost.
        totals: sums over the nodes.
        optimal: whether no other assignment of this graph is better, proven.
        applied: the substitutions that led here from the original graph, in order: (rule, graph after it).
        path: the same as indices among the moves of each graph on the way.
        gap: how far the objective may lie above its least on this graph, relative to it; None: nothing is proven.
    """

    graph: Graph
    choices: tuple[Choice, ...]
    totals: Totals
    optimal: bool = False
    applied: tuple[tuple[str, Graph], ...] = ()
    path: tuple[int, ...] = ()
    gap: float | None = None

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

    def add(self, other: SearchStatistics) -> None:
        """Count another search's graphs with these."""
        self.expanded += other.expanded
        self.generated += other.generated
        self.duplicates += other.duplicates
        self.inadmissible += other.inadmissible
        self.pruned += other.pruned
        self.cut = self.cut or other.cut


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


@dataclass
class _State:
    """A graph that was priced; it is built only when it is expanded or wins."""

    key: int
    price: Price
    parent: _State | None = None
    move: Move | None = None
    graph: Graph | None = None
    moves: Moves | None = None
    steps: int = 0

    @property
    def order(self) -> tuple[float, float, int]:
        """Bounds first, then cost; ties by the graph's hash."""
        return (*self.price.rank, self.key)

    @property
    def standing(self) -> tuple[float, float, int, int]:
        """Among equals, the graph that fewer substitutions lead to comes first: the original before all."""
        return (*self.price.rank, self.steps, self.key)

    @property
    def free_order(self) -> tuple[float, int]:
        """Cost as if there were no bounds."""
        return (self.price.rank[1] if self.price.free is None else self.price.free, self.key)

    def built(self) -> Graph:
        """The graph."""
        if self.graph is None:
            assert self.parent is not None
            assert self.move is not None
            self.graph = self.move.applied(self.parent.built())
        return self.graph

    def applied(self) -> tuple[tuple[str, Graph], ...]:
        """The way from the original graph."""
        steps: list[tuple[str, Graph]] = []
        state = self
        while state.parent is not None and state.move is not None:
            steps.append((state.move.rule, state.built()))
            state = state.parent
        return tuple(reversed(steps))

    def path(self) -> tuple[int, ...]:
        """The same as indices among the moves of each graph on the way."""
        steps: list[int] = []
        state = self
        while state.parent is not None and state.parent.moves is not None:
            found = [move for node in state.parent.built().nodes for move in state.parent.moves.get(node, ())]
            steps.append(next(index for index, move in enumerate(found) if move is state.move))
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
        finder: finds substitutions; searches of one graph with equal rules may share one, which remembers.
    """

    rules: tuple[Rule, ...]
    costs: CostSource
    objective: Objective
    options: SearchOptions = SearchOptions()
    tidy: Callable[[Graph], Graph] = lambda graph: graph
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None
    clock: Callable[[], float] = time.monotonic
    statistics: SearchStatistics = field(default_factory=SearchStatistics)
    finder: MoveFinder | None = None

    def run(self, graph: Graph) -> SearchResult:
        """Search from a canonical graph.

        Raises:
            CostingError: the original graph itself has an operator without a known cost, or without the known energy
                that the objective needs.
            ObjectiveError: the objective has no value for the original graph.
        """
        began = self.clock()
        self.statistics = SearchStatistics()
        self.costs.prepare({node.spec for node in graph.nodes})
        for node in graph.nodes:
            if not len(self.costs.options(node.spec)):
                raise CostingError(f"no algorithm with a known cost computes {node}")
        options = self._options(graph.nodes)
        figures = GraphFigures.of(graph)
        origin = _fastest(options, figures)
        if self.objective.uses_energy and self.objective.vectorised and math.isnan(origin.energy_j):
            raise CostingError(f"the objective {self.objective.name} needs energies, and the costs at hand have none")
        fastest = InnerSearch(self.objective, origin, "none").solve(options, figures)
        if math.isnan(fastest.value):
            raise ObjectiveError(f"the objective {self.objective.name} has no value for the original graph")
        self._inner = InnerSearch(
            self.objective, origin, self.options.inner, self.options.distance, self.options.bound_method
        )
        small = math.prod(min(len(of), _SMALL) for of in options) <= _SMALL
        linked = isinstance(self.costs, EdgeCosts)
        self._pricer = None
        if not linked:
            self._pricer = make_pricer(
                self.objective, origin, self.options.inner, self.options.bound_method, exactly=small
            )
        start = _State(graph.key, self._whole_price(graph), graph=graph)
        state, assignment = self._winner(self._explore(start, began))
        self.statistics.seconds = self.clock() - began
        return SearchResult(
            self._plan(start, fastest), self._plan(state, assignment), self.statistics, assignment.excess == 0.0
        )

    def _explore(self, start: _State, began: float) -> list[_State]:
        """Algorithm 1.

        Returns:
            The graphs that may win, best first.
        """
        finder = self.finder or MoveFinder(self.rules, self.tidy)
        best = start
        finalists = [start]
        seen = {start.key}
        agenda: Agenda[_State] = Agenda()
        agenda.push(start, ranked=True, free=False)
        least_free = start.free_order[0]
        limit = self.options.time_limit_s
        while self.statistics.expanded < self.options.budget:
            if limit is not None and self.clock() - began >= limit:
                self.statistics.cut = True
                break
            state = agenda.pop()
            if state is None:
                break
            self.statistics.expanded += 1
            state.moves = self._moves(finder, state)
            for found in self._children(state, best, seen):
                improves = found.price.rank < best.price.rank
                if improves:
                    best = found
                least_free = min(least_free, found.free_order[0])
                ranked = improves or self._keeps(found.price, best.price)
                free = found.price.free is not None and found.price.free <= self._within_alpha(least_free)
                agenda.push(found, ranked=ranked, free=free)
                if ranked or free or self._bounding:
                    finalists.append(found)
            if len(finalists) > _CROWD:
                finalists = self._hopeful(finalists)
            self.on_progress(self.statistics, best.price.rank[1])
        self.statistics.exhausted = agenda.empty
        return sorted(finalists, key=lambda one: one.standing)

    def _moves(self, finder: MoveFinder, state: _State) -> Moves:
        graph = state.built()
        if state.parent is None or state.move is None or state.parent.moves is None:
            return finder.all(graph)
        return finder.after(graph, state.move, state.parent.moves)

    def _children(self, state: _State, best: _State, seen: set[int]) -> list[_State]:
        """The graphs one substitution away that are new, may win and can be priced."""
        assert state.moves is not None
        fresh = []
        for node in state.built().nodes:
            for move in state.moves.get(node, ()):
                self.statistics.generated += 1
                key = (state.key + move.key_shift) & _KEYS
                if key in seen:
                    self.statistics.duplicates += 1
                    continue
                seen.add(key)
                fresh.append((key, move))
        hopeful = [(key, move) for key, move in fresh if self._may_win(state, move, best)]
        self.costs.prepare({node.spec for _, move in hopeful for node in move.added})
        found = []
        for key, move in hopeful:
            added = self._options(move.added)
            if not all(map(len, added)):
                self.statistics.inadmissible += 1
                continue
            child = _State(key, state.price, state, move, steps=state.steps + 1)
            child.price = self._price(child, move, added)
            found.append(child)
        return found

    def _price(self, child: _State, move: Move, added: Sequence[Options]) -> Price:
        if self._pricer is None:
            return self._whole_price(child.built())
        return self._pricer.after(child.price, self._options(move.removed), added)

    def _whole_price(self, graph: Graph) -> Price:
        options = self._options(graph.nodes)
        if self._pricer is not None:
            return self._pricer.whole(options)
        solved = self._solve(graph)
        return Price(solved.rank, float(solved.totals.time_s), float(solved.totals.energy_j))

    def _keeps(self, found: Price, best: Price) -> bool:
        """Whether a graph is enqueued: it costs less than alpha times the best, or nearly keeps the bounds."""
        (excess, value), (least_excess, least) = found.rank, best.rank
        if excess > 0:
            return excess <= least_excess + self.options.alpha - 1.0
        return value < self._within_alpha(least)

    def _within_alpha(self, least: float) -> float:
        """Alpha times a cost; as far above it where it is negative."""
        alpha = max(self.options.alpha, 1.0)
        return alpha * least if least >= 0 else (2.0 - alpha) * least

    def _may_win(self, state: _State, move: Move, best: _State) -> bool:
        """Whether the lower bound of a graph with operators of unknown cost leaves it a place in the queue."""
        only_time_and_energy = self.objective.linear is not None or self.objective.product
        if not (self.objective.monotone and only_time_and_energy) or self.objective.bounds:
            return True
        if all(self.costs.knows(node.spec) for node in move.added):
            return True
        gone = set(move.removed)
        nodes = [*(node for node in state.built().nodes if node not in gone), *move.added]
        bounds = [self.costs.lower_bound(node.spec) for node in nodes]
        least = Totals(math.fsum(seconds for seconds, _ in bounds), math.fsum(joules for _, joules in bounds))
        if float(self.objective.value(least, self._inner.origin)) < self._within_alpha(best.price.rank[1]):
            return True
        self.statistics.pruned += 1
        return False

    def _options(self, nodes: Iterable[Node]) -> list[Options]:
        return [self.costs.options(node.spec) for node in nodes]

    def _solve(self, graph: Graph) -> Assignment:
        options = self._options(graph.nodes)
        return self._inner.solve(options, GraphFigures.of(graph), edge_tables(graph, options, self.costs))

    @property
    def _bounding(self) -> bool:
        """Whether prices are lower bounds that the best assignment may lie above."""
        return self._pricer is not None and self._pricer.bounding and not self._pricer.exact

    def _hopeful(self, finalists: Sequence[_State]) -> list[_State]:
        """The graphs that may still win, once the one of the least price is solved."""
        ordered = sorted(finalists, key=lambda one: one.standing)
        if not self._bounding:
            return ordered[:_FINALISTS]
        reached = self._solve(ordered[0].built()).rank
        return [ordered[0], *(state for state in ordered[1 : _CROWD // 2] if state.price.rank < reached)]

    def _winner(self, finalists: Sequence[_State]) -> tuple[_State, Assignment]:
        """The best of the finalists, each under the assignment that the inner search finds for it.

        Where prices are lower bounds, all are solved that may still win, in the order of their prices.
        """
        best = finalists[0], self._solve(finalists[0].built())
        if self._pricer is None or self._pricer.exact:
            return best
        for state in finalists[1 : _SOLVED if self._bounding else _FINALISTS]:
            if self._bounding and not state.price.rank < best[1].rank:
                break
            graph = state.built()
            if best[1].excess > 0.0 or not self._bounding:
                found: Assignment | None = self._solve(graph)
            else:
                found = self._inner.improve(self._options(graph.nodes), GraphFigures.of(graph), best[1].value)
            if found is not None and found.rank < best[1].rank:
                best = state, found
        return best

    def _plan(self, state: _State, assignment: Assignment) -> Plan:
        graph = state.built()
        options = self._options(graph.nodes)
        chosen = tuple(of.choices[pick] for of, pick in zip(options, assignment.picks, strict=True))
        applied, path = state.applied(), state.path()
        return Plan(graph, chosen, assignment.totals, assignment.optimal, applied, path, assignment.gap)


def _fastest(options: Sequence[Options], figures: GraphFigures) -> Totals:
    """Totals under the fastest algorithm of every node."""
    points = [of.cheapest_point(1.0, 0.0) for of in options]
    return figures.totals(math.fsum(time for time, _ in points), math.fsum(energy for _, energy in points))
