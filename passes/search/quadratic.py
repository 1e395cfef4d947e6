"""The partitioned Boolean quadratic problem: one choice per node, a cost for each choice and for each pair on an edge.

Minimise Σ_i c_i[x_i] + Σ_(i,j) C_ij[x_i, x_j]. Nodes of degree 0, 1 and 2 are eliminated without loss (reductions R0,
RI and RII of Scholz & Eckstein 2002, applied to choosing primitives for a network by Anderson & Gregg 2018): this alone
is dynamic programming on chains, trees and series-parallel graphs. What is left is solved by branch and bound: a node
of highest degree is fixed, which takes it out of the graph, and the rest is reduced again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Solved:
    """Outcome of `solve`.

    Attributes:
        picks: per node, the index of its choice.
        value: the sum; infinite where no assignment is allowed.
        optimal: whether it is proven that none is less.
        gap: (value - proven lower bound) / |value|; 0 where optimal, None where nothing is proven.
    """

    picks: tuple[int, ...]
    value: float
    optimal: bool
    gap: float | None


def solve(
    node_costs: Sequence[Floats], edges: Mapping[tuple[int, int], Floats], *, max_branches: int = 20_000
) -> Solved:
    """Minimise the sum of node and edge costs.

    Args:
        node_costs: per node, the cost of each of its choices; infinite where a choice is not allowed.
        edges: by pair of nodes, in any direction, the cost of each pair of choices (rows: the first node's).
        max_branches: how many branches are looked into before the best so far is returned with its gap.

    Raises:
        ValueError: a node without choices, an edge to no node or of another shape, or a cost that is not a number or
            minus infinity.
    """
    state = _State.of(node_costs, edges)
    search = _Search(max_branches)
    search.explore(state)
    if search.picks is None:  # every assignment is infinite
        return Solved(tuple(0 for _ in node_costs), math.inf, search.lowest_open == math.inf, 0.0)
    picks = tuple(search.picks[index] for index in range(len(node_costs)))
    value = _value(node_costs, edges, picks)
    slack = _ROUNDING * max(1.0, abs(value))
    if search.lowest_open >= value - slack:
        return Solved(picks, value, True, 0.0)
    return Solved(picks, value, False, (value - search.lowest_open) / abs(value) if value else None)


def _value(node_costs: Sequence[Floats], edges: Mapping[tuple[int, int], Floats], picks: Sequence[int]) -> float:
    return math.fsum(
        [
            *(float(costs[pick]) for costs, pick in zip(node_costs, picks, strict=True)),
            *(float(costs[picks[first], picks[second]]) for (first, second), costs in edges.items()),
        ]
    )


Recall = Callable[[dict[int, int]], None]
"""Fills in the pick of an eliminated node, given those of all nodes that were eliminated after it."""


@dataclass
class _State:
    """A graph that shrinks; arrays are replaced, never written to, so that copies are shallow.

    Attributes:
        costs: by node, the cost of its choices.
        links: by node and neighbour, the cost of each pair (rows: the node's choices).
        constant: cost that is settled.
        trail: how to find the picks of eliminated nodes.
    """

    costs: dict[int, Floats]
    links: dict[int, dict[int, Floats]]
    constant: float = 0.0
    trail: list[Recall] = field(default_factory=list)

    @staticmethod
    def of(node_costs: Sequence[Floats], edges: Mapping[tuple[int, int], Floats]) -> _State:
        costs = {index: np.asarray(vector, dtype=float) for index, vector in enumerate(node_costs)}
        for index, vector in costs.items():
            if vector.ndim != 1 or not vector.size:
                raise ValueError(f"node {index} needs a vector of costs with one entry per choice, at least one")
            if np.isnan(vector).any() or (vector == -math.inf).any():
                raise ValueError(f"a cost of node {index} is not a number or minus infinity")
        state = _State(costs, {index: {} for index in costs})
        for (first, second), matrix in edges.items():
            pair = np.asarray(matrix, dtype=float)
            if first not in costs or second not in costs:
                raise ValueError(f"edge ({first}, {second}) joins nodes that are not there")
            if pair.shape != (costs[first].size, costs[second].size):
                raise ValueError(f"edge ({first}, {second}) needs one cost per pair of choices, not {pair.shape}")
            if np.isnan(pair).any() or (pair == -math.inf).any():
                raise ValueError(f"a cost of edge ({first}, {second}) is not a number or minus infinity")
            if first == second:
                state.costs[first] = state.costs[first] + np.diagonal(pair)
            else:
                state.link(first, second, pair)
        return state

    def copy(self) -> _State:
        links = {node: dict(others) for node, others in self.links.items()}
        return _State(dict(self.costs), links, self.constant, list(self.trail))

    def link(self, first: int, second: int, matrix: Floats) -> None:
        """Add an edge; parallel ones become one."""
        if second in self.links[first]:
            matrix = self.links[first][second] + matrix
        self.links[first][second] = matrix
        self.links[second][first] = matrix.T

    def remove(self, node: int) -> Floats:
        """Take a node out of the graph; its costs."""
        for other in self.links.pop(node):
            del self.links[other][node]
        return self.costs.pop(node)

    def fix(self, node: int, pick: int) -> None:
        """Settle a node's choice, which its neighbours' costs take up."""
        for other, matrix in self.links[node].items():
            self.costs[other] = self.costs[other] + matrix[pick]
        self.constant += float(self.remove(node)[pick])
        self.trail.append(lambda picks: picks.__setitem__(node, pick))

    def reduce(self) -> None:
        """Eliminate nodes of degree 0, 1 and 2 (R0, RI, RII) until there are none."""
        waiting = list(self.costs)
        while waiting:
            node = waiting.pop()
            if node not in self.costs or len(self.links[node]) > 2:
                continue
            around = dict(self.links[node])
            costs = self.remove(node)
            self._eliminate(node, costs, around)
            waiting.extend(around)

    def _eliminate(self, node: int, costs: Floats, around: Mapping[int, Floats]) -> None:
        def recall(picks: dict[int, int]) -> None:
            total = costs
            for other, matrix in around.items():
                total = total + matrix[:, picks[other]]
            picks[node] = int(np.argmin(total))

        self.trail.append(recall)
        if not around:
            self.constant += float(costs.min())
        elif len(around) == 1:
            [(other, matrix)] = around.items()
            self.costs[other] = self.costs[other] + (costs[:, None] + matrix).min(axis=0)
        else:
            (first, left), (second, right) = around.items()
            joint = (costs[:, None, None] + left[:, :, None] + right[:, None, :]).min(axis=0)
            self.link(first, second, joint)

    def settle(self) -> float:
        """Move what every pair of an edge costs at least to its nodes; a lower bound of the whole."""
        for first in self.costs:
            for second in list(self.links[first]):
                matrix = self.links[first][second]
                least = matrix.min(axis=1)
                self.costs[first] = self.costs[first] + least
                allowed = np.isfinite(least)
                moved = matrix - np.where(allowed, least, 0.0)[:, None]
                moved[~allowed] = 0.0  # the node's own cost forbids the choice from now on
                self.links[first][second] = moved
                self.links[second][first] = moved.T
        return self.constant + sum(float(costs.min()) for costs in self.costs.values())


class _Search:
    """Depth-first branch and bound.

    Attributes:
        value: of the best assignment so far.
        picks: the best assignment so far.
        lowest_open: the least lower bound among branches that were left unseen.
    """

    def __init__(self, max_branches: int) -> None:
        self.value = math.inf
        self.picks: dict[int, int] | None = None
        self.lowest_open = math.inf
        self._left = max_branches

    def explore(self, state: _State) -> None:
        """Look for better assignments in one branch, which is used up."""
        state.reduce()
        bound = state.settle()
        if bound == math.inf or bound >= self.value - _ROUNDING * abs(self.value):
            return
        if not state.costs:
            self.value = bound
            self.picks = {}
            for recall in reversed(state.trail):
                recall(self.picks)
            return
        self._left -= 1
        if self._left < 0 and (self.picks is not None or self._left < -len(state.costs) * 1000):
            self.lowest_open = min(self.lowest_open, bound)
            return
        node = max(state.costs, key=lambda one: (len(state.links[one]), -state.costs[one].size, -one))
        for pick in np.argsort(state.costs[node], kind="stable").tolist():
            branch = state.copy()
            branch.fix(node, pick)
            self.explore(branch)
