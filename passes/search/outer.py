"""Outer search: relaxed backtracking over graph substitutions (first paper, Section 3.3, Algorithm 1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from joulec.passes.graph import Graph, Node
from joulec.passes.rules import Rule
from joulec.passes.search.agenda import Agenda
from joulec.passes.search.assignment import Picks, Problem
from joulec.passes.search.choices import CostingError, CostSource, Options
from joulec.passes.search.edges import EdgeTable, edge_tables
from joulec.passes.search.expansion import Expander, State
from joulec.passes.search.inner import Assignment, InnerSearch
from joulec.passes.search.moves import Move, MoveFinder
from joulec.passes.search.objective import Objective, ObjectiveError, as_objective
from joulec.passes.search.pricing import Price, make_pricer
from joulec.passes.search.results import Plan, SearchOptions, SearchResult, SearchStatistics
from joulec.passes.search.totals import GraphFigures, Totals

_FINALISTS = 8
_SOLVED = 256
_CROWD = 4096
_SMALL = 4096
_TIME = as_objective("time")


@dataclass
class PricedState(State):
    """A graph that was priced."""

    price: Price = field(kw_only=True)

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
    options: SearchOptions = field(default_factory=SearchOptions)
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
        origin, picks, edges = self._original(graph, options, figures)
        if self.objective.uses_energy and self.objective.vectorised and math.isnan(origin.energy_j):
            raise CostingError(f"the objective {self.objective.name} needs energies, and the costs at hand have none")
        fastest = Problem(options, edges, figures, self.objective, origin).assignment(picks)
        if math.isnan(fastest.value):
            raise ObjectiveError(f"the objective {self.objective.name} has no value for the original graph")
        self._inner = InnerSearch(
            self.objective, origin, self.options.inner, self.options.distance, self.options.bound_method
        )
        small = math.prod(min(len(of), _SMALL) for of in options) <= _SMALL
        self._linked = bool(edges)
        self._pricer = None
        if not (self._linked and small):
            self._pricer = make_pricer(
                self.objective, origin, self.options.inner, self.options.bound_method, exactly=small
            )
        start = PricedState(graph.key, graph=graph, price=self._whole_price(graph))
        state, assignment = self._winner(start, self._explore(start, began))
        self.statistics.seconds = self.clock() - began
        return SearchResult(
            self._plan(start, fastest), self._plan(state, assignment), self.statistics, assignment.excess == 0.0
        )

    def _original(
        self, graph: Graph, options: Sequence[Options], figures: GraphFigures
    ) -> tuple[Totals, Picks, Sequence[EdgeTable]]:
        """Totals and picks of the original's fastest assignment, what stands on edges included.

        Without an inner search it is each node's fastest algorithm, as in every other graph.
        """
        edges = edge_tables(graph, options, self.costs)
        exactly = bool(edges) and self.options.inner != "none"
        search = InnerSearch(_TIME, Totals(1.0, 1.0), "exact" if exactly else "none")
        fastest = search.solve(options, figures, edges)
        return fastest.totals, fastest.picks, edges

    def _explore(self, start: PricedState, began: float) -> list[PricedState]:
        """Algorithm 1.

        Returns:
            The graphs that may win, best first.
        """
        finder = self.finder or MoveFinder(self.rules, self.tidy)
        expander = Expander(finder, self.costs, self.statistics, {start.key})
        best = start
        finalists = [start]
        agenda: Agenda[PricedState] = Agenda()
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
            for found in self._children(expander, state, best):
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

    def _children(self, expander: Expander, state: PricedState, best: PricedState) -> list[PricedState]:
        """The graphs one substitution away that are new, may win and can be priced."""
        found = []
        for key, move, removed, added in expander.expand(state, lambda move: self._may_win(state, move, best)):
            child = PricedState(key, state, move, steps=state.steps + 1, price=state.price)
            if self._pricer is None:
                child.price = self._whole_price(child.built())
            else:
                child.price = self._pricer.after(state.price, removed, added)
            found.append(child)
        return found

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

    def _may_win(self, state: PricedState, move: Move, best: PricedState) -> bool:
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
        """Whether prices are lower bounds that the best assignment may lie above.

        Prices know nothing of edges, whose costs only add to them; that is a bound where more never costs less.
        """
        if self._pricer is None or not self._pricer.bounding:
            return False
        return self.objective.monotone if self._linked else not self._pricer.exact

    def _hopeful(self, finalists: Sequence[PricedState]) -> list[PricedState]:
        """The graphs that may still win, once the one of the least price is solved."""
        ordered = sorted(finalists, key=lambda one: one.standing)
        if not self._bounding:
            return ordered[:_FINALISTS]
        reached = self._solve(ordered[0].built()).rank
        return [ordered[0], *(state for state in ordered[1 : _CROWD // 2] if state.price.rank < reached)]

    def _winner(self, start: PricedState, finalists: Sequence[PricedState]) -> tuple[PricedState, Assignment]:
        """The best of the finalists, each under the assignment that the inner search finds for it.

        Where prices are lower bounds, all are solved that may still win, in the order of their prices. Where edges
        cost something, the original is solved in any case.
        """
        best = finalists[0], self._solve(finalists[0].built())
        if self._pricer is None or (self._pricer.exact and not self._linked):
            return best
        if self._linked and finalists[0] is not start:
            original = self._solve(start.built())
            best = (start, original) if original.rank <= best[1].rank else best
        for state in finalists[1 : _SOLVED if self._bounding else _FINALISTS]:
            if self._bounding and not state.price.rank < best[1].rank:
                break
            graph = state.built()
            if best[1].excess > 0.0 or not self._bounding or self._linked:
                found: Assignment | None = self._solve(graph)
            else:
                found = self._inner.improve(self._options(graph.nodes), GraphFigures.of(graph), best[1].value)
            if found is not None and found.rank < best[1].rank:
                best = state, found
        return best

    def _plan(self, state: PricedState, assignment: Assignment) -> Plan:
        graph = state.built()
        options = self._options(graph.nodes)
        chosen = tuple(of.choices[pick] for of, pick in zip(options, assignment.picks, strict=True))
        applied, path = state.applied(), state.path()
        return Plan(graph, chosen, assignment.totals, assignment.optimal, applied, path, assignment.gap)
