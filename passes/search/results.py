"""How far a search goes, and what it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from joulec.passes.graph import Graph, Node
from joulec.passes.search.choices import Choice
from joulec.passes.search.inner import BoundMethod, Mode
from joulec.passes.search.totals import Totals


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
