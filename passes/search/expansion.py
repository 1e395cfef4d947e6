"""Graphs that a search has met, and the graphs one substitution away from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from joulec.passes.graph import Graph, Node
from joulec.passes.search.choices import CostSource, Options
from joulec.passes.search.moves import Move, MoveFinder, Moves
from joulec.passes.search.results import SearchStatistics

_KEYS = (1 << 128) - 1


@dataclass
class State:
    """A graph that was met; it is built only when it is expanded or wins.

    Attributes:
        key: the graph's hash.
        parent: where it was found from; None for the original.
        move: the substitution that leads here from there.
        graph: the graph, once it is built.
        moves: the substitutions that apply to it, once it is expanded.
        steps: how many substitutions lead here.
    """

    key: int
    parent: Self | None = None
    move: Move | None = None
    graph: Graph | None = None
    moves: Moves | None = None
    steps: int = 0

    def built(self) -> Graph:
        """The graph."""
        if self.graph is None:
            assert self.parent is not None
            assert self.move is not None
            self.graph = self.move.applied(self.parent.built())
        return self.graph

    def applied(self) -> tuple[tuple[str, Graph], ...]:
        """The way from the original graph."""
        return tuple((move.rule, state.built()) for state, move in reversed([*self._way()]))

    def path(self) -> tuple[int, ...]:
        """The same as indices among the moves of each graph on the way."""
        return tuple(state.parent.index(move) for state, move in reversed([*self._way()]) if state.parent)

    def index(self, move: Move) -> int:
        """A move's place among those of this expanded graph."""
        assert self.moves is not None
        found = [one for node in self.built().nodes for one in self.moves.get(node, ())]
        return next(index for index, one in enumerate(found) if one is move)

    def _way(self) -> Iterator[tuple[Self, Move]]:
        state = self
        while state.parent is not None and state.move is not None:
            yield state, state.move
            state = state.parent


@dataclass
class Expander:
    """Finds the graphs one substitution away that were not met before and can be priced.

    Attributes:
        finder: finds the substitutions.
        costs: asked for all new operators of an expansion at once, so that it can measure in batches.
        statistics: where graphs are counted.
        seen: hashes of the graphs that were met.
    """

    finder: MoveFinder
    costs: CostSource
    statistics: SearchStatistics
    seen: set[int] = field(default_factory=set)

    def expand(
        self, state: State, may_win: Callable[[Move], bool] = lambda move: True
    ) -> Iterator[tuple[int, Move, list[Options], list[Options]]]:
        """Rewrite a graph in every way.

        Args:
            may_win: whether a substitution that brings operators of unknown cost is worth pricing.

        Yields:
            Hash of the new graph, the substitution, options of the nodes that go and of those that come.
        """
        self.statistics.expanded += 1
        state.moves = self._moves(state)
        fresh = []
        for node in state.built().nodes:
            for move in state.moves.get(node, ()):
                self.statistics.generated += 1
                key = (state.key + move.key_shift) & _KEYS
                if key in self.seen:
                    self.statistics.duplicates += 1
                    continue
                self.seen.add(key)
                fresh.append((key, move))
        hopeful = [(key, move) for key, move in fresh if may_win(move)]
        self.costs.prepare({node.spec for _, move in hopeful for node in move.added})
        for key, move in hopeful:
            added = self.options(move.added)
            if all(map(len, added)):
                yield key, move, self.options(move.removed), added
            else:
                self.statistics.inadmissible += 1

    def options(self, nodes: Iterable[Node]) -> list[Options]:
        """What each node can be computed with."""
        return [self.costs.options(node.spec) for node in nodes]

    def _moves(self, state: State) -> Moves:
        graph = state.built()
        if state.parent is None or state.move is None or state.parent.moves is None:
            return self.finder.all(graph)
        return self.finder.after(graph, state.move, state.parent.moves)
