"""Costs that depend on the algorithms at both ends of an edge, such as the conversion between two layouts.

With them no node can be judged on its own: a weighted sum of time and energy becomes a partitioned Boolean quadratic
problem (`quadratic`), and every vertex of the lower hull of all (time, energy) sums is the solution of one of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Graph, NodeSpec, Value
from joulec.passes.search.choices import Options

Floats = npt.NDArray[np.float64]


@runtime_checkable
class EdgeCosts(Protocol):
    """What a cost source may offer beyond the costs of nodes."""

    def edge(
        self, spec_from: NodeSpec, choice_from: int, spec_to: NodeSpec, operand: int, choice_to: int
    ) -> tuple[float, float]:
        """Seconds and joules between a producer and the operand of a consumer that reads it, under two choices.

        Args:
            spec_from: the producer.
            choice_from: index among its options.
            spec_to: the consumer.
            operand: index among the consumer's operands.
            choice_to: index among its options.

        Returns:
            Infinite seconds and joules where the two choices do not go together.
        """


@runtime_checkable
class EdgeMatrices(Protocol):
    """What a cost source that remembers edges may offer beside `EdgeCosts`: one edge appears in thousands of graphs."""

    def matrix(self, spec_from: NodeSpec, spec_to: NodeSpec, operand: int) -> Floats:
        """`EdgeCosts.edge` of every pair of choices: [choices of the producer, choices of the consumer, 2]."""


@runtime_checkable
class EndCosts(Protocol):
    """What a cost source may offer for a graph's inputs and outputs, whose layout is given from outside."""

    def entry(self, spec: NodeSpec, operand: int, choice: int) -> tuple[float, float]:
        """Seconds and joules until an input of the graph is as the operand is read under the choice."""

    def exit(self, spec: NodeSpec, result: int, choice: int) -> tuple[float, float]:
        """Seconds and joules until a result under the choice is as an output of the graph is given."""


@dataclass(frozen=True)
class EdgeTable:
    """Costs of one edge: rows are the source's choices, columns the target's.

    The edges that join one node to the graph's inputs and outputs have it at both ends; their diagonal counts.

    Attributes:
        source: index of the producing node.
        target: index of the consuming node.
        seconds: seconds of each pair.
        joules: joules of each pair.
    """

    source: int
    target: int
    seconds: Floats
    joules: Floats


def edge_tables(graph: Graph, options: Sequence[Options], costs: object) -> tuple[EdgeTable, ...]:
    """The edges of a graph that cost something; none where the cost source knows of none.

    Args:
        graph: its nodes in the order of the options.
        options: per node, its algorithms.
        costs: the cost source, with `EdgeCosts` or without.
    """
    if not isinstance(costs, EdgeCosts):
        return ()
    return (*_between(graph, options, costs), *(_ends(graph, options, costs) if isinstance(costs, EndCosts) else ()))


def _ends(graph: Graph, options: Sequence[Options], costs: EndCosts) -> Iterator[EdgeTable]:
    inputs, outputs = set(graph.inputs), set(graph.outputs)
    for index, node in enumerate(graph.nodes):
        entries = [operand for operand, value in enumerate(node.operands) if value in inputs]
        exits = [result for result, value in enumerate(node.outputs) if value in outputs]
        if not entries and not exits:
            continue
        found = np.zeros((len(options[index]), 2))
        for choice in range(len(options[index])):
            found[choice] += sum(np.array(costs.entry(node.spec, operand, choice)) for operand in entries)
            found[choice] += sum(np.array(costs.exit(node.spec, result, choice)) for result in exits)
        if found.any():
            yield EdgeTable(index, index, np.diag(found[:, 0]), np.diag(found[:, 1]))


def _between(graph: Graph, options: Sequence[Options], costs: EdgeCosts) -> tuple[EdgeTable, ...]:
    index = {node: position for position, node in enumerate(graph.nodes)}
    remembered = costs.matrix if isinstance(costs, EdgeMatrices) else None
    tables = []
    for target, node in enumerate(graph.nodes):
        for operand, value in enumerate(node.operands):
            producer = graph.producers.get(value) if isinstance(value, Value) else None
            if producer is None:
                continue
            source = index[producer]
            if remembered is not None:
                found = remembered(producer.spec, node.spec, operand)
            else:
                sizes = len(options[source]), len(options[target])
                found = edge_matrix(costs, producer.spec, node.spec, operand, sizes)
            if found.any():
                tables.append(EdgeTable(source, target, found[..., 0], found[..., 1]))
    return tuple(tables)


def edge_matrix(
    costs: EdgeCosts, spec_from: NodeSpec, spec_to: NodeSpec, operand: int, sizes: tuple[int, int]
) -> Floats:
    """`EdgeCosts.edge` of every pair of choices, of which there are so many at both ends."""
    return np.array([[costs.edge(spec_from, i, spec_to, operand, j) for j in range(sizes[1])] for i in range(sizes[0])])
