"""One outer search under many linear objectives at once.

A linear objective is a line in the plane of time and energy: the best graph under it touches it first. Prices under all
lines are found together, because each is a sum over nodes, so a search that serves them all costs little more than one.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Graph
from joulec.passes.rules import Rule
from joulec.passes.search.choices import CostSource, Options
from joulec.passes.search.expansion import Expander, State
from joulec.passes.search.moves import MoveFinder
from joulec.passes.search.results import SearchOptions, SearchStatistics

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass
class LinedState(State):
    """A graph with its least cost under each line."""

    values: Floats = field(kw_only=True)


@dataclass
class LineSearch:
    """Relaxed best-first search (first paper, Algorithm 1) under all lines in turn, which share the graphs they meet.

    A graph waits under every line under which it costs less than alpha times the best. The lines take turns; each
    expands the best that waits under it and that no other line has expanded, as often as the budget says.

    Attributes:
        rules: the substitutions.
        costs: where costs come from; time and energy of every choice are known. What edges cost is left out.
        lines: per line, what a second and what a joule count, of shape [lines, 2].
        options: how far to search; algorithms are assigned exactly.
        tidy: canonicalises a rewritten graph.
        on_progress: called after every expansion with the statistics and the least value of the first line.
        clock: seconds, monotonic.
    """

    rules: tuple[Rule, ...]
    costs: CostSource
    lines: Floats
    options: SearchOptions = field(default_factory=SearchOptions)
    tidy: Callable[[Graph], Graph] = lambda graph: graph
    on_progress: Callable[[SearchStatistics, float], None] = lambda statistics, value: None
    clock: Callable[[], float] = time.monotonic
    statistics: SearchStatistics = field(default_factory=SearchStatistics)

    def run(self, graph: Graph) -> list[LinedState]:
        """Every graph that was near the best under some line when it was met; the original comes first."""
        began = self.clock()
        self._values: dict[Options, Floats] = {}
        start = LinedState(graph.key, graph=graph, values=self._whole(graph))
        expander = Expander(MoveFinder(self.rules, self.tidy), self.costs, self.statistics, {start.key})
        waiting: list[list[tuple[float, int, LinedState]]] = [[] for _ in self.lines]
        self._wait(waiting, start, np.ones(len(self.lines), dtype=bool))
        best, met, expanded = start.values.copy(), [start], set[int]()
        for _ in range(self.options.budget):
            for line in waiting:
                state = _next(line, expanded)
                if state is None:
                    continue
                if self._late(began):
                    break
                for key, move, removed, added in expander.expand(state):
                    child = LinedState(key, state, move, steps=state.steps + 1, values=state.values)
                    child.values = self._after(child, removed, added)
                    near = child.values < best + (max(self.options.alpha, 1.0) - 1.0) * np.abs(best)
                    best = np.minimum(best, child.values)
                    if near.any():
                        met.append(child)
                        self._wait(waiting, child, near)
                self.on_progress(self.statistics, float(best[0]))
            if self.statistics.cut or not any(waiting):
                break
        self.statistics.exhausted = not any(waiting)
        self.statistics.seconds = self.clock() - began
        return met

    def _late(self, began: float) -> bool:
        limit = self.options.time_limit_s
        self.statistics.cut = limit is not None and self.clock() - began >= limit
        return self.statistics.cut

    def _wait(self, waiting: list[list[tuple[float, int, LinedState]]], state: LinedState, under: Flags) -> None:
        for line in np.flatnonzero(under).tolist():
            heapq.heappush(waiting[line], (float(state.values[line]), state.key, state))

    def _after(self, state: LinedState, removed: Sequence[Options], added: Sequence[Options]) -> Floats:
        """The values of a graph from its parent's, which it was given."""
        values = state.values.copy()
        for of in removed:
            values -= self._least(of)
        for of in added:
            values += self._least(of)
        return values

    def _whole(self, graph: Graph) -> Floats:
        return np.asarray(sum(self._least(self.costs.options(node.spec)) for node in graph.nodes))

    def _least(self, of: Options) -> Floats:
        """The least cost of one node under each line."""
        if of not in self._values:
            costs = self.lines[:, :1] * of.times + self.lines[:, 1:] * of.energies
            self._values[of] = costs.min(axis=1)
        return self._values[of]


def winners(met: Sequence[LinedState]) -> list[LinedState]:
    """Per line, the best graph; of equals the one that fewer substitutions lead to."""
    values = np.array([state.values for state in met])
    steps = np.array([state.steps for state in met])
    return [met[int(np.lexsort((steps, values[:, line]))[0])] for line in range(values.shape[1])]


def _next(line: list[tuple[float, int, LinedState]], expanded: set[int]) -> LinedState | None:
    """The best graph of those that wait under a line that no line has expanded."""
    while line:
        state = heapq.heappop(line)[2]
        if state.key not in expanded:
            expanded.add(state.key)
            return state
    return None
